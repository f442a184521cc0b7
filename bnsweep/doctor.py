"""Looks whether a sweep could run: Ray, versions, room, storage, tracking, data, disks and clocks.

Every question is put by the function that a run puts it by; here the answers are collected instead of
stopping at the first that is bad. Nothing is started or left behind.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError
from bnsweep.execution import data_folder, device_type
from bnsweep.lookup import Source, load, storage_folder
from bnsweep.matching import HERE, one_of_each, refuse_unprepared, tracking_of
from bnsweep.sweep import SweepSpec, make_plan
from bnsweep.sweep.places import Place
from bnsweep.sweep.plan import kinds_of_trials
from bnsweep.where import Where, join

if TYPE_CHECKING:
    from bnsweep.runners.cluster import Cluster

__all__ = ["Finding", "examine", "exit_code_of", "tried"]

PATIENCE = 60.0
"""Seconds to wait for a free place of a worker; what cannot be looked at then is said to be skipped."""

LEAST_FREE = 2**30
"""Bytes that must be free for temporary files on every machine, and where results lie."""

MOST_SECONDS_APART = 60.0
"""Seconds by which clocks may differ: beyond it times mislead, and beyond 900 S3 refuses requests."""


@dataclass(frozen=True)
class Finding:
    """What one look has found.

    Attributes:
        what: What was looked at.
        state: ``ok``, ``problem`` or ``skipped``.
        text: What was found; for a problem, what must hold and what to do.
        exit_code: 0, or that of the problem.
    """

    what: str
    state: str
    text: str
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dict(vars(self))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Finding:
        """Return the finding that :meth:`to_dict` has written."""
        return cls(
            str(content["what"]), str(content["state"]), str(content["text"]), int(content["exit_code"])
        )


def exit_code_of(findings: list[Finding]) -> int:
    """Return 0 where nothing is wrong, 4 where a service does not answer, else 2."""
    codes = {finding.exit_code for finding in findings}
    return 4 if 4 in codes else max(codes, default=0)


def tried(what: str, look: Callable[[], str]) -> Finding:
    """Return what a look has found; our errors are problems, no patience left means skipped."""
    try:
        return Finding(what, "ok", look())
    except TimeoutError as error:
        return Finding(what, "skipped", f"{error}; a run looks at it when there is one")
    except BnsweepError as error:
        return Finding(what, "problem", str(error), error.exit_code)


def examine(
    source: Source | None = None,
    *,
    where: Where = HERE,
    storage: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Finding]:
    """Look whether a sweep could run, on this machine or on a cluster that this machine belongs to.

    Args:
        source: A sweep file, its content, or a spec; without one, what every sweep needs is looked at.
        where: On which cluster; this machine by default.
        storage: Folder of results, instead of the file's.
        say: Called with sentences for people.

    Yields:
        The findings, each as soon as it is known.
    """
    spec: SweepSpec | None = None
    if source is not None:
        try:
            spec = load(source)
            plan = make_plan(spec)
            refuse_unprepared(plan)
        except BnsweepError as error:
            yield Finding("file", "problem", str(error), error.exit_code)
            return
        yield Finding("file", "ok", f"{plan.name}: {plan.count} trials")
    with ExitStack() as stack:
        visit: _Visit | None = None
        try:
            visit = _Visit(spec, stack.enter_context(_joined(spec, where, say)), where.cluster is not None)
        except BnsweepError as error:
            yield Finding("ray", "problem", str(error), error.exit_code)
        else:
            yield tried("ray", visit.ray)
        yield from _looks(visit, spec, storage)


def _joined(spec: SweepSpec | None, where: Where, say: Callable[[str], None]) -> AbstractContextManager[Any]:
    """Join the cluster, with this package for its machines, or start a Ray of this machine's for a while."""
    if where.cluster is not None:
        return join(spec, where.cluster, where.insecure, say, PATIENCE)
    from bnsweep.runners.joining import alone

    return alone(say, PATIENCE)


def _looks(visit: _Visit | None, spec: SweepSpec | None, storage: str | None) -> Iterator[Finding]:
    """Yield what follows on Ray; without it, what this process can look at alone."""
    try:
        folder = storage_folder(spec, storage)
    except BnsweepError as error:
        yield Finding("storage", "problem", str(error), error.exit_code)
        return
    if isinstance(folder, Path) and (visit is None or not visit.several):
        folder = folder.resolve()
    uri = tracking_of(spec, folder)
    if visit is None:
        yield Finding("machines", "skipped", "Ray must be there first")
        yield _tracking(uri)
        return
    there = True
    for what, look in visit.looks(folder, uri).items():
        found = tried(what, look) if there else Finding(what, "skipped", "a worker must find room first")
        there = there and (found.state == "ok" or what not in ("room", "machines"))
        yield found
    if spec is None:
        yield Finding("data", "skipped", "name a sweep file to have its data and networks looked at")
    yield _tracking(uri)


def _tracking(uri: str | None) -> Finding:
    from bnsweep.runners.access import plain_text_warning
    from bnsweep.tracking import try_store

    if uri is None:
        return Finding("tracking", "ok", "the file says none")
    warning = plain_text_warning(uri)
    return tried("tracking", lambda: try_store(uri) + (f"; warning: {warning}" if warning else ""))


