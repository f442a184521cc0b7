"""The numbers of a verdict against SciPy's own, and by simulation with known truth."""

import itertools

import numpy as np
import pytest
from scipy import stats

from benchmarks import calibration
from bnsweep.analysis.aggregates import (
    improvement_interval,
    interquartile_mean,
    iqm_interval,
    probability_of_improvement,
)
from bnsweep.analysis.claims.final_scores import largest_lr, lr_sensitivity, width_near_best
from bnsweep.analysis.statistics import (
    holm,
    paired_interval,
    paired_test,
    power,
    seeds_needed,
    smallest_excess,
)
from bnsweep.sweep.spec import SeedSchedule


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_paired_t_test_is_scipys(n):
    values = generator(n).normal(0.4, 1.0, n)
    found = paired_test(values.tolist(), 0.1, generator())
    above = stats.ttest_1samp(values, 0.1, alternative="greater")
    below = stats.ttest_1samp(values, 0.1, alternative="less")
    ends = stats.ttest_1samp(values, 0.1).confidence_interval(0.95)
    assert found.p_above == pytest.approx(min(1, 2 * above.pvalue), rel=1e-9)
    assert found.p_below == pytest.approx(min(1, 2 * below.pvalue), rel=1e-9)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9)
    assert found.method == "paired t"


def test_from_ten_pairs_on_sign_flips_must_reject_too():
    values = [0.1] * 9 + [5.0]
    found = paired_test(values, 0.0, generator())
    centred = np.asarray(values)
    signs = np.asarray(list(itertools.product((-1, 1), repeat=10)))
    flips = np.mean((signs * centred).mean(axis=1) >= centred.mean() - 1e-12)
    assert flips == 1 / 1024
    t = stats.ttest_1samp(centred, 0, alternative="greater").pvalue
    assert found.p_above == pytest.approx(2 * max(flips, t))
    outlier = paired_test([-1.0, 1.0] * 5 + [0.01], 0.0, generator())
    assert outlier.p_above > 0.5


def test_the_generator_decides_the_sign_flips_and_nothing_else():
    values = generator(1).normal(0.3, 1, 29).tolist()
    same = [paired_test(values, 0.0, generator(seed)) for seed in (3, 3)]
    assert same[0] == same[1]
    assert (same[0].low, same[0].high) == pytest.approx(paired_interval(values)[2:])


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 5], ids=["none", "one", "no-spread"])
def test_nothing_is_certain_without_spread(values):
    found = paired_test(values, 0.0, generator())
    assert (found.p_above, found.p_below, found.method) == (1.0, 1.0, "no test")
    assert found.high == np.inf


def test_equal_values_on_a_grid_keep_an_interval():
    found = paired_test([1.0] * 5, 0.0, generator(), resolution=0.5)
    half = stats.t.ppf(0.975, 4) * 0.25 / np.sqrt(5)
    assert (found.low, found.high) == pytest.approx((1 - half, 1 + half))


def test_holm_is_never_above_bonferroni_and_keeps_the_order():
    values = [0.04, 0.001, 0.03, 0.5]
    adjusted = holm(values)
    assert adjusted == pytest.approx([0.09, 0.004, 0.09, 0.5])
    assert all(a <= min(1, 4 * p) + 1e-12 for a, p in zip(adjusted, values, strict=True))


def test_power_is_that_of_the_noncentral_t():
    for excess, n in ((0.5, 5), (1.5, 5), (1.0, 10), (0.5, 29)):
        expected = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, excess * np.sqrt(n))
        assert power(excess, 1.0, n) == pytest.approx(expected, abs=2e-3)


def test_planning_is_consistent():
    excess = smallest_excess(0.4, 7, 0.8)
    assert power(excess, 0.4, 7) == pytest.approx(0.8, abs=1e-3)
    assert seeds_needed(excess * 1.001, 0.4, 0.8) == 7
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-9, 1.0) is None


@pytest.mark.parametrize(("wanted", "n"), [(0.5, 5), (0.8, 5), (0.8, 10)])
def test_power_is_as_forecast(wanted, n):
    excess = smallest_excess(0.1, n, wanted)
    seen = calibration.observed_power(calibration.normal, 0.0, excess, n, 600, generator(4))
    assert seen == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("n", [5, 10, 29])
@pytest.mark.parametrize("shape", [*calibration.SHAPES, *calibration.BEYOND])
def test_power_is_as_forecast_whatever_the_shape_where_a_pilot_shows_it(shape, n):
    draw, resolution = (calibration.SHAPES | calibration.BEYOND)[shape]
    known = calibration.long_pilot(draw, generator(8))
    excess = smallest_excess(known.std(), n, 0.8, 0.05, resolution, tuple(known))
    seen = calibration.observed_power(draw, resolution, excess, n, 500, generator(9))
    assert seen == pytest.approx(0.8, abs=0.05)


