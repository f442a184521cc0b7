# ruff: noqa: RUF001 (dashes as they are printed)
import math

import pytest

from bnsweep.analysis import results_table, text_summary
from bnsweep.analysis.ranges import facet_ranges, range_table
from bnsweep.analysis.results import Results

LRS = (0.001, 0.01, 0.1, 1.0)
TABLE = {
    **{("none", lr): values for lr, values in zip(LRS, ([0.3], [0.6], [0.59], [None]), strict=True)},
    **{("batch", lr): values for lr, values in zip(LRS, ([0.5], [0.88], [0.9], [0.895]), strict=True)},
}


@pytest.fixture
def ranges(accuracies):
    return facet_ranges(results_table(accuracies({key: value * 2 for key, value in TABLE.items()})))


def arm(ranges, name):
    return next(one for one in ranges.arms if one.arm == name)


def test_threshold_is_half_way_between_chance_and_the_best_mean(ranges):
    assert ranges.threshold == pytest.approx((0.1 + 0.9) / 2)
    assert ranges.reference == pytest.approx(0.1)


def test_learning_rates_near_the_arms_own_best(ranges):
    assert arm(ranges, "none").within == (0.01, 0.1)
    assert arm(ranges, "batch").within == (0.01, 0.1, 1.0)
    assert arm(ranges, "none").decades == pytest.approx(1.0)
    assert arm(ranges, "batch").decades == pytest.approx(2.0)


def test_learning_rates_that_train(ranges):
    assert arm(ranges, "none").trains == (0.01, 0.1)
    assert arm(ranges, "batch").trains == (0.01, 0.1, 1.0)


def test_edges_of_the_grid_are_told(ranges):
    assert arm(ranges, "none").edges == ()
    assert arm(ranges, "batch").edges == ("trains at the largest lr",)


def test_the_common_lr_is_the_largest_at_which_most_arms_train(ranges):
    assert ranges.common_lr == 0.1


@pytest.mark.parametrize(("large", "expected"), [([None, None], 0.01), ([None, 0.2], 0.1)])
def test_of_equal_learning_rates_one_is_common_at_which_every_arm_can_be_seen(accuracies, large, expected):
    table = {
        ("none", 0.01): [0.8, 0.7], ("batch", 0.01): [0.9, 0.9], ("linf", 0.01): [0.2, 0.2],
        ("none", 0.1): large, ("batch", 0.1): [0.9, 0.9], ("linf", 0.1): [0.8, 0.8],
    }  # fmt: skip
    assert facet_ranges(results_table(accuracies(table))).common_lr == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, 0.5, 0.9], ("best at the largest lr", "trains at the largest lr")),
        ([0.9, 0.3, 0.2], ("best at the smallest lr", "trains at the smallest lr")),
        ([0.8, 0.9, 0.8], ("trains at the largest lr", "trains at the smallest lr")),
        ([0.3, 0.9, 0.3], ()),
        ([0.1, 0.1, 0.1], ()),
    ],
    ids=["best-largest", "best-smallest", "everywhere", "inside", "nowhere"],
)
def test_edges(accuracies, values, expected):
    table = {("batch", lr): [value, value] for lr, value in zip((0.01, 0.1, 1.0), values, strict=True)}
    assert facet_ranges(results_table(accuracies(table))).arms[0].edges == expected


def test_one_learning_rate_has_no_edge_and_no_width(accuracies):
    only = facet_ranges(results_table(accuracies({("batch", 0.1): [0.9, 0.8]}))).arms[0]
    assert (only.edges, only.decades, only.trains) == ((), 0.0, (0.1,))


def test_a_few_points_above_chance_do_not_count_as_training(accuracies):
    ranges = facet_ranges(results_table(accuracies({("none", lr): [0.12, 0.13] for lr in LRS})))
    assert ranges.threshold == pytest.approx(0.15)
    assert ranges.arms[0].trains == ()


def test_the_best_of_equal_learning_rates_is_the_smallest(accuracies):
    ranges = facet_ranges(results_table(accuracies({("batch", lr): [0.9] for lr in LRS})))
    assert ranges.arms[0].lrs[ranges.arms[0].best] == 0.001


def test_the_width_stops_at_a_gap(accuracies):
    values = [0.9, 0.3, 0.89, 0.9]
    table = {("batch", lr): [value] for lr, value in zip(LRS, values, strict=True)}
    only = facet_ranges(results_table(accuracies(table))).arms[0]
    assert only.within == (0.001, 0.1, 1.0)
    assert only.decades == pytest.approx(0.0)


def test_diverged_seeds_pull_the_mean_and_are_counted(accuracies):
    ranges = facet_ranges(results_table(accuracies({("none", 0.1): [0.9, None], ("none", 1.0): [0.9, 0.9]})))
    assert ranges.arms[0].means[0].mean == pytest.approx(0.5)
    assert ranges.arms[0].diverged == ((False, True), (False, False))


def test_the_table_gives_the_same_numbers(ranges):
    table = range_table([ranges]).set_index("arm")
    assert list(table["trains_high"]) == [0.1, 1.0]
    assert list(table["within_low"]) == [0.01, 0.01]
    assert list(table["within_lrs"]) == ["0.01 0.1", "0.01 0.1 1"]
    assert list(table["best_mean"]) == pytest.approx([0.6, 0.9])
    assert list(table["edge"]) == ["", "trains at the largest lr"]
    assert list(table["diverged"]) == [2, 0]


def test_a_regression_is_compared_by_loss_on_a_logarithmic_scale(tmp_path, synthetic):
    losses = {("none", 1e-7): 4000.0, ("none", 1e-6): None, ("batch", 1e-7): 700.0, ("batch", 1e-6): 40.0}

    def outcome(config):
        loss = losses[config.parameters["norm"], config.parameters["lr"]]
        rows = [(0, "train_loss", 0, 4e4, 0)]
        if loss is None:
            return synthetic.Outcome({}, rows, diverged_step=3, last_finite_loss=1e250)
        return synthetic.Outcome({"train_loss": loss}, rows)

    conditions = [{"model": "dln", "norm": norm, "lr": lr} for norm, lr in losses]
    ranges = Results.read(synthetic.build(tmp_path, synthetic.trials(conditions, range(3)), outcome)).ranges[
        0
    ]
    assert ranges.metric.name == "train_loss"
    assert ranges.metric.value(ranges.reference) == pytest.approx(4e4)
    assert ranges.metric.value(ranges.threshold) == pytest.approx(math.sqrt(4e4 * 40))
    assert arm(ranges, "none").trains == ()
    assert ranges.metric.value(arm(ranges, "none").means[1].mean) == pytest.approx(4e4)
    assert arm(ranges, "batch").trains == (1e-7, 1e-6)


def test_the_summary_says_it_in_a_terminal(accuracies):
    text = text_summary(accuracies({key: value * 2 for key, value in TABLE.items()}))
    assert "16 of 16 trials done (2 diverged)" in text
    assert "final test_accuracy" in text
    none = next(line for line in text.splitlines() if line.startswith("none"))
    assert none.split("  ") != none.split()
    assert "0.01–0.1" in none and "2 of 8" in none and "60.0 % ± 0.0 (n=2)" in none
    assert "0.01–1*" in text
    assert "above 50.0 %" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_summary_of_nothing(tmp_path, synthetic):
    ledger = synthetic.build(tmp_path, synthetic.trials([{"norm": "none"}], range(2)), lambda one: None)
    assert text_summary(ledger).splitlines()[0] == "0 of 2 trials done, 2 missing"
