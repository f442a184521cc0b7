"""What calibrations say of a sweep: its packs, and the time, memory and disk that it takes."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnsweep.names import DEFAULT_KERNEL
from bnsweep.sweep.packs import Pack, make_packs
from bnsweep.trial import TrialConfig

__all__ = ["Forecast", "Measured", "reading_steps"]

PACK_SIZE = 16
"""Most members of a pack of which nothing was measured."""


def reading_steps(trial: TrialConfig) -> dict[str, list[int]]:
    """Return the steps at which a trial is read, by what takes the reading.

    Returns:
        Keys ``evaluation``, ``training`` and every probe.

    Example:
        >>> trial = TrialConfig.create({"steps": 5, "eval_every": 3, "log_every": 2})
        >>> reading_steps(trial)
        {'evaluation': [0, 3, 5], 'training': [0, 2, 4]}
    """
    steps = int(trial.parameters["steps"])
    evaluation = [*range(0, steps, int(trial.parameters["eval_every"])), steps]
    training = sorted({*range(0, steps, int(trial.parameters["log_every"])), steps - 1})
    probes = {name: [*range(0, steps, int(options["every"]))] for name, options in trial.probes.items()}
    return {"evaluation": evaluation, "training": training, **probes}


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take.

    Attributes:
        packs: Packs to train, and the members of the largest.
        workers: Workers at once.
        seconds: Wall time of training, from the first step to the last record; ``None`` where a
            signature was not measured.
        worker_bytes: Resident memory of one worker at its highest; ``None`` likewise.
        ledger_bytes: What the trials' records and curves take on disk, and what is kept beside them;
            ``None`` likewise.
    """

    packs: Sequence[Pack]
    workers: int
    seconds: float | None
    worker_bytes: int | None
    ledger_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        packs = [pack.to_dict() | {"pack_id": pack.pack_id} for pack in self.packs]
        return {**vars(self), "packs": packs}


class Measured:
    """The calibrations of a type of device.

    Args:
        calibration: Returns what is stored of a signature, or ``None``.
        pack_size: Most members of a pack where the user says so.
        kernel: How packs are computed where the user says so.
        stackable: Whether a trial can share a pack with others.
        kept: What is kept of a finished trial: ``state_bytes``, ``weight_bytes``.
    """

    def __init__(
        self,
        calibration: Callable[[str], Mapping[str, Any] | None],
        *,
        pack_size: int | None = None,
        kernel: str | None = None,
        stackable: Callable[[TrialConfig], bool] = lambda _: True,
        kept: Sequence[str] = (),
    ) -> None:
        self._kept = kept
        self._calibration, self._known = calibration, dict[str, Mapping[str, Any] | None]()
        self._pack_size, self._kernel, self._stackable = pack_size, kernel, stackable

    @property
    def decided(self) -> bool:
        """Whether the user's file decides everything that a calibration would."""
        return self._pack_size is not None and self._kernel is not None

    @property
    def limit(self) -> int | None:
        """The most members of a pack where the user says so."""
        return self._pack_size

    def of(self, trial: TrialConfig) -> Mapping[str, Any] | None:
        """Return what is stored of a trial's signature, or ``None``."""
        signature = trial.signature
        if self._known.get(signature) is None:
            self._known[signature] = self._calibration(signature)
        return self._known[signature]

    def size(self, trial: TrialConfig) -> int:
        """Return the most members of a pack."""
        if not self._stackable(trial):
            return 1
        if self._pack_size is not None:
            return self._pack_size
        found = self.of(trial)
        return int(found["members"]) if found else PACK_SIZE

    def kernel(self, trial: TrialConfig) -> str:
        """Return how packs are computed."""
        found = self.of(trial)
        return self._kernel or (str(found["kernel"]) if found else DEFAULT_KERNEL)

    def cost(self, trial: TrialConfig) -> float:
        """Return the seconds that a member takes in a full pack, or the steps where nothing is measured."""
        size = self.size(trial)
        seconds = self.pack_seconds(trial, size)
        return float(trial.parameters["steps"]) * 1e-3 if seconds is None else seconds / size

    def pack_seconds(self, trial: TrialConfig, members: int) -> float | None:
        """Return the wall time of a pack in which no trial diverges; ``None`` where nothing was measured."""
        found = self.of(trial)
        if found is None:
            return None
        events = reading_steps(trial)
        share = members / int(found["members"])
        seconds = share * float(found["build_seconds"]) + members * float(found["commit_seconds"])
        seconds += int(trial.parameters["steps"]) * _interpolate(found["step_seconds"], members)
        seconds += share * len(events["evaluation"]) * float(found["evaluation_seconds"])
        for name, once in found["probe_seconds"].items():
            seconds += share * len(events[name]) * float(once)
        return seconds

    def packs(self, trials: Sequence[TrialConfig], workers: int, device: str) -> list[Pack]:
        """Divide trials among packs; see :func:`~bnsweep.sweep.packs.make_packs`."""
        return make_packs(trials, self.size, workers, cost_of=self.cost, device=device, kernel_of=self.kernel)

    def forecast(self, trials: Sequence[TrialConfig], workers: int, device: str) -> Forecast:
        """Say what training ``trials`` is expected to take on ``workers`` like the one that was measured."""
        by_id = {trial.trial_id: trial for trial in trials}
        packs = self.packs(trials, workers, device)
        ends, seconds = [0.0] * max(1, workers), 0.0
        peak = disk = 0
        for pack in packs:
            first = by_id[pack.members[0]]
            found, each = self.of(first), self.pack_seconds(first, len(pack.members))
            if found is None or each is None or not found.keys() >= set(self._kept):
                return Forecast(packs, workers, None, None, None)
            seconds = max(seconds, ends[0] + each)
            heapq.heapreplace(ends, ends[0] + each)
            peak = max(peak, int(found["process_bytes"]))
            disk += len(pack.members) * sum(int(found[name]) for name in ("trial_bytes", *self._kept))
        return Forecast(packs, workers, seconds, peak, disk)


def _interpolate(measured: Mapping[str, float], members: int) -> float:
    """Return the time of a step of ``members``: linear between measured sizes, in proportion beyond."""
    known = sorted((int(size), float(seconds)) for size, seconds in measured.items())
    sizes = [size for size, _ in known]
    place = bisect_left(sizes, members)
    if place == len(known):
        size, seconds = known[-1]
        return seconds * members / size
    size, seconds = known[place]
    if size == members or place == 0:
        return seconds
    low, before = known[place - 1]
    return before + (seconds - before) * (members - low) / (size - low)
