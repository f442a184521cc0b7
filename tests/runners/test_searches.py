"""Searches end to end: trained here and on Ray, stopped early, cut off and taken up again."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bnsweep import api
from bnsweep.analysis.results import Results
from bnsweep.errors import BnsweepError
from bnsweep.execution import Execution
from bnsweep.matching import stored_plan
from bnsweep.runners import LocalRunner, Preflight, Progress
from bnsweep.runners.early_stopping import Stopper, rung_steps
from bnsweep.sweep import load_spec, make_plan
from bnsweep.sweep.curves import rows_of
from bnsweep.sweep.ledger import Ledger

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]  # Ray's own


class CutError(RuntimeError):
    """Stands for the end of the driver."""


@pytest.fixture
def search(tiny: dict[str, Any]) -> dict[str, Any]:
    """Ten conditions of two seeds, some of which diverge."""
    tiny["parameters"] |= {
        "norm": ["none", "batch"],
        "lr": {"min": 0.001, "max": 1e6, "distribution": "log_uniform_values"},
        "steps": 30,
        "eval_every": 10,
    }
    return tiny | {
        "method": "optuna",
        "probes": {},
        "search": {"num_trials": 10, "sampler": "tpe", "options": {"n_startup_trials": 4}},
    }


def run(content: dict[str, Any], folder: Path, cut: int | None = None) -> Ledger:
    """Run a search; after ``cut`` reports of the worker the driver ends without a word."""
    count = 0

    def watch(progress: Progress) -> None:
        nonlocal count
        count += 1
        if cut is not None and count > cut:
            raise CutError

    spec = load_spec(content)
    ledger = Ledger.open(folder, spec.name, create=True)
    plan = make_plan(spec)
    ledger.write_sweep(spec.text, stored_plan(spec, plan))
    if spec.method == "optuna":
        plan = plan.with_suggestions(ledger)
    left = [trial for trial_id, trial in plan.by_id.items() if trial_id not in ledger.done()]
    execution = Execution(spec, plan, ledger, LocalRunner(0.02), watch, print, 0.0)
    with suppress(CutError):
        execution.train(execution.source(left, Preflight((), {}, 0)))
    return Ledger(ledger.root)


def told(ledger: Ledger) -> list[Any]:
    """Return the events of a search without the time."""
    return [{k: v for k, v in event.items() if k != "written_at"} for event in ledger.search_log]


def trained(ledger: Ledger) -> dict[str, str]:
    return {
        record.trial_id: json.dumps([record.state, record.steps, repr(sorted(record.readings.items()))])
        for record in ledger.records()
    }


def in_pieces(content: dict[str, Any], folder: Path) -> Ledger:
    for cut in (0, 1, 4, 2, 7, 3):
        run(content, folder, cut)
    return run(content, folder)


def test_a_deterministic_search_in_pieces_is_the_whole_one(search: dict[str, Any], tmp_path: Path) -> None:
    search |= {"deterministic": True}
    search["search"]["lag"] = 2
    whole = run(search, tmp_path / "whole")
    pieces = in_pieces(search, tmp_path / "pieces")
    suggestions = [[e for e in told(one) if e["event"] == "suggest"] for one in (whole, pieces)]
    assert suggestions[0] == suggestions[1]
    assert trained(whole) == trained(pieces)
    states = {record.state.value for record in whole.records()}
    assert states == {"completed", "diverged"}
    assert not whole.open_packs() and not pieces.open_packs()


@pytest.mark.parametrize("method", ["optuna", "random"])
@pytest.mark.parametrize("rule", ["asha", "median"])
def test_what_is_stopped_stays_stopped(
    search: dict[str, Any], tmp_path: Path, rule: str, method: str
) -> None:
    search |= {"early_stop": {"type": rule, "min_steps": 5, "eta": 2}, "method": method}
    if method == "random":
        search["search"] = {"num_trials": 10}
    if rule == "median":
        del search["early_stop"]["eta"]
    whole = run(search, tmp_path / "whole")
    pieces = in_pieces(search, tmp_path / "pieces")
    assert trained(whole) == trained(pieces)
    decided = [
        {(e["condition"], e["step"]): (e["value"], e["stop"]) for e in told(one) if e["event"] == "rung"}
        for one in (whole, pieces)
    ]
    assert decided[0] == decided[1]
    states = [record.state.value for record in whole.records()]
    assert "stopped" in states and "completed" in states
    rungs = rung_steps(search["early_stop"], 30)
    assert {record.steps for record in whole.records() if record.state.value == "stopped"} <= set(rungs)


def test_a_stopped_trial_is_the_beginning_of_a_whole_one(search: dict[str, Any], tmp_path: Path) -> None:
    search |= {"early_stop": {"type": "asha", "min_steps": 10, "eta": 2}}
    stopped = run(search, tmp_path / "stopped")
    record = next(record for record in stopped.records() if record.state.value == "stopped")
    alone = {
        **{name: value for name, value in search.items() if name not in ("early_stop", "search", "method")},
        "name": "alone",
        "parameters": {
            **{name: value for name, value in record.parameters.items() if name != "seed"},
            "steps": record.steps,
        },
        "seeds": 2,
    }
    whole = run(alone, tmp_path / "alone")
    [same] = [one for one in whole.records() if one.seed == record.seed]
    assert same.state.value == "completed"
    begun, done = (
        {row[:3]: row[3] for row in rows_of(ledger.curves(one.trial_id))}
        for ledger, one in ((stopped, record), (whole, same))
    )
    assert begun and {key: done[key] for key in begun} == begun


def test_stopped_conditions_are_in_no_ranking(search: dict[str, Any], tmp_path: Path) -> None:
    search |= {"early_stop": {"type": "asha", "min_steps": 5, "eta": 2}}
    ledger = run(search, tmp_path)
    report = api.report(ledger.root)
    assert "stopped early and are not among them" in report.summary
    table = (ledger.report_dir / "tables" / "search.csv").read_text()
    assert table.count(",5,") + table.count(",10,") + table.count(",20,") >= 1


def test_several_objectives_and_constraints(search: dict[str, Any], tmp_path: Path) -> None:
    search |= {
        "metric": [{"name": "test_accuracy"}, {"name": "train_loss"}],
        "constraints": ["diverged_fraction <= 0.5"],
    }
    ledger = run(search, tmp_path)
    report = api.report(ledger.root)
    assert "search-pareto.png" in {path.name for path in report.figures}
    assert "Pareto front" in report.summary
    ends = [event for event in told(ledger) if event["event"] == "end"]
    assert all(len(event["values"]) == 2 and len(event["excess"]) == 1 for event in ends)


def test_a_condition_whose_code_fails_ends_as_failed(
    search: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep.training import PackTrainer

    step = PackTrainer.step

    def broken(self: Any) -> None:
        if self.trials[0].parameters["norm"] == "batch":
            raise RuntimeError("broken")
        step(self)

    monkeypatch.setattr(PackTrainer, "step", broken)
    ledger = run(search, tmp_path)
    ends = {event["number"]: event["state"] for event in told(ledger) if event["event"] == "end"}
    assert set(ends) == set(range(10)) and {"failed", "complete"} == set(ends.values())
    monkeypatch.undo()
    outcome = api.run(search, runner=LocalRunner(), storage=str(tmp_path), retry_failed=True)
    assert outcome.exit_code == 0 and "failed" not in outcome.states


def test_the_best_are_confirmed_with_seeds_that_did_not_choose_them(
    search: dict[str, Any], tmp_path: Path
) -> None:
    ledger = run(search, tmp_path)
    best = Results.read(ledger).found
    outcome = api.confirm(ledger.root, top=2, seeds=3, runner=LocalRunner())
    assert outcome.root == tmp_path / "tiny-confirm" and outcome.states == {"completed": 6}
    confirmed = Results.read(Ledger(outcome.root)).found
    assert best is not None and confirmed is not None
    expected = {one.parameters["lr"] for one in best.ranked[:2]}
    assert {one.parameters["lr"] for one in confirmed.tried} == expected
    assert {record.seed for record in Ledger(outcome.root).records()} == {2, 3, 4}
    again = api.confirm(ledger.root, top=2, seeds=3, runner=LocalRunner())
    assert again.started == 0


def test_a_warm_start_is_said_and_is_in_no_table(search: dict[str, Any], tmp_path: Path) -> None:
    first = run(search, tmp_path)
    warm = {**search, "name": "warm", "search": {**search["search"], "num_trials": 4, "warm_start": "tiny"}}
    said: list[str] = []
    outcome = api.run(warm, runner=LocalRunner(), storage=str(tmp_path), say=said.append)
    assert any(line.startswith("warm start: 10 conditions of tiny are known") for line in said)
    assert outcome.started == 8 and outcome.report is not None
    assert "the sampler knew 10 conditions of tiny before" in outcome.report.summary
    ledger = Ledger(outcome.root)
    assert {record.trial_id for record in ledger.records()} == {t.trial_id for t in ledger.planned()}
    shutil.rmtree(first.root)
    again = {**warm, "search": {**warm["search"], "num_trials": 6}}
    assert api.run(again, runner=LocalRunner(), storage=str(tmp_path)).started == 4


def test_a_finished_search_can_be_shown_to_optunas_tools(search: dict[str, Any], tmp_path: Path) -> None:
    ledger = run(search, tmp_path)
    shown = api.sync_study(ledger.root, uri=f"sqlite:///{tmp_path / 'study.db'}")
    assert shown is not None and shown.shown == 10 and not shown.error
    assert api.sync_study(ledger.root) is None


def test_a_larger_budget_goes_on(search: dict[str, Any], tmp_path: Path) -> None:
    first = [event for event in told(run(search, tmp_path)) if event["event"] == "suggest"]
    search["search"]["num_trials"] = 14
    second = [event for event in told(run(search, tmp_path)) if event["event"] == "suggest"]
    assert second[:10] == first and len(second) == 14


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_all_workers_are_busy_and_the_same_trials_are_made(
    search: dict[str, Any], tmp_path: Path
) -> None:
    """Two workers, then one with MLflow and a study: mirrors' processes are in nothing that Ray stores."""
    from bnsweep.runners.tune import TuneRunner

    search |= {"deterministic": True, "resources": {"cpus": 1, "max_concurrent": 2}}
    search["search"] |= {"lag": 2}
    here = run(search, tmp_path / "here")
    pids: set[int] = set()

    def watch(progress: Progress) -> None:
        pids.add(progress.pid)

    api.run(search, runner=TuneRunner(1, 0, 2), storage=str(tmp_path / "two"), progress=watch)
    assert len(pids) == 2
    assert trained(here) == trained(Ledger(tmp_path / "two" / "tiny"))

    pids.clear()
    said: list[str] = []
    search["search"] |= {"storage": f"sqlite:///{tmp_path / 'study.db'}"}
    search |= {"tracking": {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"}}
    outcome = api.run(
        search, runner=TuneRunner(1, 0, 1), storage=str(tmp_path / "one"), progress=watch, say=said.append
    )
    assert len(pids) == 1
    assert "study tiny shows 10 conditions" in said
    assert outcome.tracked is not None and not outcome.tracked.pending
    assert trained(here) == trained(Ledger(tmp_path / "one" / "tiny"))


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_conditions_are_stopped_and_the_decisions_are_kept(
    search: dict[str, Any], tmp_path: Path
) -> None:
    from bnsweep.runners.tune import TuneRunner

    search |= {"early_stop": {"type": "asha", "min_steps": 5, "eta": 2}}
    search |= {"resources": {"cpus": 1, "max_concurrent": 2}}
    api.run(search, runner=TuneRunner(1, 0, 2), storage=str(tmp_path))
    ledger = Ledger(tmp_path / "tiny")
    events = told(ledger)
    stopped = {e["condition"] for e in events if e["event"] == "rung" and e["stop"]}
    found = {record.condition_id for record in ledger.records() if record.state.value == "stopped"}
    assert found and found <= stopped
    assert len([e for e in events if e["event"] == "end"]) == 10


# The rules


def stopper(folder: Path, rule: str = "asha", goal: str = "test_accuracy", **options: int) -> Stopper:
    content = {
        "name": "s",
        "method": "random",
        "metric": {"name": goal},
        "search": {"num_trials": 9},
        "parameters": {"lr": {"min": 0.1, "max": 1}, "steps": 100},
        "early_stop": {"type": rule, "min_steps": 10, **options},
    }
    ledger = Ledger.open(folder, "s", create=True)
    return Stopper(load_spec(content), ledger.search_log, 100)


def reports(rule: Stopper, first: int = 0, last: int = 12) -> list[bool]:
    """Report values from bad to good and back at the first rung."""
    values = [0.5, 0.1, 0.9, 0.3, 0.95, 0.2, 0.96, 0.4, 0.97, 0.6, 0.1, 0.99]
    return [rule.decide(f"c{index}", 10, values[index]) for index in range(first, last)]


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_a_rule_that_is_rebuilt_decides_as_before(tmp_path: Path, rule: str) -> None:
    whole = reports(stopper(tmp_path / "a", rule))
    for cut in range(12):
        folder = tmp_path / str(cut)
        first = reports(stopper(folder, rule), 0, cut)
        assert first + reports(stopper(folder, rule), cut) == whole
    assert True in whole and False in whole
    assert reports(stopper(tmp_path / "a", rule)) == whole, "a decision is made once"


def test_asha_keeps_one_in_eta(tmp_path: Path) -> None:
    rule = stopper(tmp_path, "asha", eta=3)
    kept = [not rule.decide(f"c{n}", 10, (n * 37 % 101) / 101) for n in range(100)]
    assert 20 <= sum(kept) <= 50


def test_a_loss_is_better_when_it_is_smaller(tmp_path: Path) -> None:
    rule = stopper(tmp_path, "asha", "test_loss", eta=2)
    assert [rule.decide(f"c{n}", 10, value) for n, value in enumerate([1.0, 2.0, 0.5, 3.0])] == [
        False, True, False, True,
    ]  # fmt: skip


def test_those_that_diverged_are_the_worst_at_every_rung(tmp_path: Path) -> None:
    rule = stopper(tmp_path, "asha", eta=3)
    for number in range(4):
        rule.ended(f"burst{number}", 5, 0.1, diverged=True)
    assert not rule.decide("fine", 10, 0.8)
    assert not rule.decide("fine", 30, 0.8)
    events = [event for event in rule.log if event["event"] == "rung"]
    assert [event["step"] for event in events[:3]] == [10, 30, 90]


def test_another_rule_in_the_same_sweep_is_refused(tmp_path: Path) -> None:
    stopper(tmp_path, "asha", eta=3)
    with pytest.raises(BnsweepError, match="must be what it was"):
        stopper(tmp_path, "asha", eta=4)


def test_rays_rules_ask_a_trial_for_no_more_than_its_id() -> None:
    from ray.tune.schedulers import ASHAScheduler

    rule = ASHAScheduler(time_attr="t", metric="m", mode="max", max_t=9, grace_period=1, brackets=1)
    trial = SimpleNamespace(trial_id="x")
    rule.on_trial_add(None, trial)
    assert rule.on_trial_result(None, trial, {"t": 1, "m": 0.5}) == "CONTINUE"
