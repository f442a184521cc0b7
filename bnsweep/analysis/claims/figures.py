"""The evidence of a claim in one figure: seeds, mean, interval and threshold of each of its parts."""

# ruff: noqa: RUF001 (signs as they are printed)

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bnsweep.analysis.claims.parts import Part, interval_text
from bnsweep.analysis.claims.verdicts import Verdict
from bnsweep.analysis.figures import FigureFile, finish
from bnsweep.analysis.styles import INK, QUIET, new_figure
from bnsweep.analysis.tables import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bnsweep.analysis.statistics import PairedTest

__all__ = ["claim_figure"]

COLORS = {"supported": "#1b7f4b", "refuted": "#b3261e", "undecided": "#6b6b6b"}
"""Colour of an interval by what it says of its part."""

_CAPTION = (
    "Every dot is a seed, the line their mean with its 95 % interval; the mean must lie right of the dashed "
    "threshold, in the shaded part. Green: the interval lies wholly there; red: wholly outside; grey: "
    "neither, "
    "before the correction for several claims."
)


def claim_figure(verdict: Verdict) -> FigureFile | None:
    """Draw the parts of a claim, one strip each; ``None`` where nothing was tested."""
    pairs = list(zip(verdict.judged.findings.parts, verdict.judged.tests, strict=True))
    if not pairs:
        return None
    figure = new_figure(7.4, 0.95 * len(pairs) + 0.15)
    for axes, (part, test) in zip(figure.subplots(len(pairs), 1, squeeze=False)[:, 0], pairs, strict=True):
        _strip(axes, part, test)
    title = f"{verdict.key}: {verdict.word}"
    return finish(figure, f"claim-{slug(verdict.key)}", title, f"{verdict.definition.sentence} {_CAPTION}")


def _strip(axes: Axes, part: Part, test: PairedTest) -> None:
    ends = [test.low, test.high] if math.isfinite(test.low) else []
    origin = [] if part.unit == "share" else [0.0]
    places = [*part.values, part.threshold, *origin, *ends]
    low, high = min(places), max(places)
    room = 0.08 * (high - low) or 1.0
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(-1, 1)
    axes.axvspan(part.threshold, high + room, color="#1b7f4b", alpha=0.07, linewidth=0, zorder=0)
    axes.axvline(part.threshold, color=INK, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    if origin:
        axes.axvline(0, color=QUIET, linewidth=0.7, zorder=1)
    color = COLORS["undecided"]
    if ends:
        if test.low > part.threshold:
            color = COLORS["supported"]
        elif test.high < part.threshold:
            color = COLORS["refuted"]
        axes.plot(ends, [0, 0], color=color, linewidth=3, solid_capstyle="butt", zorder=3)
    axes.plot([test.mean], [0], marker="D", color=color, markersize=7, markeredgecolor="white", zorder=5)
    n = len(part.values)
    heights = [0.45 + 0.25 * (index % 2) for index in range(n)]
    axes.scatter(part.values, heights, s=14, color=INK, alpha=0.55, linewidths=0, zorder=4)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    _ticks(axes, part.unit)
    said = interval_text(test.mean, test.low, test.high, part.unit)
    axes.set_title(f"{part.label}:  {said}", fontsize=8.5, fontweight="normal")


def _ticks(axes: Axes, unit: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6))
    if unit == "log10":
        low, high = axes.get_xlim()
        factors = (1, 2, 5) if high - low < 2.5 else (1,)
        decades = range(math.floor(low), math.ceil(high) + 1)
        places = [decade + math.log10(factor) for decade in decades for factor in factors]
        inside = [place for place in places if low <= place <= high]
        if 2 <= len(inside) <= 10:
            axes.xaxis.set_major_locator(FixedLocator(inside))
    forms = {
        "points": lambda value, _: f"{100 * value:+.3g}",
        "log10": lambda value, _: f"×{10**value:.3g}",
        "share": lambda value, _: f"{100 * value:.3g} %",
    }
    axes.xaxis.set_major_formatter(FuncFormatter(forms.get(unit, lambda value, _: f"{value:+.3g}")))
    axes.tick_params(axis="x", labelsize=7.5)
