"""What workers of one run wait at: until all have started, and for more to do."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["Barrier", "answer", "make_barrier"]


class Barrier:
    """Counts the workers that have called in, so that none finishes before all have started.

    Later it holds workers for which there is nothing to do yet, until the driver has more.
    """

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.supplies = 0

    def call_in(self, pid: int) -> int:
        """Note that a worker is there; return how many are."""
        self.seen.add(pid)
        return len(self.seen)

    def supply(self) -> None:
        """Note that there is more to do."""
        self.supplies += 1

    def supplied(self) -> int:
        """Return how often there was more."""
        return self.supplies


def make_barrier() -> Any:
    """Start a barrier on the driver's node, so that no other node takes it along when it is lost."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Barrier).remote()


def answer(asked: Any) -> int | None:
    """Return what a barrier answers; ``None`` where its process has died, which is no worker's fault."""
    try:
        return int(ray.get(asked))
    except ray.exceptions.RayActorError:
        return None
