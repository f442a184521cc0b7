"""Claims on the theorems of Section 4: how often they hold, within rounding, on the networks trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bnsweep.analysis.claims.curves import CurveTable
from bnsweep.analysis.claims.parts import Findings, Part, Side

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ROUNDING", "holds"]

ROUNDING = 2.0**-26
"""Largest relative error of an identity that is rounding: half the digits of double precision."""

_ROLE = "batch"


def holds(
    curves: CurveTable,
    min_effect: float,
    errors: Mapping[str, float],
    positive: Sequence[str] = (),
    beside: Mapping[str, str] | None = None,
    first_step: bool = True,
) -> Findings:
    """Judge in which share of the measured layers and steps a theorem holds.

    A seed's share is over all its learning rates at which no seed diverged. What one reading that ends
    otherwise would change is the resolution of the test, so that shares of exactly one can be judged.

    Args:
        curves: The facet.
        min_effect: Share that may miss it.
        errors: Readings with the largest value at which the theorem holds.
        positive: Readings that have to be above 0.
        beside: Readings whose mean is shown beside, with their names for people.
        first_step: Whether step 0 counts.
    """
    columns = curves.columns((_ROLE,), ())
    if not columns.any():
        return Findings(problem="too many diverged: there is no learning rate at which no seed of batch does")
    trials = [[own for own, keep in zip(row, columns, strict=True) if keep]
              for row in curves.table.arms[_ROLE].trials]  # fmt: skip
    shown = dict(beside or {})
    wide = _readings(curves, trials, [*errors, *positive, *shown], first_step)
    ok = wide[list(errors)].le(list(errors.values())).all(axis=1)
    if positive:
        ok &= wide[list(positive)].gt(0).all(axis=1)
    by_seed = [ok[ok.index.get_level_values("trial_id").isin(row)] for row in trials]
    if any(own.empty for own in by_seed):
        return Findings(problem=f"no readings of {next(iter(errors))}")
    part = Part(
        "layers and steps at which it holds", tuple(float(own.mean()) for own in by_seed), 1 - min_effect,
        "share", 1 / min(map(len, by_seed)),
    )  # fmt: skip
    sides = []
    for reading, name in shown.items():
        column = wide[reading].dropna()
        values = [float(column[column.index.get_level_values("trial_id").isin(row)].mean()) for row in trials]
        if all(value == value for value in values):
            sides.append(Side(name, tuple(values), "share"))
    layers = wide.index.get_level_values("layer").nunique()
    steps = wide.index.get_level_values("step").nunique()
    where = f"{layers} layers at {steps} steps; learning rates {curves.table.said(columns)}"
    return Findings((part,), tuple(sides), where)


def _readings(
    curves: CurveTable, trials: Sequence[Sequence[str]], names: Sequence[str], first_step: bool
) -> pd.DataFrame:
    """Return one row a trial, step and layer, one column a reading."""
    frame = curves.layers([trial for row in trials for trial in row], names)
    frame = frame[frame["layer"] > 0] if first_step else frame[(frame["layer"] > 0) & (frame["step"] > 0)]
    frame = frame.assign(trial_id=frame["trial_id"].astype(str), name=frame["name"].astype(str))
    wide = frame.pivot(index=["trial_id", "step", "layer"], columns="name", values="value")
    return wide.reindex(columns=list(names))
