"""What hands out units of work to the workers of Ray Tune, and takes them back from those that are lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from bnsweep.errors import LedgerError

from .gpu_types import GpuPlaces
from .messages import Progress, unit_key
from .source import Source, Unit

__all__ = ["PackSearcher"]

CHUNK_SECONDS = 20.0
"""Tune hands the actor of a very short trial to the next one and cancels the one still starting, so
that a sweep of short packs ends up on one worker; a Tune trial therefore carries packs for about
this long."""

MAX_LOSSES = 3

LONGEST_PAUSE = 60.0
"""Seconds between two losses of workers in a row and the next try, at most; they double from 1."""


class PackSearcher(Searcher):
    """Hands out units of work, and hands out again those whose worker was lost.

    Args:
        source: What is to be done.
        workers: Number of workers that share it.
        supply: Called when units have become ready that workers may be held for.
        halt: Called when nothing more is to be done, before the workers are ended.
        clock: Reads the seconds that pauses are counted in.
        places: What says which type of GPU has room, where units are for one each.

    Attributes:
        broken: What the ledger refused the driver; nothing more is handed out then.
        stepping: Whether Tune is in one of its steps.
        started: Ids of the trials of Tune that are with a worker.
    """

    def __init__(
        self,
        source: Source,
        workers: int,
        supply: Callable[[], None] = lambda: None,
        halt: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        places: GpuPlaces | None = None,
    ) -> None:
        super().__init__(metric="progress", mode="max")
        self.source, self.workers, self.supply, self.halt, self.clock = source, workers, supply, halt, clock
        self.places = places
        self.broken: LedgerError | None = None
        self._lost_in_a_row, self._not_before = 0, 0.0
        self.left: list[Unit] = []
        self.live: dict[str, dict[str, Unit]] = {}
        self.losses: dict[str, list[int]] = {}
        self.steps: dict[str, int] = {}
        self.abandoned: list[Progress] = []
        self.durations: list[float] = []
        self.supplies = 0
        self.stepping = False
        self.started: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the actor's handle where Tune pickles what it was given: Ray keeps a copied handle."""
        return {**self.__dict__, "supply": None, "halt": None}

    @property
    def idle(self) -> bool:
        """Whether nothing is at work and nothing is left."""
        return not self.left and not any(self.live.values())

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next units; ``None`` while a lost one could come back, and in the pause after losses."""
        try:
            self._restock()
        except LedgerError as error:
            self.broken = error
        if self.broken or self.source.given_up:
            self.left.clear()
            return None if self.live else Searcher.FINISHED
        if self.left and self.clock() < self._not_before:
            return None
        if not self.left and not self.source.expecting:
            return None if self.live else Searcher.FINISHED
        where, suited = {}, self.left
        if self.places:
            gpu = self.places.choose(self.left, self.live)
            if gpu is None:
                return None
            self.places.note(trial_id, gpu)
            where, suited = {"gpu": gpu}, self.places.suited(self.left, gpu)
        count = min(self._chunk(), -(-len(suited) // self.workers))
        units = suited[:count]
        self.live[trial_id] = {unit_key(unit): unit for unit in units}
        if suited is self.left:
            self.left = self.left[count:]
        else:
            taken = set(map(id, units))
            self.left = [unit for unit in self.left if id(unit) not in taken]
        return {"units": units, **where} if units else {"units": [], "hold": self.supplies, **where}

    def _restock(self) -> None:
        more = self.source.ready(self.workers)
        self.left += more
        if more:
            self.supplies += 1
            self.supply()
        gone = self.places.unmeasurable(self.left) if self.places and self.source.expecting else []
        for unit in gone:
            self.left.remove(unit)
            self.abandoned.append(self.source.lost(unit, f"no machine with a {unit['gpu']} is left"))
        if gone:
            self._restock()  # packs may have waited for these alone

    def _chunk(self) -> int:
        if not self.durations:
            return 1
        typical = sorted(self.durations)[len(self.durations) // 2]
        return max(1, int(CHUNK_SECONDS / max(typical, 1e-3)))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Forget a finished suggestion; a lost one is dealt with by :meth:`lost`, which knows the cause."""
        if not error:
            self.live.pop(trial_id, None)
            self.started.discard(trial_id)

    def lost(self, trial_id: str, cause: str) -> None:
        """Take back the unfinished units of a lost worker.

        A worker that went down with its machine says nothing about its units. One that ended by itself
        counts against the unit that it was at, the first, where that made no progress since the last time:
        three deaths at one step are the unit's own fault. The more are lost without any progress, the longer
        is the pause before the next is handed out.
        """
        self._lost_in_a_row += 1
        if self.places:
            self.places.forget()
        pause = min(LONGEST_PAUSE, 2.0 ** min(self._lost_in_a_row - 1, 16) - 1.0)
        self._not_before = self.clock() + pause
        self.started.discard(trial_id)
        for position, (key, unit) in enumerate(self.live.pop(trial_id, {}).items()):
            if position == 0 and not _machine_lost(cause):
                deaths = self.losses.setdefault(key, [])
                deaths.append(self.steps.get(key, 0))
                if deaths[-MAX_LOSSES:] == [deaths[-1]] * MAX_LOSSES:
                    reason = f"its worker ended {MAX_LOSSES} times without a word: {cause}"
                    self.abandoned.append(self.source.lost(unit, reason))
                    continue
            self.left.append(unit)
        self._restock()
        self.supplies += 1
        self.supply()  # what was lost may be for those who wait

    def stuck(self) -> bool:
        """Whether nothing is at work, and what was handed out waits for a type of GPU of which none comes.

        It is then taken back, for workers with others.
        """
        waiting = self.live.keys() - self.started
        if not self.places or not waiting or any(map(self.live.get, self.started)):
            return False
        if not self.places.give_up(waiting):
            return False
        for units in self.live.values():
            self.left += units.values()
        self.live.clear()
        self.started.clear()
        return True

    def stands(self, progress: Progress) -> None:
        """Note how far a unit is."""
        if progress.step > self.steps.get(progress.pack_id, 0):
            self._lost_in_a_row = 0
        self.steps[progress.pack_id] = progress.step

    def finished(self, trial_id: str, progress: Progress) -> None:
        """Note that a unit of a suggestion has ended."""
        unit = self.live.get(trial_id, {}).pop(progress.pack_id, None)
        if unit is None:
            return
        self._lost_in_a_row = 0
        if "pack" in unit:
            self.durations.append(progress.seconds)
        expecting = self.source.expecting
        self.source.finished(unit, progress)
        self._restock()
        if expecting and not self.source.expecting:
            self.supplies += 1
            self.supply()  # there may be nothing for those who wait

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger knows what is left.

        Outside its steps Tune calls this when it is done or was stopped: workers in a long step are told
        then, since it waits for them for ten seconds only.
        """
        if not self.stepping:
            self.halt()

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a run always starts from the ledger."""


def _machine_lost(cause: str) -> bool:
    """Tell whether a worker ended because its machine did, as Ray says it."""
    words = ("node has died", "node was", "node is dead", "preempt", "drain")
    return any(word in cause.lower() for word in words)
