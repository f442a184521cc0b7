"""What a claim says in numbers: parts, each a paired difference with a threshold it must exceed."""

# ruff: noqa: RUF001 (dashes and signs as they are printed)

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

__all__ = ["ArmTable", "Findings", "Part", "Side", "interval_text", "unit_text"]


@dataclass(frozen=True)
class ArmTable:
    """Final scores of one arm; rows are seeds and columns learning rates, the same in all arms.

    Attributes:
        name: Name of the arm.
        scores: ``[seeds, learning rates]``, diverged trials at chance level.
        diverged: Which trials diverged, of the same shape.
        trials: Trial ids, of the same shape; empty where scores were made up.
    """

    name: str
    scores: Array
    diverged: Flags
    trials: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Part:
    """A paired difference that a claim needs to lie above a threshold, on the average over seeds.

    Attributes:
        label: What is compared, as in *batch − none, largest learning rate that trains*.
        values: One difference a seed.
        threshold: The mean must lie above it.
        unit: ``decades``, ``points`` (of accuracy, as a fraction), ``log10`` (of a ratio),
            ``cosine`` or ``share``.
        resolution: What one trial that ends otherwise would change; see
            :func:`bnsweep.analysis.statistics.paired_test`.
        at_least: The true values may be larger: why, or empty. Such a part cannot be refuted.
        at_most: The true values may be smaller: why, or empty. Such a part cannot be supported.
    """

    label: str
    values: tuple[float, ...]
    threshold: float
    unit: str
    resolution: float = 0.0
    at_least: str = ""
    at_most: str = ""


@dataclass(frozen=True)
class Side:
    """A measure shown beside a claim, which does not decide it."""

    label: str
    values: tuple[float, ...]
    unit: str
    resolution: float = 0.0


@dataclass(frozen=True)
class Findings:
    """What a sweep has to say on a claim.

    Attributes:
        parts: All of them must hold.
        sides: Shown beside them.
        where: At which learning rates and steps they were measured.
        notes: What a reader must know.
        problem: Why nothing can be judged; empty where it can.
    """

    parts: tuple[Part, ...] = ()
    sides: tuple[Side, ...] = ()
    where: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)
    problem: str = ""


def unit_text(value: float, unit: str) -> str:
    """Write a difference for people.

    Example:
        >>> unit_text(1.04, "decades"), unit_text(0.132, "points"), unit_text(0.301, "log10")
        ('+1.04 decades', '+13.2 points', '×2')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else f"{'−' if value < 0 else '+'}∞"
    if unit == "cosine":
        return f"{value:+.2f}".replace("-", "−")
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "log10":
        return f"×{10**value:.3g}" if -4 < value < 4 else f"×10^{value:.1f}"
    number, digits = (100 * value, 1) if unit == "points" else (value, 2)
    text = f"{abs(number):.{digits}f}"
    sign = "−" if number < 0 and float(text) else "+"
    return f"{sign}{text} {unit}"


def interval_text(mean: float, low: float, high: float, unit: str) -> str:
    """Write a difference with its interval for people.

    Example:
        >>> interval_text(1.04, 0.5, 1.58, "decades")
        '+1.04 decades [+0.50, +1.58]'
    """
    if not math.isfinite(low):
        return unit_text(mean, unit)
    ends = (unit_text(end, unit).removesuffix(f" {unit}") for end in (low, high))
    return f"{unit_text(mean, unit)} [{', '.join(ends)}]"
