import math

import numpy as np
import pytest
from scipy import stats

from bnsweep.analysis import condition_table, results_table
from bnsweep.analysis.results import Results
from bnsweep.analysis.tables import arm_label, facet_label, varying_parameters

TABLE = {
    ("none", 0.1): [0.5, 0.6, None],
    ("none", 1.0): [None, None, None],
    ("batch", 0.1): [0.9, 0.92, 0.97],
    ("batch", 1.0): [0.8, 0.7, 0.95],
}


def row(table, norm, lr):
    return table[(table["norm"] == norm) & (table["lr"] == lr)].iloc[0]


def test_one_row_a_finished_trial_in_the_plans_order(accuracies):
    table = results_table(accuracies(TABLE))
    assert list(table["norm"]) == ["none"] * 6 + ["batch"] * 6
    assert list(table["seed"]) == [0, 1, 2] * 4
    assert table["trial_id"].is_unique
    assert table["test_accuracy"].isna().sum() == 4
    assert set(table.loc[table["state"] == "diverged", "test_accuracy_counted"]) == {0.1}
    assert set(table.loc[table["state"] == "diverged", "diverged_step"]) == {7}
    assert set(table["width"]) == {1.0}


def test_conditions_count_diverged_seeds_at_chance(accuracies):
    ledger = accuracies(TABLE)
    found = row(condition_table(results_table(ledger), ledger.planned()), "none", 0.1)
    values = np.array([0.5, 0.6, 0.1])
    assert found["test_accuracy_mean"] == pytest.approx(values.mean())
    assert found["test_accuracy_sd"] == pytest.approx(values.std(ddof=1))
    assert (found["test_accuracy_min"], found["test_accuracy_max"]) == (0.1, 0.6)
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert (found["test_accuracy_low"], found["test_accuracy_high"]) == pytest.approx((low, high))
    assert found["diverged_fraction"] == pytest.approx(1 / 3)
    assert found["train_loss_mean"] == pytest.approx((0.5 + 0.4 + 5.0) / 3)


def test_every_aggregate_is_finite_where_all_seeds_diverged(accuracies):
    ledger = accuracies(TABLE)
    found = row(condition_table(results_table(ledger), ledger.planned()), "none", 1.0)
    assert found["diverged_fraction"] == 1.0
    assert found["test_accuracy_mean"] == pytest.approx(0.1)
    assert all(
        math.isfinite(found[f"train_loss_{part}"]) for part in ("mean", "sd", "min", "max", "low", "high")
    )


def test_missing_trials_are_counted_and_unequal_seeds_seen(tmp_path, synthetic):
    plan = synthetic.trials([{"norm": "none"}, {"norm": "batch"}, {"norm": "l1"}], range(3))
    outcome = lambda one: (  # noqa: E731
        None
        if one.parameters["norm"] == "l1" or (one.parameters["norm"] == "batch" and one.seed == 1)
        else synthetic.Outcome({"test_accuracy": 0.5})
    )
    results = Results.read(synthetic.build(tmp_path, plan, outcome))
    table = results.conditions.set_index("norm")
    assert list(table["planned"]) == [3, 3, 3]
    assert list(table["done"]) == [3, 2, 0]
    assert list(table["missing"]) == [0, 1, 3]
    assert list(table["seeds"]) == ["0 1 2", "0 2", ""]
    assert math.isnan(table.loc["l1", "test_accuracy_mean"])
    assert (results.planned, results.missing) == (9, 4)


def test_without_a_plan_what_is_there_was_planned(accuracies):
    table = condition_table(results_table(accuracies(TABLE)))
    assert list(table["missing"]) == [0, 0, 0, 0]
    assert list(table["arm"]) == ["none", "none", "batch", "batch"]


def test_records_outside_the_plan_are_left_out_and_said(tmp_path, synthetic):
    old = synthetic.trials([{"norm": "rms"}], range(2))
    plan = synthetic.trials([{"norm": "none"}], range(2))
    ledger = synthetic.build(tmp_path, plan, lambda one: synthetic.Outcome({"test_accuracy": 0.5}))
    for one in old:
        synthetic.add(ledger, one, synthetic.Outcome({"test_accuracy": 0.9}))
    results = Results.read(ledger)
    assert set(results.trials["norm"]) == {"none"}
    assert results.outside == 2


def test_a_sweep_without_finished_trials_has_empty_tables(tmp_path, synthetic):
    plan = synthetic.trials([{"norm": "none"}], range(2))
    ledger = synthetic.build(tmp_path, plan, lambda one: None)
    assert len(results_table(ledger)) == 0
    assert list(condition_table(results_table(ledger), ledger.planned())["missing"]) == [2]


def test_arms_differ_in_the_norms_settings_and_facets_in_the_rest(synthetic):
    conditions = synthetic.grid(["batch", "noisy_batch"], [0.1, 0.3], width=0.5)
    conditions += synthetic.grid(["batch"], [0.1], width=1.0)
    configs = synthetic.trials(conditions, range(2))
    varying = varying_parameters(configs)
    assert varying == ("width", "norm", "noise", "lr", "seed")
    arms = dict.fromkeys(arm_label(one.parameters, varying) for one in configs)
    assert list(arms) == ["batch", "noisy_batch noise=0.5", "noisy_batch noise=1"]
    assert {facet_label(one.parameters, varying) for one in configs} == {"width=0.5", "width=1"}


def test_the_initial_loss_of_a_regression_is_read_from_its_curves(tmp_path, synthetic):
    plan = synthetic.trials([{"model": "dln", "norm": "none", "lr": 1e-5}], range(2))
    table = results_table(synthetic.build(tmp_path, plan, synthetic.regression))
    assert list(table["state"]) == ["diverged"] * 2
    assert table["initial_loss"].between(2e4, 8e4).all()
    assert set(table["train_loss_counted"]) == {1e300}
    assert set(table["classes"]) == {0}
