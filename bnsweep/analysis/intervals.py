"""Intervals of a mean over seeds, said in words where they are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LEVEL", "METHOD", "MeanInterval", "mean_interval"]

LEVEL = 0.95
"""Coverage that the intervals of a report aim at."""

METHOD = (
    "Bands in figures, and the columns ending in _low and _high of the tables, are {level:.0f} % Student-t "
    "intervals of the mean over seeds, mean ± t(n-1) · sd / √n; ± in the tables here is the standard "
    "deviation over seeds. The intervals treat seeds as independent and their mean as normal, so with few "
    "seeds, or where some seeds diverge and others train, they are a rough guide: look at the dots. One seed "
    "has no interval. Bands of accuracies are cut at 0 and 100 %."
)
"""How the intervals are computed, for the report; format it with ``level`` in percent."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its spread and its interval.

    Attributes:
        n: Number of values.
        mean: Their mean; NaN where there is none.
        sd: Sample standard deviation (divisor ``n - 1``); NaN below two values.
        low: Lower end of the interval; NaN below two values.
        high: Upper end of the interval; NaN below two values.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def mean_interval(values: Sequence[float], level: float = LEVEL) -> MeanInterval:
    r"""Return the mean of finite ``values`` and its two-sided Student-t interval.

    With :math:`n` values of mean :math:`m` and sample standard deviation :math:`s`, the interval is
    :math:`m \pm t_{n-1,\,(1+\text{level})/2}\; s / \sqrt{n}`. Values are scaled before they are
    squared, so that losses near the largest double do not overflow.

    Args:
        values: Finite numbers, one a seed.
        level: Coverage aimed at, between 0 and 1.

    Returns:
        The interval; its ends are NaN for fewer than two values.

    Example:
        >>> mean_interval([1.0, 2.0, 3.0]).mean
        2.0
        >>> round(mean_interval([1.0, 2.0, 3.0]).high, 4)  # 2 + 4.3027 / sqrt(3)
        4.4841
    """
    n = len(values)
    if n == 0:
        return MeanInterval(0, math.nan, math.nan, math.nan, math.nan)
    scale = max(abs(value) for value in values) or 1.0
    scaled = [value / scale for value in values]
    mean = math.fsum(scaled) / n
    if n == 1:
        return MeanInterval(1, values[0], math.nan, math.nan, math.nan)
    from scipy.special import stdtrit

    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in scaled) / (n - 1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return MeanInterval(n, mean * scale, sd * scale, (mean - half) * scale, (mean + half) * scale)
