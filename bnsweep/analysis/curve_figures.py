"""What happens during training: learning curves, and the probes' readings by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bnsweep.analysis.styles import INK, ArmStyle, level_line, log_y, new_figure, row_wise

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Array = npt.NDArray[np.float64]

__all__ = ["Curves", "Panel", "band_figure", "curves_figure"]

WIDTHS = {1: 4.6, 2: 7.4, 3: 9.4}
"""Width of a figure in inches, by its number of columns."""

BINS = 120
"""Curves of more points than this are averaged within that many equal stretches of steps."""

SHOWN = (-1e30, 1e30)
SHOWN_LOG = (1e-100, 1e30)
"""Smallest and largest value shown, on a linear and a logarithmic axis; others leave gaps."""


@dataclass(frozen=True)
class Panel:
    """One set of axes with a curve for every arm.

    Attributes:
        reading: Name of the reading.
        title: Short title.
        ylabel: Axis label with the unit.
        log: Logarithmic axis, and geometric means over seeds.
        level: A horizontal line worth showing, with its name.
        limits: Fixed ends of the axis.
        percent: Multiply by 100.
        fill: What a diverged seed counts as after it diverged; ``None`` ends its curve.
    """

    reading: str
    title: str
    ylabel: str
    log: bool = False
    level: tuple[float, str] | None = None
    limits: tuple[float, float] | None = None
    percent: bool = False
    fill: float | None = None


@dataclass(frozen=True)
class Curves:
    """Readings of some trials by arm.

    Attributes:
        frame: Columns ``trial_id``, ``name``, ``step``, ``value``.
        trials: Trial ids of each arm, one a seed.
        diverged: The step at which a trial diverged, of those that did.
    """

    frame: pd.DataFrame
    trials: Mapping[str, Sequence[str]]
    diverged: Mapping[str, int]

    def of(self, arm: str) -> Curves:
        """Return the curves of one arm."""
        return replace(self, trials={arm: self.trials[arm]})

    def has(self, panel: Panel) -> bool:
        """Tell whether any trial has a value that the panel can show."""
        return any(bool(self.pivot(arm, panel).notna().any(axis=None)) for arm in self.trials)

    def steps(self, reading: str) -> list[int]:
        """Return the steps at which any trial has that reading, ascending."""
        return sorted(set(self.frame.loc[self.frame["name"] == reading, "step"]))

    def pivot(self, arm: str, panel: Panel) -> pd.DataFrame:
        """Return steps × seeds of one arm; NaN where a seed has no value that the panel can show."""
        frame = self.frame
        keep = (frame["name"] == panel.reading) & frame["trial_id"].isin(self.trials[arm])
        table = frame[keep].assign(trial_id=frame.loc[keep, "trial_id"].astype(str))
        wide = table.pivot_table(index="step", columns="trial_id", values="value", dropna=False)
        wide = wide.reindex(columns=list(self.trials[arm]))
        low, high = SHOWN_LOG if panel.log else SHOWN
        return wide.where((wide >= low) & (wide <= high))


def _prepared(curves: Curves, arm: str, panel: Panel) -> pd.DataFrame:
    """Return steps × seeds as plotted: filled after divergence, in percent, binned."""
    import numpy as np
    import pandas as pd

    wide = curves.pivot(arm, panel)
    if panel.fill is not None:
        wide = wide.reindex(curves.steps(panel.reading))
        for trial in wide.columns:
            if trial in curves.diverged:
                late = wide.index >= curves.diverged[trial]
                wide.loc[late, trial] = panel.fill
    if panel.percent:
        wide = 100 * wide
    if panel.log:
        wide = wide.apply(np.log10)
    if len(wide) > BINS:
        steps = wide.index.to_numpy(dtype=float)
        bins = np.minimum(((steps - steps[0]) / (steps[-1] - steps[0]) * BINS).astype(int), BINS - 1)
        wide = wide.groupby(bins).mean()
        wide.index = pd.Index([float(steps[bins == number].mean()) for number in wide.index])
    return wide.rpow(10.0) if panel.log else wide


def _mean(wide: pd.DataFrame, log: bool) -> Array:
    """Return the mean over the seeds present at each step; geometric on a logarithmic axis."""
    import numpy as np

    if log:
        return np.asarray(10 ** np.log10(wide).mean(axis=1), dtype=float)
    return np.asarray(wide.mean(axis=1), dtype=float)


def draw_panel(axes: Axes, curves: Curves, panel: Panel, styles: Mapping[str, ArmStyle]) -> None:
    """Draw every arm of one reading: its seeds faint, their mean bold, a cross where one diverged."""
    if panel.log:
        axes.set_yscale("log", nonpositive="mask")
    for index, arm in enumerate(curves.trials):
        wide, style = _prepared(curves, arm, panel), styles[arm]
        if not curves.of(arm).has(panel):
            continue
        steps = wide.index.to_numpy(dtype=float)
        for trial in wide.columns:
            axes.plot(steps, wide[trial], color=style.color, linewidth=0.6, alpha=0.3, zorder=2)
            _cross(axes, wide, trial, curves, style)
        every = max(1, len(steps) // 7)
        start = (index * max(1, every // max(1, len(curves.trials)))) % every
        axes.plot(
            steps, _mean(wide, panel.log), color=style.color, linestyle=style.dash, zorder=4, label=arm,
            marker=style.marker, markevery=(start, every), markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip
    _decorate(axes, panel)


def _cross(axes: Axes, wide: pd.DataFrame, trial: str, curves: Curves, style: ArmStyle) -> None:
    """Mark the last reading of a seed before it diverged."""
    if trial not in curves.diverged:
        return
    before = wide.loc[wide.index < curves.diverged[trial], trial].dropna()
    if len(before):
        axes.scatter([before.index[-1]], [before.iloc[-1]], marker="x", s=22, color=style.color, zorder=5)


def _decorate(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    if panel.log:
        axes.margins(y=0.09)
        log_y(axes)
    axes.set_title(panel.title)
    axes.set_ylabel(panel.ylabel + (", log scale" if panel.log else ""))
    axes.set_xlabel("step (optimizer updates)")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    if panel.limits:
        axes.set_ylim(*panel.limits)
    if panel.level and math.isfinite(panel.level[0]):
        level_line(axes, *panel.level)


def curves_figure(
    rows: Sequence[tuple[Curves, Sequence[Panel], Mapping[str, str]]], styles: Mapping[str, ArmStyle]
) -> Figure:
    """Draw rows of panels, each row with its own trials and a legend beside it.

    Args:
        rows: For each row the curves, the panels, and the name of each arm in the legend.
        styles: Style of every arm.
    """
    columns = max(len(panels) for _, panels, _ in rows)
    legends = [_legend(curves, panels, names, WIDTHS[columns]) for curves, panels, names in rows]
    heights = [2.35 + 0.19 * math.ceil(len(arms) / ncols) for arms, ncols in legends]
    figure = new_figure(WIDTHS[columns], sum(heights) + 0.1)
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (curves, panels, names), (arms, ncols) in zip(parts, rows, legends, strict=True):
        grid = part.subplots(1, columns, squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=False):
            draw_panel(axes, curves, panel, styles)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        handles = {line.get_label(): line for axes in grid for line in axes.get_lines()}
        part.legend(
            [handles[arm] for arm in arms],
            [names.get(arm, arm) for arm in arms],
            loc="outside lower center",
            ncols=ncols,
            columnspacing=1.6,
        )
    return figure


def _legend(
    curves: Curves, panels: Sequence[Panel], names: Mapping[str, str], width: float
) -> tuple[list[str], int]:
    """Return the arms that have a curve, in the order of the legend, and its number of columns."""
    arms = [
        arm for arm in curves.trials
        if any(curves.of(arm).has(panel) for panel in panels)
    ]  # fmt: skip
    longest = max((len(names.get(arm, arm)) for arm in arms), default=0)
    order, ncols = row_wise(len(arms), max(1, int(width / (0.75 + 0.078 * longest))))
    return [arms[index] for index in order], ncols


def band_figure(
    curves: Curves, low: Panel, high: Panel, title: str, styles: Mapping[str, ArmStyle]
) -> Figure:
    """Draw the band between two readings by step, one small panel an arm, on common axes."""
    arms = list(curves.trials)
    rows = math.ceil(len(arms) / 4)
    columns = math.ceil(len(arms) / rows)
    figure = new_figure(max(1.8 * columns + 0.6, 4.2), 1.8 * rows + 0.8)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, arm in zip(grid, arms, strict=False):
        style = styles[arm]
        axes.set_yscale("log", nonpositive="mask")
        lower, upper = (_prepared(curves, arm, panel) for panel in (low, high))
        lower, upper = lower.align(upper, join="inner")
        steps = upper.index.to_numpy(dtype=float)
        axes.fill_between(steps, _mean(lower, True), _mean(upper, True), color=style.color, alpha=0.35, lw=0)
        for trial in upper.columns:
            for side in (lower, upper):
                axes.plot(steps, side[trial], color=style.color, linewidth=0.5, alpha=0.35)
        for side in (lower, upper):
            axes.plot(steps, _mean(side, True), color=style.color, linewidth=1.2)
        axes.set_title(arm.replace(" ", "\n"), fontsize=8.5, color=INK)
    for axes in grid[len(arms) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(arms) - columns) :]:
        axes.tick_params(axis="x", labelbottom=True)
    log_y(grid[0])
    figure.supxlabel("step (optimizer updates)", fontsize=9)
    figure.supylabel(f"{high.ylabel}, log scale", fontsize=9)
    figure.suptitle(title, fontsize=9.5, fontweight="bold", x=0.01, ha="left")
    return figure
