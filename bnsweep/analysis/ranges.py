"""How far each arm's range of learning rates reaches."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.intervals import MeanInterval, mean_interval
from bnsweep.analysis.scores import Metric, headline, reference_score, scores

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ArmRange", "FacetRanges", "facet_ranges", "range_table"]


@dataclass(frozen=True)
class ArmRange:
    """What one arm does along its learning rates, by its mean score over seeds.

    Attributes:
        arm: Name of the arm.
        lrs: Learning rates that have a finished trial, ascending.
        means: Mean score and interval at each, over the seeds that are done.
        values: Scores at each, one a seed.
        diverged: Whether each of these seeds diverged.
        threshold: Score above which an arm trains; NaN where no untrained level is known.
        near: How close to the best counts as good as the best.
    """

    arm: str
    lrs: tuple[float, ...]
    means: tuple[MeanInterval, ...]
    values: tuple[tuple[float, ...], ...]
    diverged: tuple[tuple[bool, ...], ...]
    threshold: float
    near: float

    @property
    def best(self) -> int:
        """Index of the best learning rate; of equal ones, the smallest."""
        return max(range(len(self.lrs)), key=lambda i: (self.means[i].mean, -i))

    @property
    def within(self) -> tuple[float, ...]:
        """Learning rates whose mean is within ``near`` of the best one's."""
        floor = self.means[self.best].mean - self.near - 1e-12
        return tuple(lr for lr, mean in zip(self.lrs, self.means, strict=True) if mean.mean >= floor)

    @property
    def trains(self) -> tuple[float, ...]:
        """Learning rates whose mean is above ``threshold``."""
        pairs = zip(self.lrs, self.means, strict=True)
        return tuple(lr for lr, mean in pairs if mean.mean > self.threshold)

    @property
    def survives(self) -> tuple[float, ...]:
        """Learning rates at which not every seed diverged."""
        return tuple(lr for lr, gone in zip(self.lrs, self.diverged, strict=True) if not all(gone))

    @property
    def decades(self) -> float:
        """Width, in powers of ten, of the unbroken run of ``within`` around the best."""
        inside = [lr in self.within for lr in self.lrs]
        low = high = self.best
        while low > 0 and inside[low - 1]:
            low -= 1
        while high + 1 < len(inside) and inside[high + 1]:
            high += 1
        return math.log10(self.lrs[high] / self.lrs[low])

    @property
    def edges(self) -> tuple[str, ...]:
        """Which findings lie on the grid's edge, so that the true range may reach further."""
        if len(self.lrs) < 2 or not self.trains:
            return ()
        found = []
        best = self.lrs[self.best]
        if best == self.lrs[-1]:
            found.append("best at the largest lr")
        elif best == self.lrs[0]:
            found.append("best at the smallest lr")
        if self.trains[-1] == self.lrs[-1]:
            found.append("trains at the largest lr")
        if self.trains[0] == self.lrs[0]:
            found.append("trains at the smallest lr")
        return tuple(found)


@dataclass(frozen=True)
class FacetRanges:
    """The arms of one facet, compared by one metric.

    Attributes:
        facet: Name of the facet; empty where the sweep has one.
        metric: The reading compared.
        reference: Score of an untrained network; NaN where unknown.
        threshold: Score above which an arm trains.
        arms: The arms, in the plan's order.
    """

    facet: str
    metric: Metric
    reference: float
    threshold: float
    arms: tuple[ArmRange, ...]

    @property
    def lrs(self) -> tuple[float, ...]:
        """All learning rates of the facet, ascending."""
        return tuple(sorted({lr for arm in self.arms for lr in arm.lrs}))

    @property
    def common_lr(self) -> float:
        """The learning rate at which arms are best compared.

        The one, among those that most arms have, at which most arms train; of equal ones, that at which
        most arms keep a seed that has not diverged, for there is nothing else to see of them; then the
        largest, or the smallest where no arm trains.
        """
        have = {lr: sum(lr in arm.lrs for arm in self.arms) for lr in self.lrs}
        train = {lr: sum(lr in arm.trains for arm in self.arms) for lr in self.lrs}
        seen = {lr: sum(lr in arm.survives for arm in self.arms) for lr in self.lrs}
        return max(self.lrs, key=lambda lr: (have[lr], train[lr], seen[lr], lr if train[lr] else -lr))

    def said_threshold(self) -> str:
        """Say when a learning rate counts as one that trains."""
        if math.isnan(self.threshold):
            return "the level of an untrained network is not known, so none counts as training"
        more = "above" if self.metric.kind == "accuracy" else "below"
        name = self.metric.name.replace("_", " ")
        return f"mean final {name} {more} {self.metric.text(self.threshold)}"


