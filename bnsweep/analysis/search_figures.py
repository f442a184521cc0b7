"""The figures of a search: how it went, where it looked, what it traded off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.figures import FigureFile, finish
from bnsweep.analysis.searches import Found, Tried, is_wide
from bnsweep.analysis.styles import INK, QUIET, log_y, new_figure
from bnsweep.parameters import Value
from bnsweep.sweep.objectives import Share
from bnsweep.sweep.spec import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["search_figures"]

BLUE, RED, GREY = "#1f6fb2", "#b5442e", "#a8a8a8"
MOST_PARALLEL = 500
"""Lines of the parallel coordinates; of more conditions the best are drawn."""

MOST_LOSS = 10
"""Losses are drawn up to this times the largest without a diverged seed: one that diverged may have 1e30."""

ABSENT = -0.16
"""Where a parallel coordinate stands that does not apply: below the lowest."""

_MARKS = (
    "Blue dots ran to their end, red ones had a diverged seed, hollow grey ones were stopped early and stand "
    "at the value of their last step, crosses break a constraint. "
    "Losses are cut at ten times the largest one without a diverged seed."
)


_SHARES = (
    "Share of the variance of the conditions' ranks that a parameter explains alone (fANOVA, a forest's "
    "estimate), over conditions that ran to their end. Up to the mark, a parameter without any effect could "
    "look as important. A hollow bar: judged among those conditions alone in which the parameter applies. A "
    "search looks more often where it is good, which colours these shares."
)


def search_figures(found: Found, shares: Sequence[tuple[str, Sequence[Share]]] = ()) -> Iterator[FigureFile]:
    """Yield the figures that the finished conditions allow; call it while drawing is set up.

    Args:
        found: The search.
        shares: What settings explain of each metric.
    """
    if not found.complete:
        return
    for index, metric in enumerate(found.goal.metrics):
        word = _word(metric)
        tail = f"-{metric.name.replace('_', '-')}" if len(found.goal.metrics) > 1 else ""
        yield finish(
            _history(found, index), f"search-history{tail}", f"The search: {word} by condition tried",
            f"Conditions in the order in which they were planned; the line is the best so far. {_MARKS}",
        )  # fmt: skip
        if found.names:
            yield finish(
                _slices(found, index), f"search-slices{tail}", f"The search: {word} by parameter",
                f"One panel a parameter, one dot a condition; everything else varies too. {_MARKS}",
            )  # fmt: skip
            yield finish(
                _parallel(found, index), f"search-parallel{tail}", f"The search: all parameters, {word}",
                "One line a condition that ran to its end, the darker the better (by rank). The ends of each "
                "axis are the least and the largest value tried.",
            )  # fmt: skip
    if shares:
        yield finish(
            _importance(shares), "search-importance", "The search: what each parameter explains",
            _SHARES,
        )  # fmt: skip
    if len(found.goal.metrics) > 1:
        yield finish(
            _pareto(found), "search-pareto", "The search: Pareto front",
            f"The line joins the feasible conditions that no other one beats in both metrics. {_MARKS}",
        )  # fmt: skip


def _word(metric: Metric) -> str:
    return metric.name.replace("_", " ")


def _shown(metric: Metric, value: float) -> float:
    return 100 * value if metric.name.endswith("accuracy") else value


def _drawn(found: Found, index: int) -> list[float]:
    """Return the values of the conditions as they are drawn: in per cent, and losses as high as is of use."""
    metric = found.goal.metrics[index]
    values = [_shown(metric, one.worth.values[index]) for one in found.tried]
    sound = [v for v, one in zip(values, found.tried, strict=True) if not one.worth.diverged_fraction]
    if metric.goal == "maximize" or not sound or max(sound) <= 0:
        return values
    return [min(value, MOST_LOSS * max(sound)) for value in values]


def _value_axis(axes: Axes, metric: Metric, values: Sequence[float], vertical: bool = True) -> None:
    """Label an axis with a metric; losses over more than a decade get a logarithmic one."""
    axis = "y" if vertical else "x"
    accuracy = metric.name.endswith("accuracy")
    getattr(axes, f"set_{axis}label")(_word(metric) + (" (%)" if accuracy else ""))
    if accuracy:
        getattr(axes, f"set_{axis}lim")(-2, 102)
    elif min(values) > 0 and max(values) / min(values) > 10:
        getattr(axes, f"set_{axis}scale")("log")
        if vertical:
            log_y(axes)


def _dots(axes: Axes, found: Found, xs: Sequence[float | None], ys: Sequence[float]) -> None:
    """Draw one dot a condition, by how it ended."""
    kinds = {
        "complete": {"marker": "o", "color": BLUE},
        "diverged": {"marker": "o", "color": RED},
        "stopped": {"marker": "o", "markerfacecolor": "none", "markeredgecolor": GREY},
        "infeasible": {"marker": "x", "color": QUIET},
    }
    for kind, style in kinds.items():
        places = [
            (x, y)
            for x, y, one in zip(xs, ys, found.tried, strict=True)
            if _kind(one) == kind and x is not None
        ]
        if places:
            x, y = zip(*places, strict=True)
            axes.plot(x, y, linestyle="none", markersize=4, alpha=0.85, zorder=3, **style)  # type: ignore[arg-type]


def _kind(one: Tried) -> str:
    if one.stopped is not None:
        return "stopped"
    if not one.worth.feasible:
        return "infeasible"
    return "diverged" if one.worth.diverged_fraction else "complete"


def _history(found: Found, index: int) -> Figure:
    metric = found.goal.metrics[index]
    best = max if metric.goal == "maximize" else min
    figure = new_figure(7.4, 3.4)
    axes = figure.subplots()
    values = _drawn(found, index)
    _dots(axes, found, [one.number for one in found.tried], values)
    line: list[tuple[int, float]] = []
    for one, value in zip(found.tried, values, strict=True):
        if one.stopped is None and one.worth.feasible:
            line.append((one.number, best(value, line[-1][1]) if line else value))
    if line:
        xs, ys = zip(*line, strict=True)
        axes.plot(xs, ys, color=INK, linewidth=1.2, drawstyle="steps-post", zorder=2)
    _value_axis(axes, metric, values)
    axes.set_xlabel("condition")
    return figure


def _slices(found: Found, index: int) -> Figure:
    metric = found.goal.metrics[index]
    columns = min(3, len(found.names))
    rows = math.ceil(len(found.names) / columns)
    figure = new_figure(7.4, 2.3 * rows + 0.2)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    values = _drawn(found, index)
    for place, axes in enumerate(grid.flat):
        if place >= len(found.names):
            axes.set_visible(False)
            continue
        name = found.names[place]
        _parameter_axis(axes, name, [one.parameters.get(name) for one in found.tried])
        spots = _places([one.parameters.get(name) for one in found.tried])
        _dots(axes, found, spots, values)
        if place % columns == 0:
            _value_axis(axes, metric, values)
    return figure


def _listed(values: Sequence[Value | None]) -> list[Value] | None:
    """Return the values of a parameter that is no number, in order of appearance."""
    known = [value for value in values if value is not None]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    return None if numbers else list(dict.fromkeys(known))


def _places(values: Sequence[Value | None]) -> list[float | None]:
    """Return where values stand on their axis: numbers as they are, others by order of appearance."""
    listed = _listed(values)
    if listed is not None:
        return [None if value is None else float(listed.index(value)) for value in values]
    return [None if value is None else float(value) for value in values]


def _parameter_axis(axes: Axes, name: str, values: Sequence[Value | None]) -> None:
    axes.set_xlabel(name.replace("_", " "))
    listed = _listed(values)
    if listed is not None:
        turn = 30 if sum(len(str(value)) for value in listed) > 16 else 0
        axes.set_xticks(range(len(listed)), [str(value) for value in listed], rotation=turn)
        axes.set_xlim(-0.5, len(listed) - 0.5)
    elif is_wide(values):
        axes.set_xscale("log")


def _parallel(found: Found, index: int) -> Figure:
    metric = found.goal.metrics[index]
    figure = new_figure(7.4, 3.8)
    axes = figure.subplots()
    sign = 1 if metric.goal == "maximize" else -1
    ordered = sorted(found.complete, key=lambda one: sign * one.worth.values[index])[-MOST_PARALLEL:]
    columns = []
    for place, name in enumerate(found.names):
        values = [one.parameters.get(name) for one in ordered]
        columns.append(_unit(_places(values), is_wide(values)))
        _mark(axes, place, values, columns[-1])
    results = [_shown(metric, one.worth.values[index]) for one in ordered]
    drawn = dict(zip([one.number for one in found.tried], _drawn(found, index), strict=True))
    heights = [drawn[one.number] for one in ordered]
    columns.append(_unit(heights, metric.goal == "minimize" and is_wide(heights)))
    _mark(axes, len(columns) - 1, results, columns[-1])
    for rank, line in enumerate(zip(*columns, strict=True)):
        share = (rank + 1) / len(ordered)
        axes.plot(
            range(len(line)), [ABSENT if height is None else height for height in line], color=BLUE,
            alpha=0.08 + 0.85 * share**3, linewidth=0.6 + share, zorder=2 + share, marker=".", markersize=2,
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), [name.replace("_", "\n") for name in (*found.names, metric.name)])
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(columns) - 0.6)
    axes.grid(axis="x", visible=True)
    axes.spines["left"].set_visible(False)
    return figure


def _mark(axes: Axes, place: int, values: Sequence[Value | None], heights: Sequence[float | None]) -> None:
    """Write along an axis of the parallel coordinates what its values are: all of a list, ends of numbers."""
    known = {h: v for h, v in zip(heights, values, strict=True) if h is not None and v is not None}
    beside: dict[str, Any] = {
        "xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 7, "zorder": 5,
    }  # fmt: skip
    shown = known if _listed(values) is not None else {h: known[h] for h in (min(known), max(known))}
    for height, value in shown.items():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
        axes.annotate(text, (place, height), bbox=box, color=INK, **beside)
    if None in heights:
        axes.annotate("absent", (place, ABSENT), color=QUIET, **beside)


def _unit(values: Sequence[float | None], log: bool) -> list[float | None]:
    """Return values on a scale from 0 to 1."""
    known = [math.log(value) if log else value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    span = (high - low) or 1.0
    return [None if v is None else ((math.log(v) if log else v) - low) / span for v in values]


def _importance(shares: Sequence[tuple[str, Sequence[Share]]]) -> Figure:
    most = max(len(found) for _, found in shares)
    figure = new_figure(7.4, (0.34 * most + 0.7) * len(shares) + 0.1)
    panels = figure.subplots(len(shares), squeeze=False, sharex=True)
    for axes, (metric, found) in zip(panels[:, 0], shares, strict=True):
        for place, one in enumerate(found):
            fill = BLUE if one.everywhere else "none"
            axes.barh(place, 100 * one.share, height=0.6, facecolor=fill, edgecolor=BLUE)
            axes.plot([100 * one.blank] * 2, [place - 0.4, place + 0.4], color=INK, linewidth=1.2)
        names = [one.name if one.everywhere else f"{one.name} (in {one.number})" for one in found]
        axes.set_yticks(range(len(found)), [name.replace("_", " ") for name in names])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 100)
        if len(shares) > 1:
            axes.set_title(metric.replace("_", " "), loc="left", fontsize=9)
    panels[-1, 0].set_xlabel("explained alone (%)")
    return figure


def _pareto(found: Found) -> Figure:
    first, second = found.goal.metrics[:2]
    figure = new_figure(5.4, 4.2)
    axes = figure.subplots()
    xs, ys = _drawn(found, 0), _drawn(found, 1)
    _dots(axes, found, xs, ys)
    front = set(found.front)
    best = sorted((x, y) for x, y, one in zip(xs, ys, found.tried, strict=True) if one.number in front)
    axes.plot([x for x, _ in best], [y for _, y in best], color=INK, linewidth=1.2, zorder=2)
    _value_axis(axes, first, xs, vertical=False)
    _value_axis(axes, second, ys)
    return figure
