"""What must hold on all machines of a cluster before a sweep is written, judged by what they answer."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bnsweep.errors import BnsweepError, StorageError
from bnsweep.sweep.places import ObjectPath, Place, place
from bnsweep.tracking.uris import sqlite_path
from bnsweep.trial import TrialConfig

from . import node_probe
from .machine import Node

__all__ = ["check_data", "check_shared", "check_storage", "check_versions", "no_place", "table"]

Answers = Mapping[str, Mapping[str, Any]]
"""What machines said, by node; see :func:`~bnsweep.runners.node_probe.look_around`."""

Look = Callable[[Mapping[str, Any]], Answers]
"""Asks every machine; takes the request."""

SEEN_SECONDS = 5.0
"""How long what another machine has written may take to be seen here; network disks cache folders."""

_EMBEDDED = ("digits", "gaussian")


def check_versions(answers: Answers) -> None:
    """Compare Python and packages of every node with the driver's.

    Args:
        answers: What nodes said, by node.

    Raises:
        BnsweepError: With a table, if one differs.
    """
    own = node_probe.look_around({"packages": node_probe.PACKAGES})
    rows = _differences(own, list(answers.values()))
    if rows:
        raise BnsweepError(
            "Every machine must run the same versions as the driver, but these differ:\n"
            f"{table(rows)}\nInstall the same constraints.txt on all of them, or use one image."
        )


def check_storage(look: Look, storage: str, uri: str | None) -> None:
    """Refuse folders of results and of a SQLite store that workers do not share with the driver.

    Args:
        look: Asks every machine.
        storage: Folder of results.
        uri: Tracking store.

    Raises:
        BnsweepError: Naming the nodes, and what to do.
    """
    check_shared(look, _absolute(storage, "storage"), "The folder of results")
    file = sqlite_path(uri) if uri else None
    if file is not None and str(file.parent) != storage:
        check_shared(look, _absolute(str(file.parent), "tracking.uri"), "The folder of the SQLite store")


def check_shared(look: Look, folder: Place, what: str) -> None:
    """Refuse a folder that some worker does not share with the driver, or a store it cannot use.

    A file is written here, read there and answered; nothing is left behind.

    Args:
        look: Asks every machine.
        folder: The folder; made if absent. Or a place in a store.
        what: What it is for, for the message.

    Raises:
        BnsweepError: Naming the nodes, and what to do.
        StorageError: If the store does not answer here.
    """
    made = []
    if isinstance(folder, Path):
        made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    probe = folder / f".bnsweep-probe-{secrets.token_hex(8)}"
    nonce = secrets.token_hex(16)
    try:
        try:
            probe.mkdir(parents=True)
            (probe / "driver").write_text(nonce)
            if isinstance(probe, ObjectPath) and (probe / "driver").create(b"again"):
                raise BnsweepError(
                    f"The store at {folder} must keep what is there when it is told to (If-None-Match), "
                    "but it wrote over it: two drivers could not be kept apart. Use another store."
                )
        except StorageError:
            raise
        except OSError as error:
            raise BnsweepError(
                f"{what} must be writable, but writing in {folder} failed: {error.strerror or error}. "
                "Mend the permissions or choose another folder."
            ) from error
        bad = _unshared(look, probe, nonce)
    finally:
        if isinstance(probe, ObjectPath):
            with suppress(OSError):
                probe.remove_all()
        else:
            shutil.rmtree(probe, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
    if bad:
        raise BnsweepError(
            f"{what} must be shared by all machines of the cluster, but {folder} is not: "
            f"{'; '.join(bad)}. Use a folder that every machine mounts (NFS), or s3://BUCKET/PREFIX for "
            "results and an MLflow server for tracking."
        )


def _unshared(look: Look, probe: Place, nonce: str) -> list[str]:
    answers = look({"folder": str(probe), "nonce": nonce})
    bad = [f"{answer['host']} says {answer['shared']}" for answer in answers.values() if answer["shared"]]
    if bad:
        return bad
    until = time.monotonic() + SEEN_SECONDS
    for node, answer in answers.items():
        while not (probe / node).exists() and time.monotonic() < until:
            time.sleep(0.1)
        if not (probe / node).exists():
            bad.append(f"what {answer['host']} writes there is not seen here")
    return bad


def check_data(look: Look, root: str | None, trials: Sequence[TrialConfig]) -> None:
    """Refuse a data root that some machines have and others lack.

    Args:
        look: Asks every machine.
        root: The folder, or ``None`` where none is named.
        trials: What will read it.

    Raises:
        BnsweepError: Naming those that lack it.
    """
    if root is None or all(str(trial.parameters["dataset"]) in _EMBEDDED for trial in trials):
        return
    answers = look({"data_root": root}).values()
    lacking = sorted(answer["host"] for answer in answers if not answer["data"])
    if lacking and len(lacking) < len(answers):
        raise BnsweepError(
            f"The data must lie at one place on every machine, but {root} is absent on "
            f"{', '.join(lacking)}. Mount it there, or name a folder that all machines share in "
            "data_root or $BNSWEEP_DATA."
        )


def _absolute(folder: str, key: str) -> Place:
    """Return a folder that means the same on every machine, or a place in a store."""
    path = place(folder)
    if isinstance(path, Path) and not path.is_absolute():
        raise BnsweepError(
            f"{key} must be an absolute folder that all machines share, or s3://BUCKET/PREFIX, but found "
            f"{folder}. Name it in the file, with --storage, or in $BNSWEEP_STORAGE on the cluster's "
            "machines."
        )
    return path


def no_place(cpus: float, gpus: float, nodes: Sequence[Node], grows: bool = False) -> str:
    """Say that no machine is large enough for one worker, and what the machines have."""
    asked = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
    rows = [("machine", "CPUs", "GPUs")]
    rows += [
        (node.host, f"{node.cpus:g}", f"{node.gpus:g}{' ' + node.gpu if node.gpu else ''}") for node in nodes
    ]
    more = " and the autoscaler has no larger kind" if grows else ""
    return (
        f"One worker must fit on one machine, but resources ask for {asked}, and no machine has that{more}:\n"
        f"{table(rows)}\nAsk for less, or add a larger machine."
    )


def _differences(own: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a table of what differs between the driver and the nodes; empty where nothing does."""
    everyone = [own, *answers]
    rows = [("", "driver", *(str(answer["host"]) for answer in answers))]
    values = {"python": [one["python"] for one in everyone]}
    for name in own["packages"]:
        values[name] = [one["packages"][name].partition("+")[0] for one in everyone]
    values["bnsweep"] = [one["source"] or "absent" for one in everyone]
    rows += [(name, *found) for name, found in values.items() if len(set(found)) > 1]
    return rows if len(rows) > 1 else []


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines with aligned columns.

    Example:
        >>> print(table([("a", "bb"), ("ccc", "d")]))
          a    bb
          ccc  d
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"  {line.rstrip()}" for line in lines)
