"""One contract for every sampler: what each has to keep, whoever made it."""

from __future__ import annotations

import json
import random

import pytest
from scipy.stats import binom

from bnsweep.errors import SpecError
from bnsweep.sweep import load_spec, make_plan
from bnsweep.sweep.draws import RANDOM_SAMPLERS
from bnsweep.sweep.samplers import OPTUNA_SAMPLERS

OPTIONS = {
    "tpe": {"n_startup_trials": 6},
    "gp": {"n_startup_trials": 6},
    "cmaes": {"popsize": 6},
    "nsga2": {"population_size": 6},
    "qmc": {},
}
NUMBER = {"gp": 14}
LEARN = [name for name in OPTIONS if name != "qmc"]
"""Samplers that learn: points of a sequence do not depend on results."""


def make(made, sampler, number=None, **search):
    return made.search(number or NUMBER.get(sampler, 24), sampler, options=OPTIONS[sampler], **search)


def test_no_sampler_is_left_out():
    assert set(OPTIONS) == set(OPTUNA_SAMPLERS)


@pytest.mark.parametrize("sampler", OPTIONS)
def test_a_search_cut_at_every_suggestion_is_the_whole_one(world, sampler):
    """The process ends after each suggestion, and once more after each result."""
    whole, cut = world(), world()
    expected = world.run(make(whole, sampler))
    for _ in expected:
        one = make(cut, sampler).ask()
        again = make(cut, sampler)
        assert [open_.trial_ids for open_ in again.open] == [one.trial_ids], "handed out once, and not lost"
        world.finish(again, again.open[0])
    assert world.run(make(cut, sampler)) == expected
    assert len(expected) == NUMBER.get(sampler, 24)


@pytest.mark.parametrize("sampler", OPTIONS)
def test_workers_that_overtake_each_other_are_replayed(world, sampler):
    draw = random.Random(11)
    made = world()
    search, number = make(made, sampler), NUMBER.get(sampler, 24)
    live = []
    while len(search.ends) < number - 4:
        while len(live) < 4:
            live.append(search.ask())
        world.finish(search, live.pop(draw.randrange(4)))
    again = make(made, sampler)
    assert [one.trial_ids for one in again.suggestions] == [one.trial_ids for one in search.suggestions]
    assert [one.number for one in again.open] == sorted(one.number for one in live)
    number = len(search.suggestions)
    assert search.study.ask(number) == again.study.ask(number)
    numbers = [one.number for one in search.suggestions]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("sampler", OPTIONS)
def test_with_a_lag_the_number_of_workers_does_not_matter(world, sampler):
    def trials(workers, seed):
        draw = random.Random(seed)
        search = make(world(deterministic=True), sampler, lag=3)
        return world.run(search, workers, lambda live: draw.randrange(len(live)))

    expected = trials(1, 0)
    assert trials(3, 1) == trials(4, 2) == expected


@pytest.mark.parametrize("sampler", LEARN)
def test_divergence_teaches_the_sampler(world, sampler):
    """Where lr > 0.5 everything diverges, 32.5 % of the space: late choices lie there less than by chance."""
    bad = chosen = met = 0
    for seed in range(3 if sampler == "gp" else 6):
        search = make(world(), sampler, 20 if sampler == "gp" else 46, seed=seed)
        world.run(search, value=lambda p: None if p["lr"] > 0.5 else world.loss(p))
        states = {trial.state.name for trial in search.study.study.trials}
        assert states == {"COMPLETE"}, "never left running, never dropped"
        diverged = [one.trials[0].parameters["lr"] > 0.5 for one in search.suggestions]
        told = [end["diverged_fraction"] == 1.0 for _, end in sorted(search.ends.items())]
        assert told == diverged
        met += any(diverged)
        late = diverged[8:] if sampler == "gp" else diverged[16:]
        bad, chosen = bad + sum(late), chosen + len(late)
    assert met, "no search came where everything diverges"
    assert binom.cdf(bad, chosen, 0.325) < 0.005, f"{bad} of {chosen} suggestions diverge"