def test_a_pilot_of_few_seeds_gives_its_spread_and_one_of_many_its_shape():
    """Where one seed in five fails, ten seeds say what five cannot."""
    draw, resolution = calibration.SHAPES["bimodal, 80 % train"]
    pilot = [0.85] * 8 + [0.0] * 2
    short, sd = pilot[4:], np.std(pilot, ddof=1)
    assert power(0.3, sd, 5, 0.05, resolution, short) == power(0.3, sd, 5, 0.05, resolution)
    for excess in (0.3, 0.45):
        seen = calibration.observed_power(draw, resolution, excess, 5, 600, generator(10))
        assert seen == pytest.approx(power(excess, sd, 5, 0.05, resolution, pilot), abs=0.06)


def test_without_any_spread_nothing_is_forecast():
    assert power(1.0, 0.0, 5) == 0.0
    assert smallest_excess(0.0, 5) == np.inf
    assert seeds_needed(1.0, 0.0) is None
    assert power(1.0, 0.0, 5, resolution=0.5) == pytest.approx(1.0)
    assert power(1.0, 0.0, 12, pilot=[0.3] * 12) == 0.0


@pytest.mark.parametrize("shape", calibration.SHAPES)
def test_a_claim_at_its_threshold_is_not_supported(shape):
    found = calibration.observed_power(*calibration.SHAPES[shape], 0.0, 5, 400, generator(6))
    assert found <= 0.05


SCHEDULE = SeedSchedule(5, 5, 20)


@pytest.mark.parametrize("shape", ["normal", "bimodal, half train", "grid-valued, spread 0.5 steps"])
def test_looking_again_does_not_make_a_false_claim_supported(shape):
    draw, resolution = calibration.SHAPES[shape]
    found = calibration.sequential(draw, resolution, 0.0, SCHEDULE, 250, generator(21))
    assert found.supported <= 0.05
    assert found.covered >= 0.93
    assert found.seeds > 18


def test_a_large_effect_ends_a_sequential_sweep_at_its_first_look():
    found = calibration.sequential(calibration.normal, 0.0, 0.5, SCHEDULE, 100, generator(22))
    assert found.supported == 1.0 and found.seeds < 5.5


def test_uncorrected_looks_would_not_do():
    p = calibration.looked_at(0.0, SCHEDULE.counts, 20_000, generator(23))
    assert (p <= 0.05).any(1).mean() > 0.04  # of one side: 2.5 % are allowed
    assert (p <= 0.05 / 4).any(1).mean() <= 0.025


@pytest.mark.parametrize("n", [5, 10, 29])
@pytest.mark.parametrize("shape", calibration.SHAPES)
def test_intervals_cover_what_they_promise(shape, n):
    draw, resolution = calibration.SHAPES[shape]
    found = calibration.coverage(draw, resolution, n, 1500, generator(11))
    sampling = 2.5 * np.sqrt(0.93 * 0.07 / 1500)
    assert found >= 0.93 - sampling
    if shape == "normal":
        assert found <= 0.97


def test_a_percentile_bootstrap_would_not():
    rng = generator(5)
    inside = 0
    for _ in range(300):
        values = rng.normal(0, 1, 5)
        ends = stats.bootstrap((values,), np.mean, n_resamples=300, method="percentile", rng=rng)
        inside += ends.confidence_interval.low <= 0 <= ends.confidence_interval.high
    assert inside / 300 < 0.90


@pytest.mark.parametrize("n", [5, 10])
def test_sweeps_without_an_effect_are_not_supported(n):
    verdicts = calibration.robustness_verdicts(0.0, n, 3, 60, generator(7))
    assert calibration.share_supported(verdicts) <= 0.05


def test_an_effect_that_just_does_not_matter_is_not_supported():
    verdicts = calibration.robustness_verdicts(0.3, 5, 1, 300, generator(8))
    assert calibration.share_supported(verdicts) <= 0.05


def test_what_the_grid_shows_of_a_gain_is_computed_and_not_supported_at_its_threshold():
    rng = generator(12)
    for reach in (-1.2, -0.9, -1.9):
        part = calibration.lr_robustness(calibration.lr_table(rng, 3000, reach, 0.3), 0.3).parts[0]
        error = np.std(part.values) / np.sqrt(3000)
        assert np.mean(part.values) == pytest.approx(calibration.grid_gain(reach, 0.3, 0.15), abs=4 * error)
    verdicts = calibration.robustness_verdicts(0.3, 10, 1, 200, generator(13), exact=True)
    assert calibration.share_supported(verdicts) <= 0.05


def test_the_effect_of_the_paper_is_supported():
    verdicts = calibration.robustness_verdicts(1.2, 5, 1, 100, generator(9))
    assert calibration.share_supported(verdicts) >= 0.9


def test_an_absent_effect_is_refuted():
    found = list(calibration.robustness_verdicts(-0.5, 10, 1, 60, generator(10)))
    assert np.mean([words == ["refuted"] for words in found]) > 0.8


def test_rliable_measures():
    scores = generator(2).random((8, 3))
    pooled = np.sort(scores.ravel())
    assert interquartile_mean(scores) == pytest.approx(pooled[6:18].mean())
    low, high = iqm_interval(scores, generator(3), 400)
    assert low < interquartile_mean(scores) < high
    assert (low, high) == iqm_interval(scores, generator(3), 400)
    assert (low, high) != iqm_interval(scores, generator(4), 400)
    other = generator(5).random((5, 3))
    direct = np.mean(
        [
            np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(scores[:, i], other[:, i])])
            for i in range(3)
        ]
    )
    assert probability_of_improvement(scores, other) == pytest.approx(direct)


