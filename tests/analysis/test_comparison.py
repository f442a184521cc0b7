"""Two sweeps, or two arms of one, side by side."""

import numpy as np
import pytest

from bnsweep.analysis.comparison import Side, compare
from bnsweep.analysis.results import Results
from bnsweep.errors import BnsweepError

TABLE = {
    ("none", 0.1): [0.6, 0.6, 0.7],
    ("batch", 0.1): [0.8, 0.7, 0.9],
    ("none", 1.0): [0.1, 0.1, None],
    ("batch", 1.0): [0.8, 0.9, 0.8],
}


def test_arms_of_one_sweep_pair_by_seed(accuracies):
    results = Results.read(accuracies(TABLE))
    lines = compare(Side(results, "batch"), Side(results, "none"))
    difference = np.array([0.2, 0.1, 0.2])
    half = 4.30265273 * difference.std(ddof=1) / np.sqrt(3)
    assert lines[2] == "batch − none"  # noqa: RUF001
    expected = f"+16.7 points [+{100 * (difference.mean() - half):.1f}"
    assert lines[3].startswith(f"  lr 0.1: {expected}")
    assert "(80.0 % and 63.3 %, n=3)" in lines[3]
    assert lines[5].startswith("  mean: +45.0 points")


def test_two_sweeps_are_matched_by_arm(accuracies):
    results = Results.read(accuracies(TABLE))
    lines = compare(Side(results), Side(results))
    assert [line for line in lines if not line.startswith(" ")][1:] == ["", "none", "", "batch"]
    assert all("+0.0 points" in line for line in lines if line.startswith("  lr"))


def test_an_arm_that_is_not_there_is_named(accuracies):
    results = Results.read(accuracies(TABLE))
    with pytest.raises(BnsweepError, match="the arms of synthetic: none, batch"):
        compare(Side(results, "l1"), Side(results))
