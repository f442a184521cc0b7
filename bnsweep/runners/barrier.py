"""What workers of one run wait at: until all have started, for more to do, and for the order to stop."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["Barrier", "answer", "find_barrier", "make_barrier"]

FIND_ATTEMPTS = 4
"""How often a worker looks for a barrier, a second apart."""


class Barrier:
    """Counts the workers that have called in, so that none finishes before all have started.

    Later it holds workers for which there is nothing to do yet, until the driver has more, and tells those
    at work to stop. A call waits here, so that a thousand workers do not ask again and again.
    """

    def __init__(self) -> None:
        self.heard: dict[str, float] = {}
        self.supplies = 0
        self.halted = False
        self._changed = asyncio.Condition()

    async def call_in(self, worker: str, workers: int, seconds: float) -> int:
        """Note that a worker is there, and wait for ``workers`` of them; return how many are."""
        self.heard[worker] = time.monotonic()
        if len(self.heard) >= workers:
            await self._tell()
        await self._until(lambda: len(self.heard) >= workers, seconds)
        return len(self.heard)

    async def present(self, worker: str, seconds: float) -> int:
        """Note that a worker is there; return of how many that was heard in so many seconds."""
        now = time.monotonic()
        self.heard[worker] = now
        self.heard = {name: moment for name, moment in self.heard.items() if now - moment <= seconds}
        return len(self.heard)

    async def supply(self) -> None:
        """Note that there is more to do."""
        self.supplies += 1
        await self._tell()

    async def supplied(self, more_than: int, seconds: float) -> int:
        """Wait for there to be more than there was; return how often there was."""
        await self._until(lambda: self.supplies > more_than, seconds)
        return self.supplies

    async def halt(self) -> None:
        """Note that all work has to stop."""
        self.halted = True
        await self._tell()

    async def halting(self, seconds: float) -> int:
        """Wait for the order that all work has to stop; return whether it was given."""
        await self._until(lambda: self.halted, seconds)
        return int(self.halted)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, true: Callable[[], bool], seconds: float) -> None:
        async def wait() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: true() or self.halted)

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), seconds)


def make_barrier(workers: int) -> tuple[Any, str]:
    """Start a barrier on the driver's node, so that no other node takes it along when it is lost.

    Args:
        workers: Most workers at once; two calls of each may wait here.

    Returns:
        Its handle, and the name by which workers find it. What a worker's class holds, Ray keeps in the
        driver for good; a handle that outlives Ray's end leaves a socket there.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    places = 2 * workers + 100  # and the driver's, and those of workers that were lost
    name = f"bnsweep-barrier-{secrets.token_hex(8)}"
    made = ray.remote(num_cpus=0, scheduling_strategy=here, max_concurrency=places, name=name)(Barrier)
    return made.remote(), name


class _Absent:
    """Stands for a barrier that is no more: nothing that it is asked is answered."""

    def __getattr__(self, call: str) -> _Absent:
        return self

    def remote(self, *values: Any) -> None:
        return None


def find_barrier(name: str) -> Any:
    """Return the handle of a barrier, from within a worker."""
    for attempt in range(FIND_ATTEMPTS):
        time.sleep(min(attempt, 1))
        with suppress(ValueError, ray.exceptions.RayError):  # absent, or Ray's control service is slow
            return ray.get_actor(name)
    return _Absent()  # its process has died


def answer(asked: Any) -> int | None:
    """Return what a barrier answers; ``None`` where its process has died, which is no worker's fault."""
    if asked is None:
        return None
    try:
        return int(ray.get(asked))
    except ray.exceptions.RayActorError:
        return None
