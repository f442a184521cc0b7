"""Claims on how well networks train: readings of the training batches, as the paper's figures show them.

The paper's Figures 2, 5 and 13 plot training accuracy, or the loss of the linear network, and its
sentences on noise and on Lp norms are about training. So these claims are decided by the training
readings; the final score of the sweep, usually test accuracy, on which the paper has nothing to say
there, is shown beside them.
"""

# ruff: noqa: RUF001 (dashes and signs as they are printed)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bnsweep.analysis.claims.curves import EARLY, LATE, NONE_LEFT, SAID_EARLY, CurveTable, Phase, logs
from bnsweep.analysis.claims.parts import Findings, Part, Side

if TYPE_CHECKING:
    from bnsweep.analysis.claims.parts import Array, Flags

__all__ = ["as_good", "noise_harmless", "noise_kills", "trains_faster"]

_SAID_LATE = "late: the last third of training"
_SAID_BOTH = f"{SAID_EARLY}; {_SAID_LATE}"

Trained = Mapping[tuple[str, str], "Array"]
"""By role and phase: one score a seed, the mean over the learning rates kept."""


def _word(curves: CurveTable) -> str:
    return "training accuracy" if curves.table.unit == "points" else "training loss"


def _trained(curves: CurveTable, roles: Sequence[str], columns: Flags) -> Trained | None:
    """Return mean training scores early and late; ``None`` where a trial has no such readings.

    A score is the mean accuracy of the training batches logged in a phase, or minus the decimal
    logarithm of their mean loss. A trial that diverged counts as untrained in every phase.
    """
    import numpy as np

    table = curves.table
    accuracy = table.unit == "points"
    reading = "train_accuracy" if accuracy else "train_loss"
    found = curves.summaries(roles, (reading,), columns, "mean")
    scores = {}
    for role in roles:
        diverged = table.arms[role].diverged[:, columns]
        for phase in (EARLY, LATE):
            values = found[role, reading, phase.name]
            if not accuracy:
                values = np.where(np.isnan(values), np.nan, np.maximum(-logs(values), table.reference))
            values = np.where(diverged, table.reference, values)
            if not np.isfinite(values).all():
                return None
            scores[role, phase.name] = np.asarray(values.mean(axis=1))
    return scores


def _no_readings(curves: CurveTable) -> Findings:
    return Findings(
        problem=f"no finite readings of {_word(curves)} in the first and the last third of training"
    )


def _part(
    curves: CurveTable, found: Trained, pair: tuple[str, str], phase: Phase, columns: Flags, threshold: float
) -> Part:
    """Compare the training scores of two arms in one phase."""
    table = curves.table
    values = found[pair[0], phase.name] - found[pair[1], phase.name]
    names = [table.arms[role].name for role in pair]
    return Part(
        f"{names[0]} − {names[1]}, mean {_word(curves)}, {phase.name}", tuple(values.tolist()), threshold,
        table.unit, table.resolution(pair, columns),
    )  # fmt: skip


def _final(curves: CurveTable, pair: tuple[str, str], columns: Flags) -> Side:
    """Compare the final scores of two arms."""
    table = curves.table
    a, b = (table.arms[role].scores[:, columns].mean(axis=1) for role in pair)
    names = [table.arms[role].name for role in pair]
    return Side(
        f"{names[0]} − {names[1]}, mean final {table.metric}", tuple((a - b).tolist()), table.unit,
        table.resolution(pair, columns),
    )  # fmt: skip


def _beside(part: Part) -> Side:
    return Side(part.label, part.values, part.unit, part.resolution)


