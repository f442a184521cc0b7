import math
import sys

import pytest

from bnsweep.analysis.scores import counted_value, metric_named
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState


def record(state=TrialState.COMPLETED, loss=None, data=None, readings=None, **parameters):
    config = TrialConfig.create(parameters)
    step = 7 if state is TrialState.DIVERGED else None
    return Record.of(
        config, state, 7, readings or {}, diverged_step=step, last_finite_loss=loss, data=data or {}
    )


@pytest.mark.parametrize(
    ("name", "dataset", "loss", "expected"),
    [
        pytest.param("test_accuracy", "digits", 5.0, 1 / 10, id="chance-of-10"),
        pytest.param("train_accuracy", "cifar100", None, 1 / 100, id="chance-of-100"),
        pytest.param("test_loss", "digits", 5.0, 5.0, id="last-finite-loss"),
        pytest.param("train_loss", "digits", 0.4, math.log(10), id="untrained-loss"),
        pytest.param("train_loss", "digits", None, math.log(10), id="diverged-at-once"),
    ],
)
def test_a_diverged_trial_counts_at_chance(name, dataset, loss, expected):
    burst = record(TrialState.DIVERGED, loss, dataset=dataset)
    assert counted_value(burst, name) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["test_accuracy", "train_loss"])
def test_a_completed_trial_counts_as_what_it_reads(name):
    assert counted_value(record(readings={name: 0.37}), name) == 0.37


def test_an_absent_reading_is_not_made_up():
    assert math.isnan(counted_value(record(readings={"train_loss": 1.0}), "test_accuracy"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reading_that_overflowed_counts_like_a_diverged_one(value):
    one = record(readings={"test_loss": value, "test_accuracy": 0.3}, loss=3.5)
    assert counted_value(one, "test_loss") == 3.5
    assert counted_value(one, "test_accuracy") == 0.3


def test_a_regression_takes_the_initial_loss_for_chance():
    burst = record(TrialState.DIVERGED, 10.0, model="dln")
    assert counted_value(burst, "train_loss", initial_loss=4e4) == 4e4
    assert counted_value(burst, "train_loss") == 10.0
    assert math.isnan(counted_value(burst, "test_accuracy"))


def test_a_regression_of_which_nothing_is_known_counts_as_the_largest_loss():
    burst = record(TrialState.DIVERGED, None, model="dln")
    assert counted_value(burst, "train_loss") == sys.float_info.max


def test_classes_come_from_the_record_where_the_data_set_is_the_users():
    folder = {"dataset": "image_folder"}
    assert counted_value(record(TrialState.DIVERGED, data={"classes": 4}, **folder), "test_accuracy") == 0.25
    assert counted_value(record(TrialState.DIVERGED, **folder), "test_accuracy") == 0.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [(100.0, -2.0), (4e4, -math.log10(4e4)), (1e300, -math.log10(4e4))],
    ids=["better", "untrained", "exploded"],
)
def test_a_loss_above_the_initial_one_scores_like_the_initial_one(value, expected):
    assert metric_named("train_loss").score(value, 4e4) == pytest.approx(expected)


def test_scores_and_values_are_inverse():
    for name, value in (("test_accuracy", 0.42), ("test_loss", 317.0)):
        metric = metric_named(name)
        assert metric.value(metric.score(value, 1e9)) == pytest.approx(value)