class _Visit:
    """Looks at a cluster, which may be a Ray of this machine's alone.

    Args:
        spec: The sweep, or ``None``.
        cluster: What this process has joined.
        several: Whether it may have several machines.
    """

    def __init__(self, spec: SweepSpec | None, cluster: Cluster, several: bool) -> None:
        self.spec, self.cluster, self.several = spec, cluster, several
        self.cpus, self.gpus = (spec.resources.cpus, spec.resources.gpus) if spec else (1.0, 0.0)
        self._answers: dict[str, dict[str, Any]] = {}
        self._asked = self._answered = 0.0

    def looks(self, folder: Place, uri: str | None) -> dict[str, Callable[[], str]]:
        """Return the looks that need a worker, by name; the first two must go well for the others."""
        spec = self.spec
        return {
            "room": self.room,
            "machines": self.machines,
            "versions": self.versions,
            "clocks": self.clocks,
            "disk": lambda: self.disk(folder),
            "storage": lambda: self.storage(folder, uri),
            **({"data": lambda: self.data(spec)} if spec else {}),
        }

    def ray(self) -> str:
        """Say which Ray this is."""
        from importlib import metadata

        version, nodes = metadata.version("ray"), self.cluster.nodes
        if not self.several:
            return f"Ray {version} starts on this machine"
        machines = "1 machine" if len(nodes) == 1 else f"{len(nodes)} machines"
        return f"Ray {version} at {self.cluster.address}: {machines}, joined"

    def room(self) -> str:
        """Look whether a worker fits on a machine."""
        if self.spec and device_type(self.spec) == "cuda" and not self.gpus:
            raise BnsweepError("resources.gpus must be > 0 where resources.device is cuda, but found 0.")
        self.cluster.check_place(self.cpus, self.gpus)
        self.cluster.await_place()
        asked = f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
        slots, grows = self.cluster.slots(self.cpus, self.gpus), self.cluster.grows
        more = "; the cluster grows, and kinds of machines that are not up now are not seen" if grows else ""
        return f"a worker of {asked} fits; places now: {slots}{more}"

    def machines(self) -> str:
        """Ask every machine that takes workers what it has."""
        self._asked = time.time()
        self._answers = self.cluster.look()
        self._answered = time.time()
        return f"{', '.join(sorted(str(one['host']) for one in self._answers.values()))} answered"

    def versions(self) -> str:
        """Look whether versions are the same everywhere."""
        from bnsweep.runners import admission

        answers = self._answers
        admission.check_versions(answers)
        first = next(iter(answers.values()))
        shown = ", ".join(f"{name} {first['packages'][name]}" for name in ("torch", "ray", "mlflow"))
        return f"Python {first['python']}, {shown} on every machine ({len(answers)})"

    def storage(self, folder: Place, uri: str | None) -> str:
        """Let every machine write where results will lie, and read it back here."""
        from bnsweep.runners import admission
        from bnsweep.sweep.ledger import Ledger

        admission.check_storage(self.cluster.look, str(folder), uri)
        if self.spec and not (folder / self.spec.name / "ledger.json").is_file():
            Ledger.check_place(folder / self.spec.name)
        return f"{folder} was written by every worker's machine and read here"

    def data(self, spec: SweepSpec) -> str:
        """Load the data and build the networks where a worker will."""
        kinds = one_of_each(kinds_of_trials(spec))
        found = self.cluster.preflight(kinds, data_folder(spec))
        self.cluster.check_gpus(self.gpus, found)
        names = sorted({str(trial.parameters["dataset"]) for trial in kinds})
        return f"{', '.join(names)} loads and {len(kinds)} kinds of networks build on a worker"

    def disk(self, folder: Place) -> str:
        """Look how much is free on every machine, and where results lie."""
        free = {f"{one['host']} for temporary files": int(one["free"]) for one in self._answers.values()}
        if isinstance(folder, Path):
            there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
            free[f"the disk of {folder}"] = shutil.disk_usage(there).free
        small = [f"{name} {size / 2**30:.1f} GiB" for name, size in free.items() if size < LEAST_FREE]
        if small:
            raise BnsweepError(
                f"{LEAST_FREE / 2**30:.0f} GiB must be free, but there is left: {', '.join(small)}. Make "
                "room, or name a larger disk in TMPDIR or storage."
            )
        return f"at least {min(free.values()) / 2**30:.0f} GiB are free everywhere"

    def clocks(self) -> str:
        """Look whether the machines' clocks agree with this one, as far as an answer's travel permits."""
        apart = {
            str(one["host"]): max(one["time"] - self._answered, self._asked - one["time"], 0.0)
            for one in self._answers.values()
        }
        wrong = [
            f"{host} by {seconds:.0f} s" for host, seconds in apart.items() if seconds > MOST_SECONDS_APART
        ]
        if wrong:
            raise BnsweepError(
                f"Clocks must agree within {MOST_SECONDS_APART:.0f} s, but they differ from this machine's: "
                f"{', '.join(wrong)}. Run a time service (chrony) on every machine."
            )
        return f"they agree within {MOST_SECONDS_APART:.0f} s"
