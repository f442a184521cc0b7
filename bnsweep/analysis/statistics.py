"""Paired tests, their power, and the corrections for judging several claims: the numbers of a verdict.

Which interval and which test is used was decided by simulation (``python -m benchmarks.calibration``):
at five seeds a percentile bootstrap covers 84 % where it should cover 95 %, a Student-t interval of
the paired differences 95 %, and for values that lie on a grid a t interval covers 35 to 95 % unless
the standard deviation is given a floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "LEVEL",
    "PERMUTATION_SEEDS",
    "PairedTest",
    "holm",
    "paired_interval",
    "paired_test",
    "power",
    "seeds_needed",
    "smallest_excess",
]

LEVEL = 0.95
"""Coverage that intervals aim at."""

PERMUTATION_SEEDS = 10
"""From this many pairs on a sign-flip permutation test must reject as well."""

PILOT_SEEDS = 10
"""From this many values on a pilot's own shape forecasts power, below it a normal of its spread."""

RESAMPLES = 9_999
MOST_SEEDS = 1_000


@dataclass(frozen=True)
class PairedTest:
    """A mean of paired differences against a threshold.

    Attributes:
        n: Number of pairs.
        mean: Mean difference.
        sd: Standard deviation used: the sample's, or the floor where that is larger.
        low: Lower end of the 95 % interval of the mean.
        high: Upper end.
        p_above: Two-sided p-value of the finding that the mean lies above the threshold.
        p_below: The same for below.
        method: The test, in words.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    p_above: float
    p_below: float
    method: str


def paired_test(
    values: Sequence[float],
    threshold: float,
    rng: np.random.Generator,
    resolution: float = 0.0,
    looks: int = 1,
) -> PairedTest:
    r"""Test on which side of ``threshold`` the mean of paired differences lies.

    With :math:`n` differences of mean :math:`m` and standard deviation :math:`s`, the interval is
    :math:`m \pm t_{n-1,\,0.975}\; \max(s, h/2) / \sqrt{n}`, where :math:`h` is ``resolution``: what
    one more trial, ending otherwise, would change. Without that floor, five equal values on a grid
    would be certain. p-values are twice the one-sided ones, so that ``p_above <= 0.05`` says that
    the interval lies wholly above. From :data:`PERMUTATION_SEEDS` pairs on they are the larger of
    the t test's and of a sign-flip permutation test's (:func:`scipy.stats.permutation_test`).

    Args:
        values: Finite differences, one a seed.
        threshold: What the mean is tested against.
        rng: Draws the sign flips, where there are too many to enumerate.
        resolution: Step of the grid that the values lie on; 0 for a continuum.
        looks: How many times the values may be looked at while they grow: the interval holds over all
            of them, by Bonferroni's inequality. The p-values are those of this look alone.

    Returns:
        The test; its interval is infinite for fewer than two values, or where neither seeds nor
        grid show any spread.

    Example:
        >>> import numpy as np
        >>> found = paired_test([1.0, 2.0, 3.0], 0.0, np.random.default_rng(0))
        >>> round(found.low, 4), round(found.p_above, 4)  # 2 - 4.3027 / sqrt(3)
        (-0.4841, 0.0742)
    """
    import numpy as np
    from scipy.special import stdtr

    n = len(values)
    mean, sd, low, high = paired_interval(values, resolution, looks)
    if n < 2 or not math.isfinite(low):
        return PairedTest(n, mean, sd, low, high, 1.0, 1.0, "no test")
    statistic = (mean - threshold) / (sd / math.sqrt(n))
    above, below = float(stdtr(n - 1, -statistic)), float(stdtr(n - 1, statistic))
    method = "paired t"
    if n >= PERMUTATION_SEEDS:
        flips_above, flips_below = _sign_flips(np.asarray(values, dtype=float) - threshold, rng, looks)
        above, below = max(above, flips_above), max(below, flips_below)
        method = "paired t and sign flips"
    return PairedTest(n, mean, sd, low, high, min(1.0, 2 * above), min(1.0, 2 * below), method)


def paired_interval(
    values: Sequence[float], resolution: float = 0.0, looks: int = 1
) -> tuple[float, float, float, float]:
    """Return mean, standard deviation used, and the ends of the 95 % interval of the mean.

    Args:
        values: As for :func:`paired_test`.
        resolution: As for :func:`paired_test`.
        looks: As for :func:`paired_test`.
    """
    import numpy as np
    from scipy.special import stdtrit

    array = np.asarray(values, dtype=float)
    n = len(array)
    mean = float(array.mean()) if n else math.nan
    sd = max(float(array.std(ddof=1)), resolution / 2) if n > 1 else math.nan
    if n < 2 or not sd > 1e-12 * max(1.0, abs(mean)):
        return mean, sd, -math.inf, math.inf
    half = float(stdtrit(n - 1, 1 - (1 - LEVEL) / (2 * looks))) * sd / math.sqrt(n)
    return mean, sd, mean - half, mean + half


def _sign_flips(centred: np.ndarray, rng: np.random.Generator, looks: int) -> tuple[float, float]:
    """Return one-sided p-values of a mean above and below zero under random signs."""
    import numpy as np
    from scipy.stats import permutation_test

    def mean(x: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(np.mean(x, axis=axis))

    # Rounding must not make equal sums differ: values are put on a fine grid first.
    scale = float(np.abs(centred).max()) or 1.0
    rounded = np.round(centred / scale, 9)
    found = permutation_test(
        (rounded,), mean, permutation_type="samples", vectorized=True, n_resamples=looks * RESAMPLES,
        alternative="greater", rng=rng,
    )  # fmt: skip
    observed, null = float(found.statistic), np.asarray(found.null_distribution)
    spare = 0 if len(null) < looks * RESAMPLES else 1
    total = len(null) + spare
    tiny = 1e-12
    above = (int(np.sum(null >= observed - tiny)) + spare) / total
    below = (int(np.sum(null <= observed + tiny)) + spare) / total
    return above, below


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down procedure, in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def power(
    excess: float,
    sd: float,
    n: int,
    alpha: float = 0.05,
    resolution: float = 0.0,
    pilot: Sequence[float] = (),
) -> float:
    r"""Return the probability that :func:`paired_test` finds a mean above its threshold.

    The mean and the standard deviation of a normal sample are independent, so the probability is
    an average over the latter: :math:`E_s\,\Phi\bigl((\delta - t\,\max(s, h/2)/\sqrt{n}) \sqrt{n} /
    \sigma\bigr)`. Where a pilot has :data:`PILOT_SEEDS` values or more, samples are drawn from those instead:
    skewed differences, and arms that train with some seeds only, are far from normal.

    Args:
        excess: Distance :math:`\delta` of the true mean from the threshold.
        sd: True standard deviation :math:`\sigma` of the differences.
        n: Number of pairs.
        alpha: Level of the two-sided test.
        resolution: As for :func:`paired_test`.
        pilot: Differences seen before, whose shape the new ones are taken to have.

    Returns:
        The probability; 0 where neither seeds nor grid show any spread, for then there is no test.

    Example:
        >>> round(power(0.0, 1.0, 5), 3)  # the level of one side
        0.025
    """
    import numpy as np
    from scipy.special import chdtri, ndtr, stdtrit

    if n < 2 or max(sd, resolution) <= 0:
        return 0.0
    if len(pilot) >= PILOT_SEEDS:
        means, sds, flipped, signs = _drawn_again(tuple(pilot), n)
        used = np.maximum(sds, resolution / 2)
        edge = stdtrit(n - 1, 1 - alpha / 2) * used / math.sqrt(n)
        found = (excess + means >= edge) & (used > 0)
        if n >= PERMUTATION_SEEDS:
            as_far = flipped + excess * signs >= (excess + means - 1e-9 * sd)[:, None]
            found &= as_far.mean(axis=1) <= alpha / 2
        return float(found.mean())
    sd = max(sd, 1e-3 * resolution / 2)
    parts = (np.arange(800) + 0.5) / 800
    s = sd * np.sqrt(chdtri(n - 1, 1 - parts) / (n - 1))
    edge = stdtrit(n - 1, 1 - alpha / 2) * np.maximum(s, resolution / 2)
    return float(np.mean(ndtr((excess * math.sqrt(n) - edge) / sd)))


@lru_cache(maxsize=8)
def _drawn_again(
    pilot: tuple[float, ...], n: int, samples: int = 2_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw samples of ``n`` from a pilot, centred on its mean, and flip their signs.

    What a resample of ``k`` values lacks in spread, the factor ``k / (k - 1)`` in variance, is given back.

    Returns:
        Means and standard deviations, ``[samples]``; means after each of 1 024 flips, ``[samples, flips]``
        (all flips there are, where ``n`` is ten or less); and means of the signs, ``[flips]``.
    """
    import numpy as np

    rng, flips = np.random.default_rng(0), 1_024
    values = np.asarray(pilot, dtype=float)
    centred = (values - values.mean()) * math.sqrt(len(values) / (len(values) - 1))
    rows = centred[rng.integers(0, len(values), (samples, n))]
    if n <= 10:
        signs = 1 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = rng.choice([-1.0, 1.0], (flips, n))
        signs[0] = 1.0
    return rows.mean(axis=1), rows.std(axis=1, ddof=1), rows @ signs.T / n, signs.mean(axis=1)


