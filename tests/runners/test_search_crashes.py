"""Searches whose driver is killed at every boundary between two events, with workers that train nothing.

The executor is a fake behind the real source of work; everything that decides and writes is real. An
independent journal, written by the executor, says what was trained.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnsweep.runners import Progress
from bnsweep.runners.early_stopping import Stopper
from bnsweep.runners.search_source import PlannedConditions, SearchSource
from bnsweep.search import Search
from bnsweep.sweep import load_spec, make_plan
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.plan import expander
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

STEPS = 30
KILLED = ("append", "write_pack", "write_decision", "write_record", "close_pack")
"""Writes before and after each of which the driver is killed."""


def value(parameters: Any, step: int) -> float | None:
    """Return a known accuracy at a step; ``None`` where the trial has diverged."""
    if parameters["lr"] > 1 and step >= 4:
        return None
    distance = math.log10(parameters["lr"]) + 1
    return math.exp(-distance * distance) * (1 - math.exp(-step / 10)) + 0.001 * parameters["seed"]


class KilledError(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


class Driver:
    """One life of a driver: it trains by looking values up, and may end at a boundary.

    Args:
        folder: Where the ledger lies.
        content: The sweep file.
        kill: Boundaries to pass before the end; ``None`` for a life without one.
        workers: Packs under way at once.
        end: What ends it.
    """

    def __init__(
        self,
        folder: Path,
        content: dict[str, Any],
        kill: int | None,
        workers: int = 3,
        end: Callable[[], None] | None = None,
    ) -> None:
        self.folder, self.kill, self.workers, self.end = folder, kill, workers, end
        self.spec = load_spec(content)
        self.ledger = Ledger.open(folder, self.spec.name, create=True)
        self.passed = 0
        for owner in (self.ledger, self.ledger.search_log):
            for name in KILLED:
                if hasattr(owner, name):
                    setattr(owner, name, self._guarded(getattr(owner, name)))

    def _guarded(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._boundary()
            found = write(*args, **kwargs)
            self._boundary()
            return found

        return guarded

    def _boundary(self) -> None:
        if self.passed == self.kill:
            if self.end is not None:
                self.end()
            raise KilledError
        self.passed += 1

    def live(self) -> None:
        """Do what is left, as :class:`bnsweep.execution.Execution` puts the parts together."""
        spec, log = self.spec, self.ledger.search_log
        optuna = spec.method == "optuna"
        search: Any = (
            Search(spec, log, expander(spec))
            if optuna
            else PlannedConditions(make_plan(spec), self.ledger.open_packs())
        )
        rule = Stopper(spec, log, STEPS) if spec.early_stop else None
        source = SearchSource(
            search, self.ledger, "cpu", "grouped", lambda _: True, rule, Goal.of(spec).to_dict(), ()
        )
        packs: dict[str, list[int]] = {}
        while True:
            for unit in source.ready(self.workers):
                packs[unit["pack"]] = sorted({0, *self.ledger.read_pack(unit["pack"]).get("rungs", ())})
            if not packs:
                return
            for pack_id in sorted(packs):  # each goes to its next rung, or to its end
                packs[pack_id].pop(0)
                if self._advance(source, pack_id, packs[pack_id][0] if packs[pack_id] else STEPS):
                    del packs[pack_id]

    def _advance(self, source: SearchSource, pack_id: str, step: int) -> bool:
        trials = [TrialConfig.from_dict(one) for one in self.ledger.read_pack(pack_id)["trials"]]
        records = [self._record(trial, step) for trial in trials]
        over = step == STEPS or all(record.state is TrialState.DIVERGED for record in records)
        if not over:
            self._journal("rung", pack_id, step)
            if self.ledger.decision(pack_id, step) is None:
                worth = Goal.of(self.spec).worth(records).values[0]
                source.rung(Progress(pack_id, len(trials), step, STEPS, value=worth))
            if not self.ledger.decision(pack_id, step):
                return False
            records = [
                record
                if record.state is TrialState.DIVERGED
                else self._record(record.config, step, stop=True)
                for record in records
            ]
        for record in records:
            if self.ledger.write_record(record, []):
                self._journal("trained", record.trial_id, record.steps)
        self.ledger.close_pack(pack_id)
        source.finished({"pack": pack_id}, Progress(pack_id, len(trials), step, STEPS, finished=True))
        return True

    def _record(self, trial: TrialConfig, step: int, stop: bool = False) -> Record:
        found = value(trial.parameters, step)
        if found is None:
            return Record.of(trial, TrialState.DIVERGED, 4, {}, diverged_step=4, last_finite_loss=9.0)
        state = TrialState.STOPPED if stop else TrialState.COMPLETED
        return Record.of(trial, state, step, {"test_accuracy": found, "test_loss": 1 - found})

    def _journal(self, *words: Any) -> None:
        with (self.folder / "journal").open("a") as journal:
            journal.write(json.dumps(words) + "\n")


def life(folder: Path, content: dict[str, Any], kill: int | None = None, workers: int = 3) -> int | None:
    """Let a driver live; return the boundaries that it passed, if it was not killed."""
    driver = Driver(folder, content, kill, workers)
    try:
        driver.live()
    except KilledError:
        return None
    return driver.passed


def search(method: str, stop: bool, **more: Any) -> dict[str, Any]:
    lr = {"min": 0.001, "max": 10, "distribution": "log_uniform_values"}
    content: dict[str, Any] = {
        "name": "s",
        "method": method,
        "parameters": {"model": "mlp", "lr": lr, "momentum": {"min": 0, "max": 0.9}, "steps": STEPS},
        "seeds": 2,
        "search": {"num_trials": 8},
        **more,
    }
    return content | ({"early_stop": {"type": "asha", "min_steps": 5, "eta": 2}} if stop else {})


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a search left: trials, decisions, suggestions; each event once."""
    ledger = Ledger(folder / "s")
    events = [{k: v for k, v in event.items() if k != "written_at"} for event in ledger.search_log]
    kinds = Counter((e["event"], e.get("number"), e.get("condition"), e.get("step")) for e in events)
    twice = {key: count for key, count in kinds.items() if count > 1 and key[0] != "end"}
    assert not twice and max(kinds.values(), default=1) == 1
    assert not ledger.open_packs()
    trained = Counter(
        line[1]
        for line in map(json.loads, (folder / "journal").read_text().splitlines())
        if line[0] == "trained"
    )
    assert set(trained.values()) <= {1}, "no trial is trained to its end twice"
    return {
        "trials": {r.trial_id: (r.state.value, r.steps, dict(r.readings)) for r in ledger.records()},
        "rungs": {
            (e["condition"], e["step"]): (e["value"], e["stop"]) for e in events if e["event"] == "rung"
        },
        "suggested": [e["parameters"] for e in events if e["event"] == "suggest"],
        "ends": {e["number"]: (e["state"], e["values"]) for e in events if e["event"] == "end"},
    }


