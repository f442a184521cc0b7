"""Claims on final scores: which learning rates train."""

# ruff: noqa: RUF001 (dashes and signs as they are printed)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bnsweep.analysis.claims.parts import ArmTable, Findings, Part, Side
from bnsweep.analysis.tables import lr_text

if TYPE_CHECKING:
    from bnsweep.analysis.claims.parts import Array, Flags

__all__ = ["ScoreTable", "lr_robustness"]


@dataclass(frozen=True)
class ScoreTable:
    """The arms of one facet on their common learning rates and seeds.

    Attributes:
        lrs: Learning rates, ascending.
        arms: By role, such as ``none``.
        reference: Score of an untrained network.
        threshold: Score above which a trial trains.
        near: How close to its best an arm counts as good as its best.
        unit: Of differences of scores: ``points``, or ``log10`` for losses.
        metric: The reading that the scores are made of, for people.
        seeds: The seed of each row; empty where scores were made up.
    """

    lrs: tuple[float, ...]
    arms: Mapping[str, ArmTable]
    reference: float
    threshold: float
    near: float
    unit: str
    metric: str = "score"
    seeds: tuple[int, ...] = ()

    @property
    def step(self) -> float:
        """Largest distance of neighbouring learning rates, in decades."""
        return max((math.log10(b / a) for a, b in pairwise(self.lrs)), default=math.nan)

    @property
    def gap(self) -> float:
        """Distance of the best mean of any arm from an untrained network."""
        return max(float(arm.scores.mean(axis=0).max()) for arm in self.arms.values()) - self.reference

    def trains(self, role: str) -> Flags:
        """Return at which learning rates an arm trains on the average over seeds."""
        import numpy as np

        return np.asarray(self.arms[role].scores.mean(axis=0) > self.threshold)

    def mixed(self, roles: Sequence[str], columns: Flags) -> bool:
        """Tell whether some seeds of an arm train and others do not, at one of these columns."""
        for role in roles:
            above = self.arms[role].scores[:, columns] > self.threshold
            if bool((above.any(axis=0) & ~above.all(axis=0)).any()):
                return True
        return False

    def resolution(self, roles: Sequence[str], columns: Flags) -> float:
        """Return what one trial changes, where trials of one condition train or do not."""
        return self.gap / int(columns.sum()) if self.mixed(roles, columns) else 0.0

    def said(self, columns: Flags) -> str:
        """Name learning rates."""
        return ", ".join(lr_text(lr) for lr, keep in zip(self.lrs, columns, strict=True) if keep)


def largest_lr(scores: Array, lrs: Sequence[float], threshold: float, otherwise: float) -> Array:
    """Return, for each seed, the decimal logarithm of the largest learning rate that trains.

    Args:
        scores: ``[seeds, learning rates]``.
        lrs: Learning rates, ascending.
        threshold: Score above which a trial trains.
        otherwise: What a seed counts as that trains at none.

    Example:
        >>> import numpy as np
        >>> largest_lr(np.array([[0.9, 0.8, 0.1], [0.1, 0.1, 0.1]]), (0.1, 1, 10), 0.5, -2.0).tolist()
        [0.0, -2.0]
    """
    import numpy as np

    logs = np.log10(np.asarray(lrs))
    found = np.where(scores > threshold, logs, -np.inf).max(axis=1)
    return np.asarray(np.where(np.isfinite(found), found, otherwise))


def lr_sensitivity(scores: Array, reference: float) -> Array:
    """Return each seed's learning-rate sensitivity [1]: mean shortfall from its best over the grid.

    The loss of an untrained network, or chance accuracy, bounds how badly a learning rate counts.

    Example:
        >>> import numpy as np
        >>> round(float(lr_sensitivity(np.array([[0.9, 0.8, 0.05]]), 0.1)[0]), 3)  # (0 + .1 + .8) / 3
        0.3

    References:
        [1] Wortsman et al. Small-scale proxies for large-scale Transformer training instabilities.
        2023. https://arxiv.org/abs/2309.14322
    """
    import numpy as np

    clamped = np.maximum(scores, reference)
    return np.asarray((clamped.max(axis=1, keepdims=True) - clamped).mean(axis=1))


def width_near_best(scores: Array, lrs: Sequence[float], near: float) -> Array:
    """Return, for each seed, the decades of the unbroken run within ``near`` of its best.

    Example:
        >>> import numpy as np
        >>> width_near_best(np.array([[0.1, 0.89, 0.9, 0.5]]), (0.01, 0.1, 1, 10), 0.02).tolist()
        [1.0]
    """
    import numpy as np

    widths = []
    for row in np.asarray(scores):
        low = high = int(row.argmax())
        inside = row >= row.max() - near - 1e-12
        while low > 0 and inside[low - 1]:
            low -= 1
        while high + 1 < len(row) and inside[high + 1]:
            high += 1
        widths.append(math.log10(lrs[high] / lrs[low]))
    return np.asarray(widths)


def lr_robustness(table: ScoreTable, min_effect: float) -> Findings:
    """Judge how much farther up the range of learning rates reaches with BatchNorm.

    Seeds that train at no learning rate count against the claim: without normalization as if they
    trained at the smallest, with BatchNorm as if one step below it.
    """
    if len(table.lrs) < 2:
        return Findings(problem="fewer than two learning rates in common: nothing can be said about a range")
    for role in ("none", "batch"):
        if not table.trains(role).any():
            return Findings(problem=f"{role} trains at no learning rate: its range is not on the grid")
    low, high = math.log10(table.lrs[0]), math.log10(table.lrs[-1])
    scores = {role: arm.scores for role, arm in table.arms.items()}
    with_norm = largest_lr(scores["batch"], table.lrs, table.threshold, low - table.step)
    without = largest_lr(scores["none"], table.lrs, table.threshold, low)
    at_least = at_most = ""
    if (with_norm >= high - 1e-9).any():
        at_least = "grid edge: batch still trains at the largest learning rate"
    elif not (scores["none"] > table.threshold).any(axis=1).all():
        at_least = "grid edge: none trains at no learning rate for some seed"
    if (without >= high - 1e-9).any():
        at_most = "grid edge: none still trains at the largest learning rate"
    part = Part(
        "batch − none, largest learning rate that trains",
        tuple((with_norm - without).tolist()),
        min_effect, "decades", table.step, at_least, at_most,
    )  # fmt: skip
    where = f"{len(table.lrs)} learning rates from {lr_text(table.lrs[0])} to {lr_text(table.lrs[-1])}"
    return Findings((part,), _lr_sides(table, table.arms["none"], table.arms["batch"]), where)


def _lr_sides(table: ScoreTable, none: ArmTable, batch: ArmTable) -> tuple[Side, ...]:
    flip = table.gap / len(table.lrs)
    mean = batch.scores.mean(axis=1) - none.scores.mean(axis=1)
    sensitivity = lr_sensitivity(none.scores, table.reference) - lr_sensitivity(batch.scores, table.reference)
    width = width_near_best(batch.scores, table.lrs, table.near) - width_near_best(
        none.scores, table.lrs, table.near
    )
    unit = table.unit
    return (
        Side("batch − none, mean over the grid", tuple(mean.tolist()), unit, flip),
        Side(
            "none − batch, learning-rate sensitivity (Wortsman et al. 2023)",
            tuple(sensitivity.tolist()), unit, flip,
        ),
        Side(
            "batch − none, width of the range as good as its own best", tuple(width.tolist()), "decades",
            table.step,
        ),
    )  # fmt: skip