def smallest_excess(
    sd: float,
    n: int,
    wanted: float = 0.8,
    alpha: float = 0.05,
    resolution: float = 0.0,
    pilot: Sequence[float] = (),
) -> float:
    """Return how far beyond the threshold a mean must lie to be found with probability ``wanted``.

    Example:
        >>> round(smallest_excess(1.0, 5), 2)
        1.68
    """
    if n < 2 or max(sd, resolution) <= 0:
        return math.inf
    scale = max(sd, resolution / 2)
    low, top = 0.0, scale
    while power(top, sd, n, alpha, resolution, pilot) < wanted:
        low, top = top, 2 * top
        if top > 1e6 * scale:
            return math.inf
    while top - low > 1e-5 * top:
        middle = (low + top) / 2
        if power(middle, sd, n, alpha, resolution, pilot) < wanted:
            low = middle
        else:
            top = middle
    return top


def seeds_needed(
    excess: float,
    sd: float,
    wanted: float = 0.8,
    alpha: float = 0.05,
    resolution: float = 0.0,
    pilot: Sequence[float] = (),
) -> int | None:
    """Return the least number of pairs that finds a mean ``excess`` beyond the threshold.

    Returns:
        The number, or ``None`` where 1 000 pairs are too few.

    Example:
        >>> seeds_needed(1.69, 1.0)
        5
    """
    if excess <= 0:
        return None
    low, high = 1, 2
    while power(excess, sd, high, alpha, resolution, pilot) < wanted:
        low, high = high, 2 * high
        if low > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power(excess, sd, middle, alpha, resolution, pilot) < wanted:
            low = middle
        else:
            high = middle
    return high if high <= MOST_SEEDS else None