# -- formulas written from their definitions, beside ours ----------------------------------------


def test_holm_is_the_step_down_procedure():
    """Holm 1979: going up the ordered p-values, reject while p(k) <= alpha / (m - k + 1)."""
    rng = generator(31)
    for size in (1, 2, 7, 15):
        p = rng.random(size) ** 3
        p[: size // 2] = np.round(p[: size // 2], 1)  # ties
        adjusted = np.asarray(holm(p.tolist()))
        for alpha in (0.01, 0.05, 0.2):
            rejected = np.zeros(size, dtype=bool)
            for rank, index in enumerate(np.argsort(p, kind="stable")):
                if p[index] > alpha / (size - rank):
                    break
                rejected[index] = True
            assert (adjusted <= alpha).tolist() == rejected.tolist()


def test_learning_rate_sensitivity_is_that_of_the_definition():
    """Wortsman et al. 2023, Section 2.2: the mean over the grid of min(loss, first loss) - best loss."""
    losses = np.array([[0.9, 0.3, 0.2, 7.0, np.inf], [2.0, 1.0, 0.5, 0.6, 3.0]])
    first = 2.3
    expected = [np.mean([min(loss, first) - min(row) for loss in row]) for row in losses]
    assert lr_sensitivity(-losses, -first) == pytest.approx(expected)
    chance = np.array([[0.9, 0.8, 0.05]])
    assert lr_sensitivity(chance, 0.1)[0] == pytest.approx((0.0 + 0.1 + (0.9 - 0.1)) / 3)


def test_widths_and_reaches_are_counted_by_hand():
    lrs = (0.001, 0.01, 0.1, 1.0, 10.0)
    scores = np.array([
        [0.90, 0.50, 0.89, 0.91, 0.10],  # best at 1, unbroken down to 0.1
        [0.91, 0.90, 0.895, 0.10, 0.10],  # best at the first
        [0.10, 0.10, 0.10, 0.10, 0.95],  # best at the last, alone
    ])  # fmt: skip
    assert width_near_best(scores, lrs, 0.02) == pytest.approx([1.0, 2.0, 0.0])
    assert largest_lr(scores, lrs, 0.5, -9.0) == pytest.approx([0.0, -1.0, 1.0])
    assert largest_lr(np.full((1, 5), 0.1), lrs, 0.5, -9.0) == pytest.approx([-9.0])


def test_the_interval_of_the_iqm_is_the_stratified_percentile_bootstrap():
    """As in rliable: runs drawn again with replacement in each task, all scores pooled, then percentiles."""
    scores = generator(33).normal(0.5, 0.2, (12, 4))
    rng, found = generator(34), []
    for _ in range(4000):
        drawn = np.stack([scores[rng.integers(0, 12, 12), task] for task in range(4)], axis=1)
        ordered = np.sort(drawn.ravel())
        found.append(ordered[12:36].mean())
    expected = np.percentile(found, [2.5, 97.5])
    ours = iqm_interval(scores, generator(35), 4000)
    assert ours == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))


def test_what_a_bootstrap_interval_of_five_pairs_lacks():
    """Percentile and BCa intervals, from their definitions, against SciPy: too short for verdicts."""
    values = generator(36).normal(0.3, 0.1, 5)
    rng = generator(37)
    means = np.sort(values[rng.integers(0, 5, (40_000, 5))].mean(axis=1))
    percentile = np.percentile(means, [2.5, 97.5])
    bias = stats.norm.ppf(np.mean(means < values.mean()) + 0.5 * np.mean(means == values.mean()))
    jackknife = np.array([np.delete(values, i).mean() for i in range(5)])
    spread = jackknife.mean() - jackknife
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    bca = np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    _, _, low, high = paired_interval(values.tolist())
    for method, expected in (("percentile", percentile), ("BCa", bca)):
        found = stats.bootstrap((values,), np.mean, n_resamples=40_000, method=method, rng=generator(38))
        ends = (found.confidence_interval.low, found.confidence_interval.high)
        assert ends == pytest.approx(tuple(expected), abs=0.005)
        assert expected[1] - expected[0] < 0.8 * (high - low)


def test_the_interval_of_the_probability_of_improvement_is_a_stratified_bootstrap():
    first, second = generator(40).normal(0.3, 1, (7, 3)), np.round(generator(41).normal(0, 1, (5, 3)), 1)
    rng, found = generator(42), []
    for _ in range(1500):
        total = 0.0
        for task in range(3):
            a, b = first[rng.integers(0, 7, 7), task], second[rng.integers(0, 5, 5), task]
            total += stats.mannwhitneyu(a, b).statistic / 35
        found.append(total / 3)
    expected = np.percentile(found, [2.5, 97.5])
    ours = improvement_interval(first, second, generator(43))
    assert ours == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))