CASES = {
    "tpe": (search("optuna", False), 1),
    "cmaes": (search("optuna", False, search={"num_trials": 8, "sampler": "cmaes"}), 1),
    "lag": (search("optuna", False, deterministic=True, search={"num_trials": 8, "lag": 3}), 3),
    "asha": (search("random", True), 3),
    "asha, one worker": (search("random", True), 1),
    "tpe with asha": (search("optuna", True), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_once_at_every_boundary(tmp_path: Path, case: str) -> None:
    """Suggested and not started, reported and not acknowledged, decided and not told: none leaves a trace."""
    content, workers = CASES[case]
    boundaries = life(tmp_path / "whole", content, workers=workers)
    expected = outcome(tmp_path / "whole")
    assert boundaries is not None and boundaries > 50
    if not case.startswith("asha"):
        assert len(expected["suggested"]) == len(expected["ends"]) == 8
    for kill in range(boundaries):
        folder = tmp_path / str(kill)
        assert life(folder, content, kill, workers) is None, "it was killed"
        assert life(folder, content, workers=workers) is not None
        found = outcome(folder)
        if case == "asha":  # who is first at a rung depends on who was taken up again first
            assert found["trials"].keys() == expected["trials"].keys()
        else:
            assert found == expected, f"killed at boundary {kill}"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_again_and_again(tmp_path: Path, case: str) -> None:
    """Every life passes a few boundaries more than nothing, and is killed."""
    content, workers = CASES[case]
    life(tmp_path / "whole", content, workers=workers)
    lives = 0
    while life(tmp_path / "cut", content, 17 + lives % 5, workers) is None:
        lives += 1
        assert lives < 200, "it gets on"
    assert lives > 3
    expected, found = outcome(tmp_path / "whole"), outcome(tmp_path / "cut")
    if case == "asha":
        assert found["trials"].keys() == expected["trials"].keys()
    else:
        assert found == expected


@pytest.mark.slow
def test_killed_by_the_system(tmp_path: Path) -> None:
    """The same with SIGKILL and a process for each life."""
    content, workers = CASES["tpe with asha"]
    boundaries = life(tmp_path / "whole", content, workers=workers)
    assert boundaries is not None
    code = (
        "import importlib.util, json, os, signal, sys\n"
        "from pathlib import Path\n"
        "found = importlib.util.spec_from_file_location('crashes', sys.argv[1])\n"
        "crashes = importlib.util.module_from_spec(found); found.loader.exec_module(crashes)\n"
        "end = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "crashes.Driver(Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]), 1, end).live()\n"
    )
    ends = []
    for kill in (3, 20, 31, 10_000):
        command = [sys.executable, "-W", "ignore", "-c", code, __file__, str(tmp_path / "cut"),
                   json.dumps(content), str(kill)]  # fmt: skip
        ends.append(subprocess.run(command, check=False).returncode)
    assert ends == [-signal.SIGKILL, -signal.SIGKILL, -signal.SIGKILL, 0]
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "optuna"])
@pytest.mark.parametrize("rule", ["asha", "median"])
def test_rungs_before_a_crash_are_the_rungs_after_it(tmp_path: Path, method: str, rule: str) -> None:
    """What the rule remembers, as Ray holds it, is the same in the driver that takes over."""
    stop = {"type": rule, "min_steps": 5} | ({"eta": 2} if rule == "asha" else {})
    content = search(method, False, early_stop=stop)
    for kill in (40, 55, 70):
        life(tmp_path / "cut", content, kill)
        spec = load_spec(content)
        one, other = (Stopper(spec, Ledger(tmp_path / "cut" / "s").search_log, STEPS) for _ in range(2))
        assert memory(one) == memory(other)
        events = [e for e in Ledger(tmp_path / "cut" / "s").search_log if e["event"] == "rung"]
        decided = {(e["condition"], e["step"]): e["stop"] for e in events}
        assert (
            decided
            and {
                (condition, step): stop
                for condition in {c for c, _ in decided}
                for step, stop in one.known(condition).items()
            }
            == decided
        )
        if rule == "asha":
            recorded = {(c, m): v for m, held in memory(one).items() for c, v in held.items()}
            assert recorded == {(e["condition"], e["step"]): e["value"] for e in events}


def memory(stopper: Stopper) -> dict[Any, Any]:
    """Return what Ray's rule has in mind: recorded values by rung, or by condition."""
    rule = stopper._rule
    if hasattr(rule, "_results"):
        return {trial.trial_id: [r["value"] for r in found] for trial, found in rule._results.items()}
    [bracket] = rule._brackets
    return {milestone: dict(recorded) for milestone, recorded in bracket._rungs}
