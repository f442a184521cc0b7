"""What workers wait at: nobody asks twice, nobody waits for ever, and the order to stop reaches all."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from bnsweep.runners import trainable
from bnsweep.runners.barrier import Barrier
from bnsweep.runners.trainable import PackTrainable, step_seconds

CROWD = 1000


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


@in_a_loop
async def test_workers_wait_for_the_last() -> None:
    barrier = Barrier()
    first = asyncio.create_task(barrier.call_in("w0", CROWD, 60))
    rest = [asyncio.create_task(barrier.call_in(f"w{number}", CROWD, 60)) for number in range(1, CROWD - 1)]
    await asyncio.sleep(0.1)
    assert not first.done() and len(barrier.heard) == CROWD - 1
    assert await barrier.call_in("last", CROWD, 60) == CROWD
    assert await asyncio.wait_for(first, 10) == CROWD
    assert set(await asyncio.wait_for(asyncio.gather(*rest), 10)) == {CROWD}


@in_a_loop
async def test_a_worker_counts_once() -> None:
    barrier = Barrier()
    await barrier.call_in("same", 2, 0.01)
    assert await barrier.call_in("same", 2, 0.01) == 1


@in_a_loop
async def test_workers_that_are_lost_are_no_longer_counted() -> None:
    barrier = Barrier()
    assert await barrier.present("old", 0.2) == 1
    assert await barrier.present("new", 0.2) == 2
    await asyncio.sleep(0.3)
    assert await barrier.present("new", 0.2) == 1


@in_a_loop
async def test_the_held_go_on_when_there_is_more_and_not_before() -> None:
    barrier = Barrier()
    assert await barrier.supplied(0, 0.05) == 0, "after a while they say that they are there"
    held = [asyncio.create_task(barrier.supplied(0, 60)) for _ in range(CROWD)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in held)
    await barrier.supply()
    assert set(await asyncio.wait_for(asyncio.gather(*held), 10)) == {1}
    assert await barrier.supplied(0, 60) == 1, "what came before they asked"


@in_a_loop
async def test_the_order_to_stop_ends_every_wait() -> None:
    barrier = Barrier()
    assert await barrier.halting(0.05) == 0
    waits = [
        asyncio.create_task(barrier.halting(60)),
        asyncio.create_task(barrier.supplied(0, 60)),
        asyncio.create_task(barrier.call_in("w", 2, 60)),
    ]
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await barrier.halt()
    halted, _, _ = await asyncio.wait_for(asyncio.gather(*waits), 10)
    assert halted == 1 and time.monotonic() - began < 5


@pytest.mark.parametrize(("workers", "seconds"), [(0, 2.0), (8, 2.0), (100, 2.0), (500, 10.0), (9999, 30.0)])
def test_workers_report_the_less_often_the_more_there_are(workers: int, seconds: float) -> None:
    assert step_seconds(workers) == seconds


class Asked:
    """A barrier whose calls are counted; what it answers is decided elsewhere."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *_: self.calls.append(name))


@pytest.fixture
def worker() -> Any:
    made = PackTrainable.__new__(PackTrainable)
    made._barrier, made._halting, made._hold = Asked(), "asked", 3
    return made


def test_a_held_worker_whose_barrier_is_lost_asks_the_driver_now_and_then(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "answer", lambda _: None)
    began = time.monotonic()
    assert not worker._held(began + 0.3)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(("answered", "halted", "again"), [(1, True, 0), (0, False, 1), (None, False, 1)])
def test_a_worker_asks_again_whether_to_stop_where_it_was_not_told(
    worker: Any, answered: int | None, halted: bool, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "answer", lambda _: answered)
    monkeypatch.setattr(trainable.ray, "wait", lambda refs, timeout: (refs, []))
    assert worker._halted() is halted
    assert worker._barrier.calls == ["halting"] * again
