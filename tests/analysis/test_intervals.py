import math

import numpy as np
import pytest
from scipy import stats

from bnsweep.analysis.intervals import mean_interval


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 5, 29])
def test_interval_is_the_t_interval_of_scipy(n, level):
    values = np.random.default_rng(n).normal(0.7, 0.2, n)
    found = mean_interval(list(values), level)
    low, high = stats.t.interval(level, n - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-10)
    assert (found.n, found.mean, found.sd) == (
        n,
        pytest.approx(values.mean()),
        pytest.approx(values.std(ddof=1)),
    )


def test_one_value_has_a_mean_and_no_band():
    found = mean_interval([0.25])
    assert (found.n, found.mean) == (1, 0.25)
    assert all(math.isnan(x) for x in (found.sd, found.low, found.high))


def test_no_value_has_nothing():
    assert mean_interval([]).n == 0
    assert math.isnan(mean_interval([]).mean)


def test_equal_values_have_a_band_of_no_width():
    found = mean_interval([0.1] * 5)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert mean_interval([0.0, 0.0]).high == 0.0


def test_the_largest_losses_do_not_overflow():
    found = mean_interval([1e308, 1.2e308, 1.6e308])
    assert found.mean == pytest.approx(1e308 * (3.8 / 3))
    assert found.sd == pytest.approx(1e308 * np.std([1.0, 1.2, 1.6], ddof=1))


def test_coverage_of_the_mean_of_normal_data():
    draws = np.random.default_rng(1).normal(0.5, 0.1, (2000, 5))
    hits = sum(1 for row in draws if (m := mean_interval(list(row))).low <= 0.5 <= m.high)
    assert 0.935 < hits / 2000 < 0.965
