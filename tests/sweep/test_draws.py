"""Random and quasi-random conditions: prefix-stable, spread as they should be, each once."""

from itertools import islice

import numpy as np
import pytest
from scipy import stats

from bnsweep.errors import SpecError
from bnsweep.sweep import load_spec, make_plan
from bnsweep.sweep.draws import RANDOM_SAMPLERS, condition_at, draw_conditions, free_settings, points
from bnsweep.sweep.settings import Range, Setting

SPACE = {
    "norm": ["none", "batch", "noisy_batch"],
    "lr": {"min": 0.001, "max": 10, "distribution": "log_uniform_values"},
    "noise": {"min": 0.25, "max": 2, "when": {"norm": "noisy_batch"}},
    "momentum": {"min": 0.0, "max": 0.9, "num": 10},
    "batch_size": {"min": 16, "max": 256, "distribution": "log_uniform_values"},
    "steps": 20,
}


def spec_of(number, sampler="independent", parameters=SPACE, **search):
    content = {"name": "a", "method": "random", "parameters": parameters, "seeds": 2}
    return load_spec({**content, "search": {"num_trials": number, "sampler": sampler, **search}})


@pytest.mark.parametrize("sampler", RANDOM_SAMPLERS)
def test_raising_the_budget_only_adds(sampler):
    few, many = (make_plan(spec_of(number, sampler)) for number in (11, 70))
    assert many.trial_ids[: len(few.trial_ids)] == few.trial_ids
    assert (few.count, len(set(few.trial_ids)), many.count) == (22, 22, 140)


@pytest.mark.parametrize("sampler", RANDOM_SAMPLERS)
def test_the_seed_decides(sampler):
    one, same, other = (make_plan(spec_of(8, sampler, seed=seed)).trial_ids for seed in (0, 0, 1))
    assert one == same
    assert not set(one) & set(other)


@pytest.mark.parametrize("sampler", RANDOM_SAMPLERS)
def test_points_fill_the_cube_evenly(sampler):
    found = np.array(list(islice(points(sampler, ["a", "b", "c"], 3), 2048)))
    assert found.shape == (2048, 3)
    for column in found.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.08


def test_latin_hypercubes_have_one_point_in_every_slice():
    found = np.array(list(islice(points("latin_hypercube", ["a", "b"], 0), 64)))
    for n in (1, 2, 4, 8, 16, 32, 64):
        assert np.all(np.sort((found[:n] * n).astype(int), axis=0) == np.arange(n)[:, None])


def test_quasi_random_points_integrate_better():
    def error(sampler, seed):
        found = np.array(list(islice(points(sampler, ["a", "b"], seed), 256)))
        return abs(np.mean(np.prod(3 * found**2, axis=1)) - 1)

    means = {sampler: np.mean([error(sampler, seed) for seed in range(8)]) for sampler in RANDOM_SAMPLERS}
    assert all(means[sampler] < means["independent"] / 2 for sampler in ("sobol", "halton"))


def test_values_are_legal_and_conditions_hold():
    trials = make_plan(spec_of(200)).trials
    for trial in trials:
        lr, momentum, batch = (trial.parameters[name] for name in ("lr", "momentum", "batch_size"))
        assert 0.001 <= lr <= 10 and float(f"{lr:.6g}") == lr
        assert round(momentum * 10, 9) in range(10)
        assert isinstance(batch, int) and 16 <= batch <= 256
        assert ("noise" in trial.parameters) == (trial.parameters["norm"] == "noisy_batch")
    logs = [np.log10(trial.parameters["lr"]) for trial in trials[::2]]
    assert stats.kstest(logs, stats.uniform(-3, 4).cdf).pvalue > 1e-3


def test_a_further_parameter_leaves_independent_draws_as_they_were():
    before = draw_conditions(spec_of(10))
    after = draw_conditions(spec_of(10, parameters={**SPACE, "weight_decay": {"min": 0.0, "max": 0.1}}))
    assert [one["lr"] for one in before] == [one["lr"] for one in after]


def test_every_condition_of_a_small_space_is_found():
    parameters = {"norm": ["none", "batch"], "lr": [0.1, 0.2, 0.3], "noise": 1.0}
    parameters["noise"] = {"values": [1.0, 2.0], "when": {"norm": "noisy_batch"}}
    parameters["norm"] = ["none", "noisy_batch"]
    assert len(draw_conditions(spec_of(9, parameters=parameters))) == 9
    with pytest.raises(SpecError, match="9, the number of different conditions"):
        spec_of(10, parameters=parameters)


@pytest.mark.parametrize(
    ("setting", "low", "high"),
    [
        (Setting("lr", (), range=Range(0.01, 1.0, None, "log_uniform_values")), 0.01, 1.0),
        (Setting("momentum", (), range=Range(0.0, 0.9, None, "uniform")), 0.0, 0.9),
        (Setting("batch_size", (), range=Range(8, 64, None, "log_uniform_values")), 8, 64),
        (Setting("depth", (), range=Range(2, 5, None, "int_uniform")), 2, 5),
        (Setting("norm", ("none", "batch", "l1")), "none", "l1"),
    ],
    ids=["log", "uniform", "log integer", "integer", "list"],
)
def test_ends_are_reached_and_not_passed(setting, low, high):
    assert free_settings([setting]) == [setting]
    assert condition_at([setting], [setting], [0.0])[setting.name] == low
    assert condition_at([setting], [setting], [1 - 2**-53])[setting.name] == high
