"""Packs on a real Ray: the same results, all workers busy, lost workers replaced, quick to stop."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.runners import FixedPacks, LocalRunner, Progress
from bnsweep.runners.searcher import PackSearcher
from bnsweep.runners.source import Unit
from bnsweep.runners.tune import _Watch
from bnsweep.sweep.ledger import Ledger

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # Ray and its dependencies are not free of these.
    pytest.mark.filterwarnings("ignore"),
]


def records(root: Path) -> dict[str, str]:
    return {
        record.trial_id: json.dumps([record.state, record.steps, repr(sorted(record.readings.items()))])
        for record in Ledger(root).records()
    }


@pytest.fixture
def grid(tiny: dict[str, Any]) -> dict[str, Any]:
    tiny["parameters"] |= {"norm": ["none", "batch", "noisy_batch", "l1"], "steps": 150}
    tiny["resources"] = {"cpus": 1, "max_concurrent": 2}
    return tiny


KILLING_NORM = """
import os, pathlib, signal
from torch import nn

ARMED = pathlib.Path(__file__).with_name("armed")


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 30 and ARMED.exists() and ARMED.read_text() != str(os.getpid()):
            ARMED.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return x


def plain(n):
    return Plain()
"""


def kill_barrier() -> bool:
    """End the process at which workers of our own Ray wait for each other and for more to do."""

    def parent(pid: str) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]

    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if not entry.name.isdigit() or b"ray::Barrier" not in (entry / "cmdline").read_bytes():
                continue
            if parent(parent(entry.name)) == str(os.getpid()):
                os.kill(int(entry.name), signal.SIGKILL)
                return True
    return False


def test_ray_gives_what_the_process_gives_on_two_workers_one_of_them_killed(
    grid: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "normsofmine.py").write_text(KILLING_NORM)
    monkeypatch.chdir(tmp_path)
    grid["parameters"]["norm"].append("normsofmine:plain")
    api.run(grid, runner=LocalRunner(), storage=str(tmp_path / "local"))
    pids: list[int] = []
    killed: list[bool] = []

    def note(progress: Progress) -> None:
        pids.append(progress.pid)
        if not any(killed):
            killed.append(kill_barrier())

    armed = tmp_path / "armed"
    armed.write_text(str(os.getpid()))
    outcome = api.run(grid, storage=str(tmp_path / "ray"), progress=note)
    assert outcome.exit_code == 0, outcome
    assert any(killed), "the barrier was not killed"
    assert not armed.exists(), "no worker was killed"
    assert len(set(pids)) >= 2
    assert records(tmp_path / "ray" / "tiny") == records(tmp_path / "local" / "tiny")


def units(*packs: str) -> dict[str, Any]:
    return {"units": [{"pack": pack} for pack in packs]}


def leaps() -> Callable[[], float]:
    """Return a clock that leaps over every pause."""
    return itertools.count(0.0, 1000.0).__next__


def ended(pack: str) -> Progress:
    return Progress(pack, 1, 1, 1, finished=True, seconds=1.0)


class Given(FixedPacks):
    """Packs that stand in no ledger; remembers which of them were given up."""

    def __init__(self, *packs: str) -> None:
        super().__init__(packs, ledger=None)
        self.given_up: list[tuple[str, str]] = []

    def lost(self, unit: Unit, cause: str) -> Progress:
        self.given_up.append((unit["pack"], cause))
        return ended(unit["pack"])


def test_the_searcher_hands_out_lost_packs_again() -> None:
    searcher = PackSearcher(Given("a", "b", "c"), workers=2)
    assert searcher.suggest("t1") == units("a")
    assert searcher.suggest("t2") == units("b")
    searcher.on_trial_complete("t1", error=True)
    searcher.lost("t1", "the worker died")
    assert searcher.suggest("t3") == units("c")
    assert searcher.suggest("t4") == units("a")
    assert searcher.suggest("t5") is None
    for trial, pack in (("t2", "b"), ("t3", "c"), ("t4", "a")):
        searcher.finished(trial, ended(pack))
        searcher.on_trial_complete(trial)
    assert searcher.suggest("t6") == PackSearcher.FINISHED
    assert searcher.idle


def test_the_searcher_gives_up_a_pack_that_kills_its_workers() -> None:
    source = Given("a")
    searcher = PackSearcher(source, workers=1, clock=leaps())
    for attempt in range(3):
        assert searcher.suggest(f"t{attempt}") == units("a")
        searcher.lost(f"t{attempt}", "the worker died")
    assert searcher.suggest("t9") == PackSearcher.FINISHED
    assert [pack for pack, _ in source.given_up] == ["a"]
    assert searcher.abandoned


def test_lost_machines_and_deaths_at_different_steps_are_not_the_packs_fault() -> None:
    source = Given("a")
    searcher = PackSearcher(source, workers=1, clock=leaps())
    for attempt in range(10):
        assert searcher.suggest(f"t{attempt}") == units("a")
        searcher.lost(f"t{attempt}", "The actor died because its node has died. Node Id: 1")
    for attempt in range(10, 20):
        assert searcher.suggest(f"t{attempt}") == units("a")
        searcher.steps["a"] = attempt
        searcher.lost(f"t{attempt}", "The actor is dead because its worker process has died.")
    assert not source.given_up


def test_workers_are_told_to_stop_when_tune_saves_after_its_last_step_and_not_before() -> None:
    halts: list[int] = []
    searcher = PackSearcher(Given("a"), workers=1, halt=lambda: halts.append(1))
    watch = _Watch(searcher, lambda _: None)
    watch.on_step_begin(1, [])
    searcher.save("anywhere")
    watch.on_step_end(1, [])
    assert not halts
    searcher.save("anywhere")
    assert halts == [1]


def test_short_packs_are_bundled() -> None:
    searcher = PackSearcher(Given(*(f"p{n}" for n in range(100))), workers=2)
    searcher.suggest("t0")
    searcher.finished("t0", ended("p0"))
    assert searcher.suggest("t1") == units(*(f"p{n}" for n in range(1, 21)))


def test_a_worker_is_held_while_more_is_expected_and_let_go_when_it_is_there() -> None:
    source = Given("a")
    source.expecting = True
    supplies: list[int] = []
    searcher = PackSearcher(source, workers=2, supply=lambda: supplies.append(1))
    assert searcher.suggest("t1") == units("a")
    assert searcher.suggest("t2") == {"units": [], "hold": len(supplies)}
    source.packs, source.expecting = ["b"], False
    held = len(supplies)
    searcher.finished("t1", ended("a"))
    assert len(supplies) > held
    searcher.on_trial_complete("t2")
    assert searcher.suggest("t3") == units("b")
