"""Workers that outlive their driver, or are taken for dead: what they write late changes nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.errors import LedgerBusyError
from bnsweep.runners import Progress, WorkerContext
from bnsweep.runners.searcher import PackSearcher
from bnsweep.runners.source import FixedPacks
from bnsweep.runners.work import PackWorker
from bnsweep.sweep import make_packs
from bnsweep.sweep.ledger import Ledger

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def opened(tiny: dict[str, Any], tmp_path: Path) -> tuple[Ledger, str]:
    """A ledger with one open pack of six trials, and that pack's id."""
    plan = api.plan(tiny)
    ledger = Ledger.open(tmp_path, plan.name, create=True)
    ledger.write_sweep("", plan.to_dict())
    (pack,) = make_packs(plan.trials, 6)
    ledger.write_pack(pack.pack_id, plan.pack_content(pack))
    return ledger, pack.pack_id


def finish(worker: PackWorker) -> Progress:
    """Train a worker's pack to its end."""
    while True:
        progress = worker.advance(time.monotonic() + 60)
        if progress.finished:
            return progress


def begun(ledger: Ledger, pack: str, steps: int, epoch: int) -> PackWorker:
    """A worker of a driver's, in the middle of a pack."""
    worker = PackWorker(WorkerContext(str(ledger.root), epoch=epoch))
    worker.open(pack)
    for _ in range(steps):
        worker.advance(time.monotonic())
    return worker


def contents(ledger: Ledger) -> dict[str, bytes]:
    """All files of the sweep but its lease."""
    return {
        str(path.relative_to(ledger.root)): path.read_bytes()
        for path in ledger.root.rglob("*")
        if path.is_file() and "lease" not in path.parts
    }


def test_a_worker_of_a_replaced_driver_changes_nothing_of_an_open_pack(opened: Any) -> None:
    """Its driver is gone, another one is at the pack: it writes no checkpoint, failure or end."""
    ledger, pack = opened
    with ledger.exclusive():
        first = ledger.epoch
    late = begun(ledger, pack, 7, first)
    late._checkpoint()  # nobody has taken over yet
    with Ledger(ledger.root).exclusive():
        before = contents(ledger)
        for write in (
            late._checkpoint,
            lambda: late.ledger.close_pack(pack),
            lambda: late.ledger.write_hang(pack, "it hung"),
            lambda: late.ledger.write_failure(late._trials[0].trial_id, "it broke"),
            lambda: late.ledger.write_decision(pack, 10, stop=True),
            lambda: late.ledger.write_calibration(late._trials[0].signature, "cpu", {}),
            lambda: late.ledger.write_pack("abcd", {}),
        ):
            with pytest.raises(LedgerBusyError, match="has taken over"):
                write()
        assert contents(ledger) == before
        late._fail(ValueError("the late worker's own trouble"))
        assert ledger.failed() == {} and ledger.pack_ids() == [pack]
        assert contents(ledger) == before


def test_a_late_worker_that_trains_on_ends_without_a_word_in_the_ledger(opened: Any) -> None:
    """It is told at its next checkpoint, and gives the pack back; who has it now finishes it alone."""
    ledger, pack = opened
    with ledger.exclusive():
        late = begun(ledger, pack, 7, ledger.epoch)
    with Ledger(ledger.root).exclusive():
        fresh = begun(ledger, pack, 3, late.context.epoch + 1)
        late._checkpointed = float("-inf")
        told = late.advance(time.monotonic() + 60)
        assert told.finished and "has taken over" in told.error and not told.states
        assert ledger.done() == set() and ledger.failed() == {}
        assert finish(fresh).states == {"completed": 4, "diverged": 2}
    assert len(ledger.done()) == 6 and ledger.pack_ids() == []


def test_two_workers_at_one_pack_leave_what_one_leaves(opened: Any, tiny: Any, tmp_path: Path) -> None:
    """A worker whose machine was cut off is taken for dead, its pack handed out again; then it is back."""
    ledger, pack = opened
    with ledger.exclusive():
        cut_off = begun(ledger, pack, 20, ledger.epoch)
        other = begun(ledger, pack, 5, ledger.epoch)
        other._checkpoint()
        assert finish(other).states == {"completed": 4, "diverged": 2}
        before = contents(ledger)
        cut_off._checkpoint()
        assert finish(cut_off).error == ""
        assert contents(ledger) == before
        cut_off.ledger.save_checkpoint(pack, 30, lambda file: file.write(b"then it dies"))
    assert ledger.pack_ids() == []
    with ledger.exclusive():
        assert not list((ledger.root / "packs").iterdir())


def test_what_a_lost_worker_reports_late_does_not_count() -> None:
    searcher = PackSearcher(FixedPacks(["a", "b"], ledger=None), workers=1)
    searcher.suggest("t1")
    searcher.lost("t1", "The actor died because its node has died.")
    searcher.finished("t1", Progress("a", 1, 9, 9, finished=True))
    assert searcher.suggest("t2") is not None and searcher.left
    assert not searcher.durations
    searcher.finished("t1", Progress("a", 1, 9, 9, finished=True))
    assert not searcher.idle


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pause_after(searcher: PackSearcher, clock: Clock, trial: str) -> float:
    """Lose a worker; return for how many seconds nothing is handed out, and hand out the next."""
    searcher.lost(trial, "The actor died because its node has died.")
    began = clock.now
    while searcher.suggest(f"{trial}+") is None:
        clock.now += 0.5
    return clock.now - began


def test_the_more_workers_are_lost_in_a_row_the_longer_is_the_pause() -> None:
    clock = Clock()
    searcher = PackSearcher(FixedPacks(["a"], ledger=None), workers=1, clock=clock)
    searcher.suggest("t")
    trial, pauses = "t", []
    for _ in range(9):
        pauses.append(pause_after(searcher, clock, trial))
        trial += "+"
    assert pauses == [0, 1, 3, 7, 15, 31, 60, 60, 60]
    searcher.stands(Progress("a", 1, 1, 10))  # it got somewhere
    assert pause_after(searcher, clock, trial) == 0
    searcher.stands(Progress("a", 1, 1, 10))  # and no further since
    assert pause_after(searcher, clock, trial + "+") == 1
