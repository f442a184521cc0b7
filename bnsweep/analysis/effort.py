"""How hard each arm was tuned: a comparison is fair where every arm was given the same chances."""

# ruff: noqa: RUF001 (dashes as they are printed)

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bnsweep.analysis.tables import lr_text

if TYPE_CHECKING:
    import pandas as pd

    from bnsweep.analysis.results import Results
    from bnsweep.sweep.records import PlannedTrial

__all__ = ["Effort", "best_curves", "best_of", "effort_frame", "efforts", "unequal"]


@dataclass(frozen=True)
class Effort:
    """What one arm was given, as planned.

    Attributes:
        facet: The facet; empty where the sweep has one.
        arm: The arm.
        conditions: Conditions tried.
        lrs: Learning rates, ascending.
        seeds: Fewest and most seeds of a condition.
        steps: Training budgets, ascending.
    """

    facet: str
    arm: str
    conditions: int
    lrs: tuple[float, ...]
    seeds: tuple[int, int]
    steps: tuple[int, ...]

    @property
    def resolution(self) -> float:
        """Largest distance of neighbouring learning rates, in decades; NaN for one."""
        return max((math.log10(b / a) for a, b in pairwise(self.lrs)), default=math.nan)

    def given(self) -> dict[str, str]:
        """Return what has to be equal, in words."""
        few, most = self.seeds
        ends = lr_text(self.lrs[0])
        if len(self.lrs) > 1:
            ends += f"–{lr_text(self.lrs[-1])} in steps of {self.resolution:.2g} decades at most"
        return {
            "conditions": str(self.conditions),
            "learning rates": f"{len(self.lrs)}, {ends}",
            "seeds": str(most) if few == most else f"{few} to {most}",
            "steps": ", ".join(map(str, self.steps)),
        }


def efforts(results: Results) -> tuple[Effort, ...]:
    """Return what every arm of every facet of a grid was given."""
    if results.search is not None:
        return ()
    from bnsweep.analysis.claims.evidence import planned_facets

    return tuple(
        _effort(facet.name, arm, trials)
        for facet in planned_facets(results)
        for arm, trials in facet.arms.items()
    )


def _effort(facet: str, arm: str, trials: Sequence[PlannedTrial]) -> Effort:
    seeds: dict[str, int] = {}
    for trial in trials:
        seeds[trial.config.condition_id] = seeds.get(trial.config.condition_id, 0) + 1
    parameters = [trial.config.parameters for trial in trials]
    return Effort(
        facet,
        arm,
        len(seeds),
        tuple(sorted({float(one["lr"]) for one in parameters})),
        (min(seeds.values()), max(seeds.values())),
        tuple(sorted({int(one["steps"]) for one in parameters})),
    )


def unequal(found: Sequence[Effort]) -> Iterator[str]:
    """Say in what the arms of a facet were not treated alike, one sentence each."""
    for facet in dict.fromkeys(one.facet for one in found):
        own = [one for one in found if one.facet == facet]
        for what in own[0].given():
            groups: dict[str, list[str]] = {}
            for one in own:
                groups.setdefault(one.given()[what], []).append(one.arm)
            if len(groups) > 1:
                said = "; ".join(f"{', '.join(arms)}: {value}" for value, arms in groups.items())
                where = f" ({facet})" if facet else ""
                yield f"Unequal tuning{where}, {what}: {said}. More tries find a better best."


def best_of(means: Sequence[float], tries: int) -> float:
    r"""Return the mean best of ``tries`` learning rates drawn from a grid without replacement.

    With scores :math:`x_1 \le \dots \le x_n`, :math:`\sum_i x_i \binom{i-1}{k-1} / \binom{n}{k}`: what an
    arm gets from a budget of :math:`k` tries [1].

    Args:
        means: Mean score at each learning rate.
        tries: How many are tried, from 1 to all.

    Example:
        >>> best_of([0.1, 0.9, 0.5], 1), best_of([0.1, 0.9, 0.5], 3)
        (0.5, 0.9)

    References:
        [1] Dodge et al. Show Your Work: Improved Reporting of Experimental Results. EMNLP 2019.
        https://arxiv.org/abs/1909.03004
    """
    ranked = sorted(means)
    total = math.comb(len(ranked), tries)
    return math.fsum(x * math.comb(i, tries - 1) for i, x in enumerate(ranked)) / total


def effort_frame(results: Results) -> pd.DataFrame:
    """Return one row an arm and number of tries: what it was given, and the best that they find.

    Columns: ``facet``, ``arm``, ``conditions``, ``learning_rates``, ``lr_low``, ``lr_high``,
    ``largest_step_decades``, ``seeds_min``, ``seeds_max``, ``steps``, ``tries``, ``best_of_tries``.
    """
    import pandas as pd

    curves = best_curves(results)
    rows = [
        {
            "facet": one.facet,
            "arm": one.arm,
            "conditions": one.conditions,
            "learning_rates": len(one.lrs),
            "lr_low": one.lrs[0],
            "lr_high": one.lrs[-1],
            "largest_step_decades": one.resolution,
            "seeds_min": one.seeds[0],
            "seeds_max": one.seeds[1],
            "steps": " ".join(map(str, one.steps)),
            "tries": tries,
            "best_of_tries": value,
        }
        for one in efforts(results)
        for tries, value in enumerate(curves.get((one.facet, one.arm), ()), 1)
    ]
    return pd.DataFrame(rows)


def best_curves(results: Results) -> Mapping[tuple[str, str], tuple[float, ...]]:
    """Return for each facet and arm the final reading of the best of 1, 2, ... all learning rates."""
    found = {}
    for ranges in results.ranges:
        for arm in ranges.arms:
            means = [mean.mean for mean in arm.means]
            found[ranges.facet, arm.arm] = tuple(
                ranges.metric.value(best_of(means, tries)) for tries in range(1, len(means) + 1)
            )
    return found
