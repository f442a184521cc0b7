"""Many workers of Ray Tune in one process, for what their number costs the driver.

Tune, its placement groups and the calls between driver and workers are the real ones; only the workers'
processes are missing: one actor holds them all, and a step is a pause.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import ray
from ray import tune
from ray.actor import ActorClass
from ray.tune.execution import class_cache

from benchmarks.scale import cpu, memory_mb
from bnsweep.runners import FixedPacks, Progress, WorkerContext
from bnsweep.runners.barrier import find_barrier
from bnsweep.runners.tune import TuneRunner

STEPS = "BNSWEEP_CROWD_STEPS"


class Pausing(tune.Trainable):
    """A worker that waits, and says how far its pack is."""

    def setup(self, config: dict[str, Any], context: Any = None, barrier: str = "", workers: int = 1) -> None:
        self.barrier = find_barrier(barrier)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.units, self.made = list(new_config["units"]), 0
        return True

    def step(self) -> dict[str, Any]:
        self.made += 1
        steps = int(os.environ.get(STEPS, "10"))
        finished = self.made >= steps
        pack = self.units[0]["pack"]
        if finished:
            self.units, self.made = self.units[1:], 0
        progress = Progress(
            pack, 1, self.made, steps, finished, 1.0, {"completed": 1} if finished else {}, pid=1
        )
        return {"progress": [progress.to_dict()], "done": not self.units}


@ray.remote(num_cpus=0, max_concurrency=5000)
class Host:
    """Holds the workers; a step of one is a pause that the others do not wait for."""

    def __init__(self, pause: float, steps: int) -> None:
        os.environ[STEPS] = str(steps)
        self.pause, self.workers = pause, {}  # type: ignore[var-annotated]

    async def make(self, number: int, cls: Any, kwargs: dict[str, Any]) -> None:
        self.workers[number] = cls(**kwargs)

    async def call(self, number: int, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if method.startswith("__"):
            return None
        if method == "train":
            await self.workers[number].barrier.present.remote(str(number), 60.0)
            await asyncio.sleep(self.pause)
        return getattr(self.workers[number], method)(*args, **kwargs)


class _Method:
    def __init__(self, handle: _Handle, name: str) -> None:
        self.handle, self.name = handle, name

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return self.handle.host.call.remote(self.handle.number, self.name, args, kwargs)


class _Handle:
    def __init__(self, host: Any, number: int) -> None:
        self.host, self.number = host, number

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)


class _Class(ActorClass):  # type: ignore[type-arg,misc]
    """Stands for the remote class of a trainable; what it makes lives in the host."""

    def __init__(self, host: Any, cls: Any) -> None:
        self.host, self.cls, self.made = host, cls, 0

    def options(self, **_: Any) -> _Class:
        return self

    def remote(self, **kwargs: Any) -> _Handle:
        self.made += 1
        self.host.make.remote(self.made, self.cls, kwargs)
        return _Handle(self.host, self.made)


@contextmanager
def hosted(pause: float, steps: int) -> Iterator[None]:
    """Let Tune's workers be made in one process."""
    host = Host.remote(pause, steps)  # type: ignore[attr-defined]
    classes: dict[Any, _Class] = {}

    def get(_: Any, cls: Any) -> _Class:
        return classes.setdefault(cls, _Class(host, cls))

    with mock.patch.object(class_cache._ActorClassCache, "get", get):
        yield
    ray.kill(host)


@dataclass(frozen=True)
class Crowd:
    """What a driver took for a crowd at full width.

    Attributes:
        asked: Reports a second that the workers would send if none waited for the driver.
        reports: Reports a second that the driver took, by the time from one report of a worker to its next.
        cores: Cores that the driver's process used.
        started: Seconds until the last worker had reported.
        memory: MB that the driver's process grew by.
    """

    asked: float
    reports: float
    cores: float
    started: float
    memory: float


def crowd(workers: int, pause: float, steps: int) -> Crowd:
    """Run a pack of ``steps`` steps on every worker and return what it took of the driver.

    Counted is from when every worker has reported once until the first has ended.

    Args:
        workers: Workers at once.
        pause: Seconds of a step.
        steps: Steps of a pack.

    Raises:
        RuntimeError: If the crowd was never whole.
    """
    heard: dict[str, float] = {}
    cycles: list[float] = []
    moments: list[tuple[float, float]] = []
    began, memory = time.monotonic(), memory_mb()

    def report(progress: Progress) -> None:
        now = time.monotonic()
        if len(moments) == 1:
            cycles.append(now - heard[progress.pack_id])
        heard[progress.pack_id] = now
        if (not moments and len(heard) >= workers) or (len(moments) == 1 and progress.finished):
            moments.append((now, cpu()))

    runner = TuneRunner((os.cpu_count() or 1) / (workers + 1), 0, workers)
    runner.trainable = Pausing
    packs = FixedPacks([f"{number:016x}" for number in range(workers)], None)
    with hosted(pause, steps):
        runner.run(packs, WorkerContext(ledger="nowhere"), report)
    if len(moments) < 2:
        raise RuntimeError(f"{workers} workers were never at work at once")
    (first, used), (last, used_then) = moments
    return Crowd(
        workers / pause,
        workers / statistics.mean(cycles),
        (used_then - used) / (last - first),
        first - began,
        memory_mb() - memory,
    )
