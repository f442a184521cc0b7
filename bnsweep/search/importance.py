"""How much of what conditions are worth each setting explains: Optuna's fANOVA on ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import create_trial

from bnsweep.parameters import Value
from bnsweep.sweep.objectives import Share

from .samplers import quiet

__all__ = ["FEWEST", "importances"]

FEWEST = 10
"""Conditions below which nothing is said."""

MOST = 500
"""Conditions that are looked at, evenly spaced over the search: the forest takes more than linear time."""

TREES, DEPTH = 32, 6
"""The forest: half of Optuna's trees, and not to the last condition; shares differ in the third digit."""

BLANKS = 5
_BLANK = "blank {}"


def importances(
    conditions: Sequence[Mapping[str, Value]], values: Sequence[float], logarithmic: Sequence[str] = ()
) -> list[Share]:
    """Return what settings explain, the most important first.

    Values count by their rank, so that one that is far off does not decide. A setting that stands in some
    conditions only is judged among these. Nothing here depends on time or chance.

    Args:
        conditions: Settings that vary, of each condition.
        values: What each is worth.
        logarithmic: Settings whose logarithm is what varies.
    """
    step = max(1, -(-len(conditions) // MOST))
    conditions, values = conditions[::step], values[::step]
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in dict.fromkeys(name for condition in conditions for name in condition):
        own = tuple(index for index, condition in enumerate(conditions) if name in condition)
        if len(own) >= FEWEST and len({conditions[index][name] for index in own}) > 1:
            groups.setdefault(own, []).append(name)
    found: list[Share] = []
    for own, names in groups.items():
        always = [n for n in conditions[own[0]] if all(n in conditions[index] for index in own)]
        columns = {n: [conditions[index][n] for index in own] for n in always}
        shares = _shares(columns, [values[index] for index in own], frozenset(logarithmic))
        blank = max(shares[_BLANK.format(number)] for number in range(BLANKS))
        whole = len(own) == len(conditions)
        found += [Share(name, shares[name], blank, len(own), whole) for name in names]
    return sorted(found, key=lambda one: -one.share)


def _shares(
    columns: Mapping[str, Sequence[Value]], values: Sequence[float], logarithmic: frozenset[str]
) -> dict[str, float]:
    """Return what each column, and each of some blank ones, explains of the ranks of the values."""
    draw = np.random.default_rng(0)
    blanks = {_BLANK.format(number): draw.random(len(values)).tolist() for number in range(BLANKS)}
    table: dict[str, Sequence[Value]] = {**columns, **blanks}
    spread = {name: _distribution(column, name in logarithmic) for name, column in table.items()}
    ranks = _ranks(values)
    if len(set(ranks)) == 1:
        return dict.fromkeys(table, 0.0)
    with quiet():
        study = optuna.create_study()
        for index, rank in enumerate(ranks):
            params = {name: table[name][index] for name in spread}
            params = {
                n: float(v) if isinstance(spread[n], FloatDistribution) else v for n, v in params.items()
            }
            study.add_trial(create_trial(value=rank, params=params, distributions=spread))
        found = FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=0).evaluate(study)
    return {name: float(share) for name, share in found.items()}


def _distribution(column: Sequence[Value], logarithmic: bool) -> BaseDistribution:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)
    if not numbers:
        return CategoricalDistribution(list(dict.fromkeys(column)))
    known = [float(value) for value in column]
    return FloatDistribution(min(known), max(known), log=logarithmic and min(known) > 0)


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value from 0 to 1; equal values share one."""
    from scipy.stats import rankdata

    return [float(rank) / len(values) for rank in rankdata(values)]
