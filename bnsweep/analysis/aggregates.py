"""Arms over their whole grid: interquartile mean and probability of improvement, as in rliable.

Descriptive, beside the verdicts: the intervals are percentile bootstraps, which at few seeds cover less
than they say.
"""

# ruff: noqa: RUF001 (dashes as they are printed)

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnsweep.analysis.statistics import LEVEL

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from bnsweep.analysis.ranges import ArmRange, FacetRanges
    from bnsweep.analysis.results import Results

__all__ = [
    "NOTE",
    "Aggregate",
    "aggregate_frame",
    "aggregate_rows",
    "aggregates",
    "improvement_interval",
    "interquartile_mean",
    "iqm_interval",
    "probability_of_improvement",
]

HEADER = ("arm", "interquartile mean [95 %]", "beats {base} with probability [95 %]")

NOTE = (
    "Over all learning rates that the arms have in common, each a task: the mean of the middle half of all "
    "scores, and the probability that a run of the arm beats one of the other, ties counting half, averaged "
    "over learning rates (Agarwal et al. 2021). Percentile bootstraps, runs drawn again within each learning "
    "rate; they cover less than they say at few seeds, and decide no verdict."
)


@dataclass(frozen=True)
class Aggregate:
    """One arm over the grid of its facet.

    Attributes:
        facet: The facet; empty where the sweep has one.
        arm: The arm.
        base: The arm that it is compared with: the one without a norm, else the first.
        iqm: Interquartile mean of its scores, with the ends of its interval.
        better: Probability that it beats ``base``, with the ends; ``None`` for the base itself.
    """

    facet: str
    arm: str
    base: str
    iqm: tuple[float, float, float]
    better: tuple[float, float, float] | None


def aggregates(results: Results) -> tuple[Aggregate, ...]:
    """Return every arm of every facet whose arms have learning rates and two seeds in common."""
    return tuple(one for ranges in results.ranges for one in _facet(results, ranges))


def _facet(results: Results, ranges: FacetRanges) -> Sequence[Aggregate]:
    import numpy as np

    lrs = sorted(set.intersection(*(set(arm.lrs) for arm in ranges.arms)))
    tables = {arm.arm: _scores(arm, lrs) for arm in ranges.arms}
    if not lrs or any(table is None for table in tables.values()):
        return ()
    base = "none" if "none" in tables else next(iter(tables))
    found = []
    for arm, table in tables.items():
        seed = hashlib.sha256(f"{results.plan_hash} {ranges.facet} {arm}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        other = tables[base]
        assert table is not None and other is not None
        iqm = (interquartile_mean(table), *iqm_interval(table, rng))
        better = None
        if arm != base:
            better = (probability_of_improvement(table, other), *improvement_interval(table, other, rng))
        found.append(Aggregate(ranges.facet, arm, base, iqm, better))
    return found


def _scores(arm: ArmRange, lrs: Sequence[float]) -> np.ndarray | None:
    """Return scores ``[seeds, learning rates]``, or ``None`` where learning rates have unequal seeds."""
    import numpy as np

    columns = [arm.values[arm.lrs.index(lr)] for lr in lrs]
    if len({len(column) for column in columns}) != 1 or len(columns[0]) < 2:
        return None
    return np.asarray(columns, dtype=float).T


def aggregate_rows(
    found: Sequence[Aggregate], ranges: FacetRanges
) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Return the header and the cells of one facet's table."""
    own = [one for one in found if one.facet == ranges.facet]
    text = ranges.metric.text
    rows = []
    for one in own:
        middle, *ends = one.iqm
        low, high = sorted((text(end) for end in ends), key=lambda said: float(said.split()[0]))
        better = "–"
        if one.better is not None:
            better = f"{one.better[0]:.2f} [{one.better[1]:.2f}, {one.better[2]:.2f}]"
        rows.append((one.arm, f"{text(middle)} [{low}, {high}]", better))
    base = own[0].base if own else ""
    return [cell.format(base=base) for cell in HEADER], rows


def aggregate_frame(found: Sequence[Aggregate]) -> pd.DataFrame:
    """Return one row an arm; for a loss, scores are minus its decimal logarithm."""
    import pandas as pd

    rows = []
    for one in found:
        better = one.better or (float("nan"),) * 3
        rows.append(
            {
                "facet": one.facet, "arm": one.arm, "base": one.base,
                "iqm": one.iqm[0], "iqm_low": one.iqm[1], "iqm_high": one.iqm[2],
                "improvement": better[0], "improvement_low": better[1], "improvement_high": better[2],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def interquartile_mean(scores: np.ndarray) -> float:
    """Return the mean of the middle half of all scores, runs and tasks pooled [1].

    Args:
        scores: ``[runs, tasks]``; here a task is a learning rate.

    Example:
        >>> import numpy as np
        >>> interquartile_mean(np.array([[0.0], [1.0], [3.0], [100.0]]))
        2.0

    References:
        [1] Agarwal et al. Deep Reinforcement Learning at the Edge of the Statistical Precipice.
        2021. https://arxiv.org/abs/2108.13264
    """
    from scipy.stats import trim_mean

    return float(trim_mean(scores, 0.25, axis=None))


def iqm_interval(scores: np.ndarray, rng: np.random.Generator, resamples: int = 2_000) -> tuple[float, float]:
    """Return the 95 % percentile interval of :func:`interquartile_mean`, runs resampled in each task.

    The stratified bootstrap of rliable: descriptive, for at five runs it covers less than it says.

    Args:
        scores: ``[runs, tasks]``.
        rng: Draws the resamples.
        resamples: How many.
    """
    from scipy.stats import bootstrap, trim_mean

    def statistic(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
        import numpy as np

        return np.asarray(trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis))

    found = bootstrap(
        tuple(scores.T), statistic, n_resamples=resamples, method="percentile",
        confidence_level=LEVEL, vectorized=True, rng=rng,
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> float:
    """Return the probability that a run of ``first`` beats one of ``second``, averaged over tasks.

    Ties count half; it is the Mann-Whitney statistic divided by the number of pairs, as in rliable.

    Args:
        first: ``[runs, tasks]``.
        second: ``[runs, tasks]``.

    Example:
        >>> import numpy as np
        >>> probability_of_improvement(np.array([[1.0], [2.0]]), np.array([[0.0], [2.0]]))
        0.625
    """
    from scipy.stats import mannwhitneyu

    pairs = len(first) * len(second)
    found = [mannwhitneyu(a, b).statistic / pairs for a, b in zip(first.T, second.T, strict=True)]
    return float(sum(found) / len(found))


def improvement_interval(
    first: np.ndarray, second: np.ndarray, rng: np.random.Generator, resamples: int = 2_000
) -> tuple[float, float]:
    """Return the 95 % percentile interval of :func:`probability_of_improvement`.

    Runs of both are drawn again with replacement, independently within each task, as in rliable.

    Args:
        first: ``[runs, tasks]``.
        second: ``[runs, tasks]``.
        rng: Draws the resamples.
        resamples: How many.
    """
    import numpy as np

    total = np.zeros(resamples)
    for a, b in zip(first.T, second.T, strict=True):
        wins = (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])
        rows, columns = (rng.multinomial(len(x), np.full(len(x), 1 / len(x)), resamples) for x in (a, b))
        total += ((rows @ wins) * columns).sum(axis=1) / wins.size
    low, high = np.quantile(total / first.shape[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