def noise_harmless(curves: CurveTable, min_effect: float) -> Findings:
    """Judge whether noise behind BatchNorm costs little training, and both are ahead of no normalization.

    In the paper's Figure 2 all three end within two points of each other, the network without
    normalization first; what noise costs is therefore judged late, and who is ahead of whom early.
    """
    columns = curves.table.trains("batch")
    if not columns.any():
        return Findings(problem="batch trains at no learning rate of the grid")
    found = _trained(curves, ("none", "batch", "noisy_batch"), columns)
    if found is None:
        return _no_readings(curves)
    noise, gain, noisy_gain = ("noisy_batch", "batch"), ("batch", "none"), ("noisy_batch", "none")
    parts = (
        _part(curves, found, noise, LATE, columns, -min_effect),
        _part(curves, found, gain, EARLY, columns, 0.0),
        _part(curves, found, noisy_gain, EARLY, columns, 0.0),
    )
    sides = (
        _beside(_part(curves, found, noise, EARLY, columns, 0.0)),
        _beside(_part(curves, found, gain, LATE, columns, 0.0)),
        _beside(_part(curves, found, noisy_gain, LATE, columns, 0.0)),
        *(_final(curves, pair, columns) for pair in (noise, gain, noisy_gain)),
    )
    where = f"{_SAID_BOTH}; learning rates at which batch trains: {curves.table.said(columns)}"
    return Findings(parts, sides, where)


def as_good(curves: CurveTable, min_effect: float) -> Findings:
    """Judge whether every Lp normalization trains as well as BatchNorm, late."""
    columns = curves.table.trains("batch")
    if not columns.any():
        return Findings(problem="batch trains at no learning rate of the grid")
    norms = tuple(role for role in curves.table.arms if role in ("l1", "l2", "linf"))
    found = _trained(curves, ("batch", *norms), columns)
    if found is None:
        return _no_readings(curves)
    pairs = [(norm, "batch") for norm in norms]
    parts = tuple(_part(curves, found, pair, LATE, columns, -min_effect) for pair in pairs)
    early = (_beside(_part(curves, found, pair, EARLY, columns, 0.0)) for pair in pairs)
    final = (_final(curves, pair, columns) for pair in pairs)
    where = f"{_SAID_BOTH}; learning rates at which batch trains: {curves.table.said(columns)}"
    return Findings(parts, (*early, *final), where)


def noise_kills(curves: CurveTable, min_effect: float) -> Findings:
    """Judge whether noise without normalization keeps training near the untrained level, to the end."""
    table = curves.table
    columns = table.trains("none")
    if not columns.any():
        return Findings(problem="none trains at no learning rate of the grid, so noise has nothing to undo")
    found = _trained(curves, ("none", "noisy_none"), columns)
    if found is None:
        return _no_readings(curves)
    resolution = table.resolution(("noisy_none",), columns)

    def left(scores: Array) -> tuple[float, ...]:
        return tuple((table.reference - scores).tolist())

    part = Part(
        f"untrained level − noisy_none, mean {_word(curves)}, late", left(found["noisy_none", LATE.name]),
        -min_effect, table.unit, resolution,
    )  # fmt: skip
    final = table.arms["noisy_none"].scores[:, columns].mean(axis=1)
    sides = (
        _beside(_part(curves, found, ("none", "noisy_none"), LATE, columns, 0.0)),
        Side(f"untrained level − noisy_none, mean final {table.metric}", left(final), table.unit, resolution),
    )
    where = f"{_SAID_LATE}; learning rates at which none trains: {table.said(columns)}"
    return Findings((part,), sides, where)


def trains_faster(curves: CurveTable, min_effect: float) -> Findings:
    """Judge whether BatchNorm is ahead early in training, at equal learning rates at which both train."""
    roles = ("batch", "none")
    columns = curves.columns(roles, roles)
    if not columns.any():
        return Findings(problem=NONE_LEFT)
    found = _trained(curves, roles, columns)
    if found is None:
        return _no_readings(curves)
    part = _part(curves, found, roles, EARLY, columns, min_effect)
    sides = (_beside(_part(curves, found, roles, LATE, columns, 0.0)), _final(curves, roles, columns))
    where = f"{_SAID_BOTH}; learning rates {curves.table.said(columns)}"
    return Findings((part,), sides, where)
