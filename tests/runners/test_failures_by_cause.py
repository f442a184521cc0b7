"""What went wrong decides what follows."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.runners import FixedPacks, LocalRunner, Progress
from bnsweep.runners.searcher import PackSearcher
from bnsweep.sweep.ledger import Ledger

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def norm(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives the sweep a norm of the user's, by the body of its forward."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, body: str) -> dict[str, Any]:
        text = f"""
        import pathlib, signal, time, torch
        from torch import nn

        class Own(nn.Module):
            per_channel = True

            def __init__(self):
                super().__init__()
                self.calls = 0

            def forward(self, x):
                self.calls += 1
                if self.calls > 12 and x.requires_grad:
                    {body}
                return x

        def make(n):
            return Own()
        """
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        tiny["probes"] = {}
        tiny["parameters"] |= {"norm": ["none", f"{name}:make"], "lr": [0.1], "steps": 20}
        tiny["resources"] = {"pack_size": 2, "kernel": "grouped"}
        return tiny

    return write


def test_a_step_that_hangs_is_ended_where_it_hangs_tried_alone_and_recorded(
    norm: Any, tmp_path: Path
) -> None:
    content = norm("sleepingnorm", "time.sleep(1000)")
    content["resources"]["step_limit"] = 1.0
    outcome = api.run(content, runner=LocalRunner(), storage=str(tmp_path / "r"))
    assert outcome.states == {"completed": 2, "failed": 2} and outcome.exit_code == 1
    ledger = Ledger(outcome.root)
    for trial in ledger.failed():
        (failure,) = ledger.failures(trial)
        assert failure["cause"] == "timeout"
        assert "time.sleep(1000)" in failure["traceback"] and "longer than 1 s" in failure["traceback"]
    assert ledger.pack_ids() == []


UNINTERRUPTED = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGVTALRM}); time.sleep(1000)"
"""A step that waits and lets no signal in: only the end of its process ends it."""

HOLDING = "sum(range(10**15))"
"""A step that lets no other thread run either, as compiled code that holds Python's lock."""


def run_alone(file: Path, storage: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "bnsweep", "run", str(file), "--in-process", "--storage", str(storage)]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def test_a_step_that_cannot_be_interrupted_ends_its_process_and_is_known_to_the_next(
    norm: Any, write_sweep: Any, tmp_path: Path
) -> None:
    content = norm("deafnorm", UNINTERRUPTED)
    content["parameters"]["norm"] = "deafnorm:make"
    content["seeds"] = 1
    content["resources"] |= {"step_limit": 1.0}
    file = write_sweep(content)
    assert run_alone(file, tmp_path / "r").returncode == 75
    ledger = Ledger(tmp_path / "r" / "tiny")
    (pack,) = ledger.pack_ids()
    assert "time.sleep(1000)" in ledger.hang(pack)
    assert ledger.failed() == {}, "tried once more, alone"
    assert run_alone(file, tmp_path / "r").returncode == 75
    done = run_alone(file, tmp_path / "r")
    assert done.returncode == 1, done.stderr
    (trial,) = ledger.failed()
    (failure,) = ledger.failures(trial)
    assert failure["cause"] == "timeout"
    assert "time.sleep(1000)" in failure["traceback"] and "could not be ended" in failure["traceback"]
    assert ledger.pack_ids() == []


def test_a_step_that_lets_no_thread_run_ends_its_process_too(
    norm: Any, write_sweep: Any, tmp_path: Path
) -> None:
    """Nobody can note where it was: not even the thread that watches gets its turn."""
    content = norm("holdingnorm", HOLDING)
    content["parameters"]["norm"] = "holdingnorm:make"
    content["seeds"] = 1
    content["resources"] |= {"step_limit": 1.0}
    done = run_alone(write_sweep(content), tmp_path / "r")
    assert done.returncode == 1 and "Timeout (0:00:07)" in done.stderr
    assert "holdingnorm.py" in done.stderr, "at least the terminal shows where"
    ledger = Ledger(tmp_path / "r" / "tiny")
    assert ledger.pack_ids() and ledger.failed() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_on_ray_a_step_that_ends_its_worker_leaves_the_rest_of_the_sweep_alone(
    norm: Any, tmp_path: Path
) -> None:
    content = norm("deafnorm", UNINTERRUPTED)
    content["seeds"] = 1
    content["resources"] = {"pack_size": 1, "kernel": "grouped", "step_limit": 1.0, "max_concurrent": 2}
    outcome = api.run(content, storage=str(tmp_path / "r"))
    assert outcome.states == {"completed": 1, "failed": 1} and outcome.exit_code == 1
    ledger = Ledger(outcome.root)
    (trial,) = ledger.failed()
    (failure,) = ledger.failures(trial)
    assert failure["cause"] == "timeout" and "time.sleep(1000)" in failure["traceback"]
    assert ledger.pack_ids() == []


def test_a_run_in_which_everything_fails_is_given_up(norm: Any, tmp_path: Path) -> None:
    """24 trials in packs of 4; the first to end fail, and so would the rest."""
    content = norm("brokennorm", "if pathlib.Path('armed').exists(): raise RuntimeError('no such thing')")
    content["parameters"]["norm"] = "brokennorm:make"
    (tmp_path / "armed").touch()
    content["seeds"] = 24
    content["resources"] = {"pack_size": 4, "kernel": "grouped"}
    said: list[str] = []
    outcome = api.run(content, runner=LocalRunner(), storage=str(tmp_path / "r"), say=said.append)
    assert outcome.states == {"failed": 20, "pending": 4} and outcome.exit_code == 1
    assert outcome.errors == {"RuntimeError: no such thing": 20}
    (line,) = [line for line in said if line.startswith("given up")]
    assert "the first 20 trials to end have all failed, most with: RuntimeError: no such thing" in line
    assert "--retry-failed" in line
    (tmp_path / "armed").unlink()
    again = api.run(content, runner=LocalRunner(), storage=str(tmp_path / "r"), retry_failed=True)
    assert again.states == {"completed": 24} and again.exit_code == 0


def test_failures_beside_a_result_do_not_end_a_run(norm: Any, tmp_path: Path) -> None:
    content = norm("brokentoo", "raise RuntimeError('no such thing')")
    content["parameters"]["norm"] = ["none", "brokentoo:make"]
    content["seeds"] = 21
    content["resources"] = {"pack_size": 21, "kernel": "grouped"}
    outcome = api.run(content, runner=LocalRunner(), storage=str(tmp_path / "r"))
    assert outcome.states == {"completed": 21, "failed": 21}


def test_a_runner_hands_out_nothing_of_a_run_that_is_given_up() -> None:
    """What is at work ends; what is left stays for the next run."""
    source = FixedPacks(["a", "b", "c"], ledger=None)
    searcher = PackSearcher(source, workers=1)
    assert searcher.suggest("t1") == {"units": [{"pack": "a"}]}
    source.given_up = "RuntimeError: no such thing"
    assert searcher.suggest("t2") is None
    searcher.finished("t1", Progress("a", 1, 1, 1, finished=True))
    searcher.on_trial_complete("t1")
    assert searcher.suggest("t3") == PackSearcher.FINISHED