def facet_ranges(
    frame: pd.DataFrame, arms: Sequence[str] = (), metric: Metric | None = None
) -> FacetRanges | None:
    """Compare the arms of one facet along the learning rate.

    A learning rate *trains* if its mean final score is above the *threshold*: half way between an
    untrained network (chance accuracy; the initial loss, on a logarithmic scale) and the best mean
    of any arm, and at least 5 points of accuracy, or a factor of 2 in loss, above the former.

    Args:
        frame: The rows of one facet of the table of trials.
        arms: The order of the arms; those not named follow in the table's order.
        metric: The reading to compare; by default :func:`bnsweep.analysis.scores.headline`.

    Returns:
        The comparison, or ``None`` where no trial has a reading to compare.
    """
    metric = metric or headline(frame)
    if metric is None:
        return None
    table = frame.assign(_score=scores(frame, metric)).dropna(subset=["_score"])
    if table.empty:
        return None
    reference = reference_score(frame, metric)
    best = max(math.fsum(group) / len(group) for _, group in table.groupby(["arm", "lr"])["_score"])
    threshold = reference + max((best - reference) / 2, metric.gain)
    present = list(dict.fromkeys(table["arm"]))
    order = [arm for arm in arms if arm in present] + [arm for arm in present if arm not in arms]
    built = tuple(_arm_range(arm, table[table["arm"] == arm], threshold, metric) for arm in order)
    return FacetRanges(str(table["facet"].iloc[0]), metric, reference, threshold, built)


def _arm_range(arm: str, table: pd.DataFrame, threshold: float, metric: Metric) -> ArmRange:
    groups = [(float(lr), group) for lr, group in table.groupby("lr", sort=True)]  # type: ignore[arg-type]
    values = tuple(tuple(float(x) for x in group["_score"]) for _, group in groups)
    return ArmRange(
        arm=arm,
        lrs=tuple(lr for lr, _ in groups),
        means=tuple(mean_interval(value) for value in values),
        values=values,
        diverged=tuple(tuple(state == "diverged" for state in group["state"]) for _, group in groups),
        threshold=threshold,
        near=metric.near,
    )


def range_table(facets: Sequence[FacetRanges]) -> pd.DataFrame:
    """Return one row an arm: its best learning rate, and how far its range reaches.

    Columns: ``facet``, ``arm``, ``metric``, ``learning_rates`` (how many), ``best_lr``, ``best_mean``,
    ``best_sd``, ``best_low``, ``best_high``, ``best_n``; ``within_low``, ``within_high``,
    ``within_lrs``, ``within_decades`` (within 2 points, or a factor of 2 in loss, of the arm's own
    best); ``trains_low``, ``trains_high``, ``trains_lrs`` (mean beyond ``threshold``);
    ``diverged``, ``trials``, ``grid_low``, ``grid_high``, ``edge``, ``threshold``, ``untrained``.
    For accuracies, means are fractions. For losses, ``best_mean`` is a geometric mean and
    ``best_sd`` is in powers of ten.
    """
    import pandas as pd

    rows = [_range_row(facet, arm) for facet in facets for arm in facet.arms]
    return pd.DataFrame(rows)


def _range_row(facet: FacetRanges, arm: ArmRange) -> dict[Hashable, Any]:
    best = arm.means[arm.best]
    value = facet.metric.value
    low, high = sorted((value(best.low), value(best.high)))
    return {
        "facet": facet.facet,
        "arm": arm.arm,
        "metric": facet.metric.name,
        "learning_rates": len(arm.lrs),
        "best_lr": arm.lrs[arm.best],
        "best_mean": value(best.mean),
        "best_sd": best.sd,
        "best_low": low,
        "best_high": high,
        "best_n": best.n,
        "within_low": arm.within[0],
        "within_high": arm.within[-1],
        "within_lrs": " ".join(f"{lr:g}" for lr in arm.within),
        "within_decades": arm.decades,
        "trains_low": arm.trains[0] if arm.trains else math.nan,
        "trains_high": arm.trains[-1] if arm.trains else math.nan,
        "trains_lrs": " ".join(f"{lr:g}" for lr in arm.trains),
        "diverged": sum(map(sum, arm.diverged)),
        "trials": sum(len(values) for values in arm.values),
        "grid_low": arm.lrs[0],
        "grid_high": arm.lrs[-1],
        "edge": "; ".join(arm.edges),
        "threshold": value(facet.threshold),
        "untrained": value(facet.reference),
    }