@pytest.mark.parametrize("sampler", LEARN)
def test_a_sampler_finds_what_chance_does_not(world, sampler):
    """The median over 5 searches of the best value, against as many random searches."""

    def best(values):
        return sorted(values)[len(values) // 2]

    number = 20 if sampler == "gp" else 40
    learnt, drawn = [], []
    for seed in range(5):
        search = make(world(), sampler, number, seed=seed)
        world.run(search)
        learnt.append(min(end["values"][0] for end in search.ends.values()))
        blind = world().search(number, "qmc", seed=seed)
        world.run(blind)
        drawn.append(min(end["values"][0] for end in blind.ends.values()))
    assert best(learnt) < best(drawn) if sampler != "nsga2" else best(learnt) < 2 * best(drawn)


def space(sampler):
    """Return settings of every kind that a sampler can have."""
    conditional = {"noise": {"min": 0.5, "max": 2, "when": {"norm": "noisy_batch"}}}
    return {
        "model": "vgg11",
        "norm": ["none", "batch", "noisy_batch"],
        "width": {"min": 0.25, "max": 1.0, "num": 4},
        "batch_size": {"min": 16, "max": 64},
        "lr": {"min": 0.001, "max": 1, "distribution": "log_uniform_values"},
        "momentum": {"min": 0.0, "max": 0.9},
        "steps": 10,
    } | (conditional if OPTUNA_SAMPLERS[sampler].conditions else {})


@pytest.mark.parametrize("sampler", OPTIONS)
def test_integers_steps_lists_logarithms_and_conditions(world, sampler):
    made = world(parameters=space(sampler))
    search = make(made, sampler)
    world.run(search, workers=2, value=lambda p: world.loss({"lr": p["lr"], "momentum": p["momentum"]}))
    seen = [suggestion.trials[0].parameters for suggestion in search.suggestions]
    for parameters in seen:
        assert ("noise" in parameters) == (parameters["norm"] == "noisy_batch")
        assert parameters["width"] in (0.25, 0.5, 0.75, 1.0)
        assert type(parameters["batch_size"]) is int and 16 <= parameters["batch_size"] <= 64
        assert 0.001 <= parameters["lr"] <= 1 and float(f"{parameters['lr']:.6g}") == parameters["lr"]
    assert len({parameters["norm"] for parameters in seen}) > 1
    below = sum(parameters["lr"] < 10**-1.5 for parameters in seen[:6])
    assert 0 < below < 6 or sampler == "cmaes", "the middle of a logarithmic range is 0.03"
    for parameters, trial in zip(seen, search.study.study.trials, strict=True):
        assert {name: parameters[name] for name in trial.params} == trial.params, "it learns what was trained"
    again = make(made, sampler)
    assert [one.trial_ids for one in again.suggestions] == [one.trial_ids for one in search.suggestions]


@pytest.mark.parametrize("sampler", OPTIONS)
def test_several_objectives_are_served_or_refused(world, sampler):
    metrics = [{"name": "test_loss"}, {"name": "test_accuracy"}]
    made = world(metric=metrics)
    if not OPTUNA_SAMPLERS[sampler].objectives:
        with pytest.raises(SpecError, match="must be one metric"):
            make(made, sampler)
        return
    search = make(made, sampler, 10)
    world.run(search)
    assert [direction.name for direction in search.study.study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert all(len(trial.values) == 2 for trial in search.study.study.trials)
    assert [one.trial_ids for one in make(made, sampler, 10).suggestions] == [
        one.trial_ids for one in search.suggestions
    ]


@pytest.mark.parametrize("sampler", OPTIONS)
def test_constraints_are_heeded_or_refused(world, sampler):
    """The loss falls with lr and so does accuracy: the best loss is not allowed."""
    text = "test_accuracy >= 0.9"
    made = world(constraints=[text])
    if not OPTUNA_SAMPLERS[sampler].constraints:
        with pytest.raises(SpecError, match="cannot heed"):
            make(made, sampler)
        return
    late = {}
    for name, held in (("with", made), ("without", world())):
        search = make(held, sampler, 22 if sampler == "gp" else 40)
        world.run(search, value=lambda p: 1 / (1 + p["lr"]))
        late[name] = [one.trials[0].parameters["lr"] for one in search.suggestions][-12:]
        if name == "with":
            excess = [end["excess"] for _, end in sorted(search.ends.items())]
            assert [dict(trial.constraints) for trial in search.study.study.trials] == excess
            assert any(one[text] > 0 for one in excess)
    allowed = 1 / 0.10536 - 1  # exp(-1 / (1 + lr)) >= 0.9 where lr is at least this
    kept = {name: sum(lr >= allowed for lr in lrs) for name, lrs in late.items()}
    assert kept["with"] >= kept["without"]


# random


def draws(sampler, number, **parameters):
    content = {
        "name": "s",
        "method": "random",
        "search": {"num_trials": number, "sampler": sampler},
        "parameters": space("tpe") | parameters,
    }
    return [trial.parameters for trial in make_plan(load_spec(content)).trials]


@pytest.mark.parametrize("sampler", RANDOM_SAMPLERS)
def test_random_draws_every_kind_and_a_larger_budget_only_adds(sampler):
    few, many = draws(sampler, 20), draws(sampler, 50)
    assert many[:20] == few
    assert len({json.dumps(one, sort_keys=True) for one in many}) == 50, "no condition twice"
    for parameters in many:
        assert ("noise" in parameters) == (parameters["norm"] == "noisy_batch")
        assert parameters["width"] in (0.25, 0.5, 0.75, 1.0)
        assert type(parameters["batch_size"]) is int and 16 <= parameters["batch_size"] <= 64
    assert 15 <= sum(parameters["lr"] < 10**-1.5 for parameters in many) <= 35
    assert {parameters["norm"] for parameters in many} == {"none", "batch", "noisy_batch"}
