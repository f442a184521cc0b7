"""What travels between the driver and its workers: what a worker has to know, and where it stands."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bnsweep.trial import TrialConfig

__all__ = ["Progress", "WorkerContext", "unit_key"]


@dataclass(frozen=True)
class WorkerContext:
    """What a worker has to know, as plain values.

    Attributes:
        ledger: The sweep's folder.
        data_root: Where data sets lie, or ``None`` for the default place.
        threads: Threads of one operator.
        checkpoint_seconds: Wall time between two checkpoints of a pack.
        import_path: Folder in which the user's own norms are looked for.
        neighbours: Workers that share a machine, this one included.
        keep_states: Keep what is needed to train a finished trial to more steps.
        save_weights: Store the final weights of each trial.
        step_limit: Seconds that one step may take; ``None`` derives it, see :mod:`.watchdog`.
        epoch: Epoch of the driver's lease, without which nothing is fenced; see :meth:`Ledger.serve`.
    """

    ledger: str
    data_root: str | None = None
    threads: int = 1
    checkpoint_seconds: float = 30.0
    import_path: str = ""
    neighbours: int = 1
    keep_states: bool = False
    save_weights: bool = False
    step_limit: float | None = None
    epoch: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a worker stands with one pack: what a runner shows and schedules by.

    Attributes:
        pack_id: The pack, or another unit of work: see :func:`unit_key`.
        members: Trials in the pack.
        step: Steps made.
        steps: Steps in all.
        finished: Whether the pack's records are in the ledger.
        seconds: Wall time spent on the pack by this worker.
        states: Trials by state, once finished.
        error: Last line of the traceback, if the pack failed.
        paused: Why the worker waits, where the storage takes nothing just now; nothing failed.
        too_large: Whether the pack does not fit in memory, and has to be divided; nothing failed.
        retry: Whether the pack failed, and its members have to be tried once more, each alone.
        value: The condition's objective, where the pack waits at a rung for a decision.
        from_step: Step at which this worker took the pack up.
        note: A sentence for people, where the worker has one.
        host: The worker's machine.
        pid: The worker's process.
        peak_mb: The most memory that process has held so far, in MB.
    """

    pack_id: str
    members: int
    step: int
    steps: int
    finished: bool = False
    seconds: float = 0.0
    states: dict[str, int] = field(default_factory=dict)
    error: str = ""
    paused: str = ""
    too_large: bool = False
    retry: bool = False
    value: float | None = None
    from_step: int = 0
    note: str = ""
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    peak_mb: float = field(default_factory=lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, which travels through Ray without this class."""
        return asdict(self)


def unit_key(unit: Mapping[str, Any]) -> str:
    """Return what tells a unit of work from every other: a pack's id, or ``calibration.<signature>``.

    Where a cluster has several types of GPU, that of a calibration follows.
    """
    if "pack" in unit:
        return str(unit["pack"])
    signature = TrialConfig.from_dict(unit["calibrate"]["trial"]).signature
    return ".".join(filter(None, ("calibration", signature, unit.get("gpu"))))
