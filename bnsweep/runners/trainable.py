"""A worker of Ray Tune: trains the packs that it is given, and says where it stands."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import tune

from .barrier import answer, find_barrier
from .messages import WorkerContext
from .work import PackWorker

__all__ = ["PackTrainable", "step_seconds"]

STEP_SECONDS = 2.0
"""Wall time after which a worker looks up: short enough that a stop reaches it before Tune kills it."""

LONGEST_STEP = 30.0
"""Most seconds between two reports of a worker."""

REPORTS_A_SECOND = 50.0
"""Reports that all workers together send, a ninth of what Tune took of a thousand on a quiet machine
(``python -m benchmarks.scale``): from a hundred workers on, each reports the rarer the more there are."""

BARRIER_SECONDS = 60.0
"""Seconds that a worker's call waits at the barrier at most, so that one of a lost worker ends; and for
which a worker counts that says nothing."""


class PackTrainable(tune.Trainable):
    """Trains the packs of one suggestion, one after another; long-lived, reused by Tune.

    Attributes:
        reports_a_second: Reports that all workers together send at most, see :func:`step_seconds`.
        longest_step: Most seconds between two reports of this worker.
    """

    reports_a_second, longest_step = REPORTS_A_SECOND, LONGEST_STEP

    def setup(
        self,
        config: dict[str, Any],
        context: WorkerContext | None = None,
        barrier: str = "",
        workers: int = 1,
    ) -> None:
        """Open the ledger; called once in a worker's life."""
        assert context is not None
        self._worker = PackWorker(context)
        self._barrier, self._workers, self._called_in = find_barrier(barrier), workers, False
        self._name: str = ray.get_runtime_context().get_worker_id()
        self._present = 0
        self._halting: Any = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the packs of the next suggestion without starting a new process."""
        self._queue, self._hold = list(new_config["units"]), new_config.get("hold")
        return True

    def step(self) -> dict[str, Any]:
        """Train for two seconds, or longer where there are many workers, and say where this one stands."""
        self._wait_for_the_others()
        count = answer(self._barrier.present.remote(self._name, BARRIER_SECONDS))
        self._present = self._present if count is None else count
        began = time.monotonic()
        deadline = began + step_seconds(self._present, self.reports_a_second, self.longest_step)
        results: list[dict[str, Any]] = []
        while self._worker.busy or self._queue:
            taken = None if self._worker.busy else self._worker.take(self._queue.pop(0))
            progress = taken or self._worker.advance(min(deadline, time.monotonic() + STEP_SECONDS))
            if results and results[-1]["pack_id"] == progress.pack_id and not results[-1]["note"]:
                results.pop()  # how far the same pack was before
            results.append(progress.to_dict())
            if progress.value is not None or time.monotonic() >= deadline or self._halted():
                break  # the driver decides before the next step
            if progress.finished and time.monotonic() >= began + STEP_SECONDS:
                break  # should the next pack end this process, the driver knows that it was not this one
        done = not self._worker.busy and not self._queue and not self._held(deadline)
        return {"progress": results, "done": done}

    def _halted(self) -> bool:
        """Whether the driver was told to stop; without a barrier that is known at the step's end only."""
        if self._halting is None or not ray.wait([self._halting], timeout=0)[0]:
            return False
        halted = answer(self._halting)
        if not halted:
            self._halting = self._barrier.halting.remote(BARRIER_SECONDS)
        return bool(halted)

    def _wait_for_the_others(self) -> None:
        if self._called_in:
            return
        self._called_in = True
        self._halting = self._barrier.halting.remote(BARRIER_SECONDS)
        answer(self._barrier.call_in.remote(self._name, self._workers, BARRIER_SECONDS))

    def _held(self, deadline: float) -> bool:
        """Wait for the driver to have more to do; whether it has not."""
        if self._hold is None:
            return False
        count = answer(self._barrier.supplied.remote(self._hold, max(0.0, deadline - time.monotonic())))
        if count is None:  # without a barrier the driver is asked itself, now and then
            time.sleep(max(0.0, min(STEP_SECONDS, deadline - time.monotonic())))
            return False
        return count <= int(self._hold)

    def cleanup(self) -> None:
        """Checkpoint what is under way, so that the next run goes on from here."""
        self._worker.suspend()


def step_seconds(
    workers: int, reports_a_second: float = REPORTS_A_SECOND, longest: float = LONGEST_STEP
) -> float:
    """Return how many seconds lie between two reports of one of so many workers.

    Example:
        >>> [step_seconds(workers) for workers in (2, 500, 5000)]
        [2.0, 10.0, 30.0]
    """
    return min(longest, max(STEP_SECONDS, workers / reports_a_second))
