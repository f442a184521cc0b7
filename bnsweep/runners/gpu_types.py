"""Clusters with several types of GPU: packs made for each, and handed to its workers first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from bnsweep.sweep.forecast import Measured

from .source import Unit

__all__ = ["GpuPlaces", "GpuType"]

LOOK_SECONDS = 1.0
"""How long what was seen of the cluster holds."""

WAIT_SECONDS = 120.0
"""How long what is handed out may wait for a type of GPU, while nothing is at work, before others get it."""

AVOID_SECONDS = 600.0
"""How long such a type is then asked for nothing."""


@dataclass(frozen=True)
class GpuType:
    """A type of GPU, and what was measured on it.

    Attributes:
        name: As Ray names it; empty for any.
        workers: Workers that have one, at the start.
        measured: Its calibrations.
    """

    name: str
    workers: int
    measured: Measured


class GpuPlaces:
    """Says for which type of GPU there is room, and what its worker is given.

    A worker is given what was made for its type. Where nothing of that is left it takes packs of
    another, the shortest first, rather than idle; one that is too large for it is divided as any is.
    A calibration is for its type alone.

    Args:
        look: Counts the workers that fit on the machines there are, by type.
        clock: Reads seconds.
    """

    def __init__(self, look: Callable[[], Mapping[str, int]], clock: Callable[[], float]) -> None:
        self._look, self._clock = look, clock
        self._seen: Mapping[str, int] = {}
        self._until = float("-inf")
        self._of: dict[str, tuple[str, float]] = {}
        self._avoided: dict[str, float] = {}

    def give_up(self, waiting: Collection[str]) -> bool:
        """Tell whether to leave what trials of Tune wait for to other types, and avoid theirs for a while.

        That is so where other types have machines, and no machine of these types is left, or none was
        free for long: another job may have them.

        Args:
            waiting: Ids of trials of Tune that have come to no worker.
        """
        types = {self._of[trial_id][0] for trial_id in waiting}
        since = max(self._of[trial_id][1] for trial_id in waiting)
        gone = not any(gpu in self._places for gpu in types)
        if not self._places.keys() - types or not (gone or self._clock() - since > WAIT_SECONDS):
            return False
        self._avoided |= dict.fromkeys(types, self._clock() + AVOID_SECONDS)
        self.forget()
        return True

    def forget(self) -> None:
        """Look again at the next question: a machine may be gone."""
        self._until = float("-inf")

    @property
    def _places(self) -> Mapping[str, int]:
        if self._clock() >= self._until:
            now, found = self._clock(), self._look()
            self._seen = {gpu: count for gpu, count in found.items() if self._avoided.get(gpu, now) <= now}
            self._until = now + LOOK_SECONDS
        return self._seen

    def unmeasurable(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the calibrations of types of which no machine is left."""
        asked = [unit for unit in units if "calibrate" in unit]
        return [unit for unit in asked if unit["gpu"] not in self._places] if asked else []

    def choose(self, units: Sequence[Unit], live: Collection[str]) -> str | None:
        """Return the type that the next worker is asked for; ``None`` where all places are taken.

        Args:
            units: What is left.
            live: Ids of the trials of Tune that are at work.
        """
        taken = Counter(self._of[trial_id][0] for trial_id in live)
        free = {gpu: count - taken[gpu] for gpu, count in self._places.items() if count > taken[gpu]}
        own = {str(unit.get("gpu", "")) for unit in units}
        return max(free, key=lambda gpu: (gpu in own, free[gpu]), default=None)

    def suited(self, units: Sequence[Unit], gpu: str) -> list[Unit]:
        """Return what a worker with a GPU of this type may do, in order."""
        own = [unit for unit in units if unit.get("gpu", gpu) == gpu]
        return own or [unit for unit in reversed(units) if "pack" in unit]

    def note(self, trial_id: str, gpu: str) -> None:
        """Note for which type a trial of Tune was made."""
        self._of[trial_id] = gpu, self._clock()
