"""What a condition of a search is worth: its seeds' readings as one number, always finite."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnsweep.parameters import Value
from bnsweep.sweep.records import Record, aggregate_value
from bnsweep.sweep.spec import Constraint, Metric, SweepSpec
from bnsweep.trial import TrialState

__all__ = ["Goal", "Share", "Weigh", "Worth", "quantile_of"]


WORST_LOSS = sys.float_info.max
"""What a loss counts as where nothing finite was ever seen of it."""


@dataclass(frozen=True)
class Worth:
    """What a condition turned out to be worth.

    Attributes:
        values: The objective of each metric, in the file's order.
        diverged_fraction: Share of the seeds that diverged.
        excess: By how much each constraint is broken, by its text; at most 0 where it is kept.
    """

    values: tuple[float, ...]
    diverged_fraction: float
    excess: Mapping[str, float]

    @property
    def feasible(self) -> bool:
        """Whether every constraint is kept."""
        return all(value <= 0 for value in self.excess.values())


@dataclass(frozen=True)
class Goal:
    """What a search is after.

    Attributes:
        metrics: Readings to make large or small.
        quantile: Quantile over seeds that counts; ``None`` for the mean.
        constraints: Constraints by their text.
    """

    metrics: tuple[Metric, ...]
    quantile: float | None = None
    constraints: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: SweepSpec) -> Goal:
        """Return what a sweep file's search is after."""
        return cls(spec.objectives or (spec.metric,), spec.search.get("quantile"), spec.constraints)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; :meth:`from_dict` is the inverse."""
        metrics = [{"name": metric.name, "goal": metric.goal} for metric in self.metrics]
        return {"metrics": metrics, "quantile": self.quantile, "constraints": list(self.constraints)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Goal:
        """Rebuild a goal written by :meth:`to_dict`."""
        metrics = tuple(Metric(one["name"], one["goal"]) for one in content["metrics"])
        return cls(metrics, content["quantile"], tuple(content["constraints"]))

    def worth(self, records: Sequence[Record]) -> Worth:
        """Return what the finished seeds of a condition are worth together.

        Args:
            records: One record a seed.
        """
        diverged = sum(record.state is TrialState.DIVERGED for record in records) / len(records)
        values = tuple(self.over_seeds([_counted(record, metric.name) for record in records])
                       for metric in self.metrics)  # fmt: skip
        excess = {}
        for text in self.constraints:
            constraint = Constraint.parse(text)
            assert constraint is not None
            if constraint.name == "diverged_fraction":
                value = diverged
            else:
                value = _mean([_counted(record, constraint.name) for record in records])
            excess[text] = constraint.excess(value)
        return Worth(values, diverged, excess)

    def over_seeds(self, values: Sequence[float]) -> float:
        """Return the mean over seeds, or the quantile where one is stated."""
        return _mean(values) if self.quantile is None else quantile_of(values, self.quantile)


@dataclass(frozen=True)
class Share:
    """What one setting explains.

    Attributes:
        name: The setting.
        share: Part of the variance of the ranks that it explains alone, from 0 to 1.
        blank: What the best of five settings without any effect seems to explain of the same conditions.
        number: Conditions in which it stands.
        everywhere: Whether these are all that were looked at.
    """

    name: str
    share: float
    blank: float
    number: int
    everywhere: bool


Weigh = Callable[[Sequence[Mapping[str, Value]], Sequence[float], Sequence[str]], Sequence[Share]]
"""What says how much each setting explains; see :func:`bnsweep.search.importance.importances`."""


def quantile_of(values: Sequence[float], part: float) -> float:
    """Return a quantile with linear interpolation between the sorted values.

    Example:
        >>> quantile_of([4.0, 1.0, 3.0], 0.25)
        2.0
    """
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _mean(values: Sequence[float]) -> float:
    largest = max(abs(value) for value in values)
    return statistics.fmean(value / largest for value in values) * largest if largest else 0.0


def _counted(record: Record, name: str) -> float:
    """Return a reading as it counts in means: finite, whatever happened."""
    value = aggregate_value(record, name)
    if value is None and not name.endswith("accuracy"):
        return WORST_LOSS
    return 0.0 if value is None else value
