"""What a search found: its conditions in the order tried, the best of them, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.intervals import MeanInterval, mean_interval
from bnsweep.analysis.scores import counted_value
from bnsweep.analysis.tables import number_text
from bnsweep.parameters import Value
from bnsweep.sweep.objectives import Goal, Share, Weigh, Worth
from bnsweep.trial import TrialState

if TYPE_CHECKING:
    import pandas as pd

    from bnsweep.analysis.results import Results
    from bnsweep.sweep.records import Record

__all__ = ["MOST_BEST", "Found", "Tried", "is_wide", "pareto_front", "share_table"]

MOST_BEST = 10
"""Conditions in the table of the best."""


@dataclass(frozen=True)
class Tried:
    """One condition of a search that all of its seeds have finished.

    Attributes:
        number: Its place in the plan, from 0.
        condition_id: Its id.
        parameters: The varying parameters that apply to it.
        worth: Its objectives.
        means: Mean and interval over seeds of every metric.
        stopped: Steps after which it was stopped early; ``None`` where it ran to its end.
    """

    number: int
    condition_id: str
    parameters: Mapping[str, Value]
    worth: Worth
    means: tuple[MeanInterval, ...]
    stopped: int | None


@dataclass(frozen=True)
class Found:
    """The conditions of a search.

    Attributes:
        goal: What the search is after.
        sampler: How conditions were chosen.
        known: What a warm start knew before the first of them; empty where there was none.
        names: The parameters that vary, in the order of the table of parameters.
        tried: Finished conditions in the order tried.
    """

    goal: Goal
    sampler: str
    names: tuple[str, ...]
    tried: tuple[Tried, ...]
    known: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Results) -> Found | None:
        """Return what the sweep's search found; ``None`` for a grid."""
        if results.search is None:
            return None
        goal = Goal.from_dict(results.search["goal"])
        names = tuple(name for name in results.varying if name != "seed")
        groups: dict[str, list[str]] = {}
        for trial in results.plan:
            groups.setdefault(trial.config.condition_id, []).append(trial.trial_id)
        records = {record.trial_id: record for record in results.records}
        tried = []
        for number, (condition, members) in enumerate(groups.items()):
            own = [records[member] for member in members if member in records]
            if len(own) == len(members):
                tried.append(_tried(number, condition, own, goal, names))
        return cls(
            goal,
            str(results.search.get("sampler") or "default"),
            names,
            tuple(tried),
            results.search.get("known") or {},
        )

    @cached_property
    def complete(self) -> tuple[Tried, ...]:
        """The conditions that ran to their end."""
        return tuple(one for one in self.tried if one.stopped is None)

    @cached_property
    def ranked(self) -> tuple[Tried, ...]:
        """Complete conditions, the best first; those that break a constraint last.

        With several metrics, the Pareto front comes first.
        """
        front = set(self.front)
        metric = self.goal.metrics[0]
        sign = -1 if metric.goal == "maximize" else 1
        return tuple(
            sorted(
                self.complete,
                key=lambda one: (
                    not one.worth.feasible,
                    one.number not in front,
                    sign * one.worth.values[0],
                    one.number,
                ),
            )
        )

    @cached_property
    def front(self) -> tuple[int, ...]:
        """Numbers of the feasible complete conditions that no other one beats in every metric."""
        feasible = [one for one in self.complete if one.worth.feasible]
        signs = [-1.0 if metric.goal == "maximize" else 1.0 for metric in self.goal.metrics]
        points = [tuple(s * v for s, v in zip(signs, one.worth.values, strict=True)) for one in feasible]
        return tuple(feasible[index].number for index in pareto_front(points))

    def shares(self, weigh: Weigh) -> list[tuple[str, Sequence[Share]]]:
        """Return what each setting explains of each metric, over the conditions that ran to their end."""
        found = []
        wide = [name for name in self.names if is_wide([one.parameters.get(name) for one in self.complete])]
        for index, metric in enumerate(self.goal.metrics):
            values = [one.worth.values[index] for one in self.complete]
            shares = weigh([one.parameters for one in self.complete], values, wide)
            if shares:
                found.append((metric.name, shares))
        return found

    def table(self) -> pd.DataFrame:
        """Return one row a finished condition, in the order tried."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        front = set(self.front)
        for one in self.tried:
            row: dict[str, Any] = {"number": one.number, "condition_id": one.condition_id}
            row |= {name: one.parameters.get(name) for name in self.names}
            for metric, value, mean in zip(self.goal.metrics, one.worth.values, one.means, strict=True):
                row |= {metric.name: value, f"{metric.name}_low": mean.low, f"{metric.name}_high": mean.high}
            row |= {
                "diverged_fraction": one.worth.diverged_fraction,
                "feasible": one.worth.feasible,
                "stopped_at": one.stopped,
                "pareto": one.number in front,
            }
            rows.append(row)
        return pd.DataFrame(rows).convert_dtypes() if rows else pd.DataFrame({"number": []})

    def header(self) -> tuple[str, ...]:
        """Return the columns of :meth:`cells`."""
        metrics = (f"{metric.name.replace('_', ' ')} [95 %]" for metric in self.goal.metrics)
        return ("rank", "tried as", *self.names, *metrics, "seeds", "diverged")

    def cells(self, rank: int, one: Tried) -> tuple[str, ...]:
        """Return the line of one condition in the table of the best."""
        values = (
            _with_interval(metric.name, value, mean)
            for metric, value, mean in zip(self.goal.metrics, one.worth.values, one.means, strict=True)
        )
        parameters = (_text(one.parameters.get(name)) for name in self.names)
        diverged = f"{100 * one.worth.diverged_fraction:.0f} %"
        return (str(rank), str(one.number), *parameters, *values, str(one.means[0].n), diverged)


def is_wide(values: Sequence[Value | None]) -> bool:
    """Tell whether values are numbers over two decades or more, so that a logarithm shows them better."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in known):
        return False
    numbers = [float(value) for value in known]
    return bool(numbers) and min(numbers) > 0 and max(numbers) / min(numbers) > 100


