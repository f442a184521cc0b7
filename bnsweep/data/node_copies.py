"""One copy of a data set for all workers of a machine: read once, mapped into each of them.

The first worker that needs a data set reads, checks and converts it, and leaves the result in a private
folder of the machine's temporary files; the others map that file, so that its pages exist once in
memory however many workers there are. A copy is named by all that decides its contents and by its own
SHA-256, which is checked whenever it is opened: a damaged one is made anew. Copies are removed once no
process has used them for an hour. Where the folder cannot be had, every worker reads for itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bnsweep.data.contents import Dataset
from bnsweep.data.loading import load_dataset
from bnsweep.names import DATASETS, DataFacts
from bnsweep.parameters import Value
from bnsweep.trial import short_hash

__all__ = ["UNUSED_SECONDS", "load_node_copy", "node_folder"]

UNUSED_SECONDS = 3600.0
"""How long a copy stays that no process holds."""

_SPLITS = ("train_x", "train_y", "test_x", "test_y")
_FORMAT = 1
_held: dict[Path, int] = {}  # open, with a shared lock, for as long as this process lives


def node_folder() -> Path:
    """Return where this user's copies lie on this machine."""
    return Path(tempfile.gettempdir()) / f"bnsweep-{os.geteuid()}-data"


def load_node_copy(
    name: str,
    parameters: Mapping[str, Value],
    *,
    root: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    fingerprint: str = "",
    folder: Path | None = None,
) -> Dataset:
    """Return a data set like :func:`~bnsweep.data.load_dataset`, shared with the machine's other processes.

    Args:
        name: As for :func:`~bnsweep.data.load_dataset`, like all that follow.
        parameters: Parameters of the trial.
        root: Folder of the data sets; not read where a copy is there.
        device: Where the tensors shall live; on the CPU they are pages of the file, private once written to.
        dtype: Floating dtype of the inputs.
        fingerprint: What the contents must hash to.
        folder: Where copies lie; :func:`node_folder` where absent.

    Returns:
        The data set, with the same bits.

    Raises:
        DataError: As for :func:`~bnsweep.data.load_dataset`.
    """
    place = folder or node_folder()
    known = fingerprint or (DATASETS[name].fingerprint if name in DATASETS else "")
    if known and _is_private(place):
        wanted = {key: parameters.get(key) for key in ("inputs", "features")}
        key = short_hash(
            {"format": _FORMAT, "name": name, "fingerprint": known, "dtype": str(dtype), **wanted}
        )
        with suppress(OSError), _alone(place):
            _remove_unused(place)
            found = _open(place, key)
            if found is None:
                _write(place, key, load_dataset(name, parameters, root=root, dtype=dtype, fingerprint=known))
                found = _open(place, key)
            if found is not None:
                return _on_device(name, found, device)
    return load_dataset(name, parameters, root=root, device=device, dtype=dtype, fingerprint=fingerprint)


def _is_private(place: Path) -> bool:
    """Make the folder where it is absent; whether it is a folder that nobody else can write to."""
    try:
        with suppress(FileExistsError):
            place.mkdir(mode=0o700)
        found = place.lstat()
    except OSError:
        return False
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not others


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Wait until no other process looks for a copy or makes one."""
    with (place / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_unused(place: Path) -> None:
    for path in (*place.glob("*.pt"), *place.glob("*.part")):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.suffix == ".part" or time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                path.unlink()


def _open(place: Path, key: str) -> Mapping[str, Any] | None:
    """Map a copy that verifies, and hold it; a damaged one is removed."""
    for path in place.glob(f"{key}.*.pt"):
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if hashlib.file_digest(file, "sha256").hexdigest()[:32] == path.name.split(".")[1]:
                content = torch.load(path, mmap=True, weights_only=True)
                os.utime(path)
                if path not in _held:
                    _held[path] = os.dup(file.fileno())  # the lock lasts as long as one of the two
                return dict(content)
        path.unlink(missing_ok=True)
    return None


def _write(place: Path, key: str, made: Dataset) -> None:
    """Leave a copy; it has its name once it is whole."""
    part = place / f"{os.getpid()}.part"
    try:
        torch.save({"facts": asdict(made.facts), **{split: getattr(made, split) for split in _SPLITS}}, part)
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
        part.replace(place / f"{key}.{digest}.pt")
    except (OSError, RuntimeError):  # no room, as the file system or torch says it
        raise OSError("no copy could be left") from None
    finally:
        part.unlink(missing_ok=True)


def _on_device(name: str, found: Mapping[str, Any], device: torch.device | str) -> Dataset:
    tensors = [found[split].to(device) for split in _SPLITS]
    return Dataset(name, DataFacts(**found["facts"]), *tensors)
