"""Searches: the same suggestions after any crash, in any order, with any number of workers."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys

import pytest

from bnsweep.errors import BnsweepError, LedgerBusyError, SpecError
from bnsweep.search import check
from bnsweep.sweep import load_spec
from bnsweep.sweep.ledger import Ledger

SAMPLERS = {
    "tpe": {"options": {"n_startup_trials": 4}},
    "gp": {"options": {"n_startup_trials": 4}},
    "nsga2": {"options": {"population_size": 4}},
    "qmc": {},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_goes_on_after_a_crash_as_if_nothing_had_happened(world, sampler):
    number = 8 if sampler == "gp" else 24
    whole, cut = world(), world()
    expected = world.run(whole.search(number, sampler, **SAMPLERS[sampler]))
    for stop in (1, 4, 3):
        world.run(cut.search(number, sampler, **SAMPLERS[sampler]), until=stop)
    assert world.run(cut.search(number, sampler, **SAMPLERS[sampler])) == expected
    assert len(expected) == number


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_what_is_rebuilt_is_the_same_study(world, sampler):
    draw = random.Random(3)
    made = world()
    search = made.search(30, sampler, **SAMPLERS[sampler])
    live = []
    for _ in range(20):
        while len(live) < 3:
            live.append(search.ask())
        world.finish(search, live.pop(draw.randrange(3)))
    again = made.search(30, sampler, **SAMPLERS[sampler])
    one, other = (
        [(t.number, t.state, t.params, t.values, t.system_attrs, t.user_attrs) for t in s.study.study.trials]
        for s in (search, again)
    )
    assert one == other
    assert [s.number for s in again.open] == [s.number for s in search.open]
    number = len(search.suggestions)
    assert search.study.ask(number) == again.study.ask(number)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_lag_makes_the_order_of_results_irrelevant(world, sampler):
    def trials(workers, seed):
        draw = random.Random(seed)
        search = world(deterministic=True).search(24, sampler, lag=4, **SAMPLERS[sampler])
        return world.run(search, workers, lambda live: draw.randrange(len(live)))

    expected = trials(1, 0)
    assert all(trials(workers, seed) == expected for workers, seed in ((2, 1), (4, 2), (4, 3), (8, 4)))


def test_a_lag_keeps_as_many_under_way(world):
    search = world(deterministic=True).search(20, lag=3)
    live = [search.ask() for _ in range(4)]
    assert None not in live and search.ask() is None
    world.finish(search, live[1])
    assert search.ask() is None, "suggestion 4 rests on result 0"
    world.finish(search, live[0])
    assert [search.ask().number for _ in range(2)] == [4, 5]
    assert search.ask() is None


def test_a_crash_with_a_lag(world):
    whole, cut = world(deterministic=True), world(deterministic=True)
    expected = world.run(whole.search(20, lag=3), 3)
    draw = random.Random(5)
    for stop in (2, 5, 1):
        world.run(cut.search(20, lag=3), 3, lambda live: draw.randrange(len(live)), until=stop)
    assert world.run(cut.search(20, lag=3), 2) == expected


def test_no_suggestion_is_lost_or_made_twice(world):
    made = world()
    search = made.search(9)
    first = [search.ask() for _ in range(4)]
    again = made.search(9)
    assert [one.number for one in again.open] == [0, 1, 2, 3]
    assert [one.trial_ids for one in again.open] == [one.trial_ids for one in first]
    assert len(world.run(again, 4)) == 9
    assert not made.search(9).open and not made.search(9).more


def test_a_larger_budget_only_adds(world):
    made = world()
    few = world.run(made.search(6))
    many = world.run(made.search(12))
    assert many[:6] == few and len(many) == 12
    assert many == world.run(world().search(12))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2"])
def test_divergence_keeps_the_sampler_away(world, sampler):
    """A third of the space diverges: less than a third of what the sampler chooses lies there."""
    options = {"n_startup_trials": 8} if sampler != "nsga2" else {"population_size": 6}
    search = world().search(24 if sampler == "gp" else 40, sampler, options=options)
    world.run(search, value=lambda p: None if p["lr"] > 0.5 else world.loss(p))
    trials = search.study.study.trials
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    diverged = [suggestion.trials[0].parameters["lr"] > 0.5 for suggestion in search.suggestions]
    assert sum(diverged[:10]) >= 1
    assert sum(diverged[10:]) / len(diverged[10:]) < 0.25
    assert [trial.user_attrs["diverged_fraction"] == 1.0 for trial in trials] == diverged


def test_a_failed_condition_is_told_as_failed(world):
    made = world()
    search = made.search(3)
    one = search.ask()
    search.end(one.number, [])
    assert search.study.study.trials[0].state.name == "FAIL"
    assert made.search(3).study.study.trials[0].state.name == "FAIL"
    assert len(world.run(search)) == 3


def test_constraints_reach_the_sampler(world):
    def late(sampler):
        made = world(constraints=["test_accuracy >= 0.9"], metric={"name": "test_loss"})
        search = made.search(30, sampler, options={"n_startup_trials": 8})
        # the loss falls with lr, and so does accuracy: the best loss is not feasible
        world.run(search, value=lambda p: 1 / (1 + p["lr"]))
        return search

    search = late("tpe")
    ends = [search.ends[number] for number in range(30)]
    trials = search.study.study.trials
    assert [dict(trial.constraints) for trial in trials] == [end["excess"] for end in ends]
    assert any(end["excess"]["test_accuracy >= 0.9"] > 0 for end in ends)


def test_several_objectives(world):
    metrics = [{"name": "test_loss"}, {"name": "test_accuracy"}]
    search = world(metric=metrics).search(16, "nsga2", options={"population_size": 4})
    world.run(search)
    assert [direction.name for direction in search.study.study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert all(len(trial.values) == 2 for trial in search.study.study.trials)


CONDITIONAL = {
    "model": "vgg11",
    "norm": ["none", "batch", "noisy_batch"],
    "noise": {"min": 0.5, "max": 2, "when": {"norm": "noisy_batch"}},
    "width": {"min": 0.25, "max": 1.0, "num": 4},
    "batch_size": {"min": 16, "max": 64},
}


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_conditions_integers_points_and_lists(world, sampler):
    made = world(parameters={**world.space, **CONDITIONAL})
    search = made.search(40, sampler)
    world.run(search, workers=2)
    for suggestion in search.suggestions:
        parameters = suggestion.trials[0].parameters
        assert ("noise" in parameters) == (parameters["norm"] == "noisy_batch")
        assert parameters["width"] in (0.25, 0.5, 0.75, 1.0)
        assert parameters["batch_size"] in range(16, 65)
        assert float(f"{parameters['lr']:.6g}") == parameters["lr"]
    told = search.study.study.trials
    for suggestion, trial in zip(search.suggestions, told, strict=True):
        parameters = suggestion.trials[0].parameters
        assert {name: parameters[name] for name in trial.params} == trial.params


def test_a_quantile_is_the_objective_if_the_file_says_so(world):
    search = world(seeds=3).search(2, quantile=1.0)
    world.finish(search, search.ask(), value=lambda _: 0.5)
    assert search.ends[0]["values"] == [0.502]


def test_time_runs_out(world):
    made = world()
    now = [0.0]
    spec = made.spec(10, timeout=5)
    search = type(made.search(10))(
        spec, Ledger(made.ledger.root).search_log, made.search(10).expand, clock=lambda: now[0]
    )
    assert search.ask() is not None
    now[0] = 6.0
    assert search.ask() is None and not search.more
    assert len(search.open) == 1


def test_another_search_under_the_same_name_is_refused(world):
    made = world()
    world.run(made.search(4))
    with pytest.raises(BnsweepError, match="must be what it was"):
        made.search(4, "nsga2")


def test_a_second_driver_cannot_write(world):
    made = world()
    one, other = made.search(5), made.search(5)
    one.ask()
    with pytest.raises(LedgerBusyError, match="one process at a time"):
        other.ask()


def test_a_damaged_event_is_moved_aside_with_what_follows(world):
    made = world()
    expected = world.run(made.search(8))
    (made.ledger.root / "search" / "00000007.json").write_text("{")
    again = made.search(8)
    assert len(again.suggestions) < 8
    assert world.run(again) == expected
    assert (made.ledger.root / "quarantine").is_dir()


def test_the_plan_grows_with_the_suggestions(world):
    made = world()
    made.ledger.write_sweep("x", {"trials": [], "search": {"goal": {}}})
    before = made.ledger.plan_version()
    trials = world.run(made.search(3))
    assert [trial.trial_id for trial in made.ledger.planned()] == [i for ids in trials for i in ids]
    assert made.ledger.plan_version() != before


def test_a_sampler_without_its_package_is_refused(world, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cmaes" else find(name))
    with pytest.raises(SpecError, match="pip install cmaes"):
        check(world().spec(4, "cmaes"))


def test_search_imports_neither_ray_nor_torch_nor_mlflow():
    code = (
        "import sys, bnsweep.search.samplers, bnsweep.search.studies\n"
        "print(sorted({'ray', 'torch', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


TOP = "name: a\nmethod: optuna\nsearch: {{{}}}\n{}parameters: {{lr: {{min: 0.1, max: 1}}{}}}\n"
REFUSED = {
    "unknown option": ("num_trials: 9, options: {n_startup: 3}", "", "", "did you mean n_startup_trials"),
    "option of another": ("num_trials: 9, sampler: gp, options: {population_size: 3}", "", "", "sampler gp"),
    "wrong option": ("num_trials: 9, options: {n_ei_candidates: 0}", "", "", ">= 1"),
    "unknown sampler": ("num_trials: 9, sampler: tpee", "", "", "did you mean tpe"),
    "random's sampler": ("num_trials: 9, sampler: sobol", "", "", "method: random"),
    "lag alone": ("num_trials: 9, lag: 2", "", "", "deterministic"),
    "no lag": ("num_trials: 9", "deterministic: true\n", "", "lag"),
    "lag and stopping": (
        "num_trials: 9, lag: 2", "deterministic: true\nearly_stop: {type: asha, min_steps: 10}\n", "",
        "order",
    ),
    "lag and time": ("num_trials: 9, lag: 2, timeout: 60", "deterministic: true\n", "", "wall time"),
    "gp with when": (
        "num_trials: 9, sampler: gp", "",
        ", norm: [batch, noisy_batch], noise: {min: 1, max: 2, when: {norm: noisy_batch}}", "at random",
    ),
    "cmaes with two metrics": (
        "num_trials: 9, sampler: cmaes", "metric: [{name: test_loss}, {name: train_loss}]\n", "", "nsga2",
    ),
    "cmaes with when": (
        "num_trials: 9, sampler: cmaes", "",
        ", momentum: {min: 0, max: 1}, norm: [batch, noisy_batch],"
        " noise: {min: 1, max: 2, when: {norm: noisy_batch}}", "at random",
    ),
    "qmc with constraints": (
        "num_trials: 9, sampler: qmc", 'constraints: ["diverged_fraction <= 0.2"]\n', "", "cannot heed",
    ),
    "too late to stop": (
        "num_trials: 9", "early_stop: {type: asha, min_steps: 300}\n", ", steps: 200", "must be < 200",
    ),
    "hyperband": ("num_trials: 9", "early_stop: {type: hyperband}\n", "", "do not survive the driver"),
    "bohb": ("num_trials: 9", "early_stop: {type: BOHB}\n", "", "do not survive the driver"),
    "pbt": ("num_trials: 9", "early_stop: {type: pbt}\n", "", "do not survive the driver"),
    "no such rule": ("num_trials: 9", "early_stop: {type: ash}\n", "", "did you mean asha"),
    "a range of norms": ("num_trials: 9", "", ", norm: {min: 1, max: 2}", "list the values"),
    "a range of truth": ("num_trials: 9", "", ", momentum: 0.5, nesterov: {min: 0, max: 1}", "list the"),
    "checkpoints": ("num_trials: 9", "keep_checkpoints: true\n", "", "grid or random"),
    "stopping for two metrics": (
        "num_trials: 9",
        "metric: [{name: test_loss}, {name: train_loss}]\nearly_stop: {type: asha, min_steps: 9}\n", "",
        "one metric",
    ),
    "claims": ("num_trials: 9", "claims: [lr_robustness]\n", "", "bias"),
    "no trials": ("num_trials: 0", "", "", ">= 1"),
    "a database of another kind": ("num_trials: 9, storage: mysql://h/d", "", "", "sqlite:///FILE"),
    "a study without a name": ("num_trials: 9, warm_start: sqlite:///x.db", "", "", "DATABASE#STUDY"),
}  # fmt: skip


def test_a_sampler_of_ranges_needs_one():
    lists = TOP.replace("{{min: 0.1, max: 1}}", "[0.1, 1]")
    with pytest.raises(SpecError, match="must have 1 range of numbers or more"):
        load_spec(lists.format("num_trials: 2, sampler: cmaes", "", ""))
    load_spec(TOP.format("num_trials: 9, sampler: cmaes", "", ", norm: [batch, l1]"))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_advice(case):
    search, top, more, words = REFUSED[case]
    with pytest.raises(SpecError) as caught:
        load_spec(TOP.format(search, top, more))
    assert any(words in str(mistake) for mistake in caught.value.mistakes), str(caught.value)