def share_table(shares: Sequence[tuple[str, Sequence[Share]]]) -> pd.DataFrame:
    """Return one row a metric and setting."""
    import pandas as pd

    return pd.DataFrame([{"metric": metric, **vars(share)} for metric, found in shares for share in found])


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the places of the points that no other point beats; smaller is better.

    Example:
        >>> pareto_front([(1, 3), (2, 2), (2, 4), (3, 1)])
        [0, 1, 3]
    """

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [i for i, own in enumerate(points) if not any(beats(other, own) for other in points)]


def _tried(number: int, condition: str, records: Sequence[Record], goal: Goal, names: Sequence[str]) -> Tried:
    first = records[0].parameters
    means = tuple(
        mean_interval([value for r in records if not math.isnan(value := counted_value(r, metric.name))])
        for metric in goal.metrics
    )
    ended = [record.steps for record in records if record.state is TrialState.STOPPED]
    return Tried(
        number,
        condition,
        {name: first[name] for name in names if name in first},
        goal.worth(records),
        means,
        max(ended) if ended else None,
    )


def _text(value: Value | None) -> str:
    if isinstance(value, float):
        return number_text(float(f"{value:.3g}"))
    return "" if value is None else str(value)


def _with_interval(name: str, value: float, mean: MeanInterval) -> str:
    accuracy = name.endswith("accuracy")
    scale, form = (100.0, ".1f") if accuracy else (1.0, ".4g")
    text = f"{scale * value:{form}}"
    if mean.n > 1:
        low, high = (max(mean.low, 0.0), min(mean.high, 1.0)) if accuracy else (mean.low, mean.high)
        text += f" [{scale * low:{form}}, {scale * high:{form}}]"
    return text + (" %" if accuracy else "")
