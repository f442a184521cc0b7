"""Final accuracy, or loss, against the learning rate, with each arm's range below it."""

# ruff: noqa: RUF001 (dashes as they are printed)

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bnsweep.analysis.intervals import MeanInterval
from bnsweep.analysis.ranges import ArmRange, FacetRanges
from bnsweep.analysis.styles import (
    INK,
    QUIET,
    RULE,
    ArmStyle,
    encode,
    level_line,
    log_y,
    lr_axis,
    lr_step,
    new_figure,
)
from bnsweep.analysis.tables import lr_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FigureFile", "arm_figure", "finish", "lr_figure", "score_axis"]


@dataclass(frozen=True)
class FigureFile:
    """A finished figure.

    Attributes:
        name: File name without its ending.
        title: What it shows.
        caption: What to see and how it was computed.
        png: The figure as PNG.
        svg: The figure as SVG.
        pdf: The figure as PDF.
        width: Its natural width in CSS pixels, 96 an inch.
    """

    name: str
    title: str
    caption: str
    png: bytes
    svg: bytes
    pdf: bytes
    width: int


def finish(figure: Figure, name: str, title: str, caption: str) -> FigureFile:
    """Encode a drawn figure."""
    return FigureFile(name, title, caption, *encode(figure), round(96 * figure.get_figwidth()))


def _shown(ranges: FacetRanges, score: float) -> float:
    """Return a score as it is plotted: percent of accuracy, or the loss itself."""
    value = ranges.metric.value(score)
    return 100 * value if ranges.metric.kind == "accuracy" else value


def score_axis(axes: Axes, ranges: FacetRanges) -> None:
    """Label the axis of final readings, and mark the level of an untrained network."""
    accuracy = ranges.metric.kind == "accuracy"
    if accuracy:
        axes.set_ylim(-2, 102)
        axes.set_ylabel(f"final {ranges.metric.title.lower()} (%)")
    else:
        axes.set_yscale("log")
        axes.set_ylabel(f"final {ranges.metric.title.lower()} (log scale)")
    reference = _shown(ranges, ranges.reference)
    if reference == reference:
        name = f"chance, {reference:g} %" if accuracy else "initial loss"
        level_line(axes, reference, name, left=True)


def _band(ranges: FacetRanges, mean: MeanInterval) -> tuple[float, float]:
    """Return the interval of a mean as plotted; accuracies end at 0 and 100 %."""
    low, high = sorted((_shown(ranges, mean.low), _shown(ranges, mean.high)))
    return (max(low, 0.0), min(high, 100.0)) if ranges.metric.kind == "accuracy" else (low, high)


def lr_figure(ranges: FacetRanges, styles: dict[str, ArmStyle]) -> Figure:
    """Draw the final reading against the learning rate: seeds, mean and interval of every arm.

    Below it, one line an arm: the learning rates that train, with those as good as the best in bold.
    """
    count = len(ranges.arms)
    figure = new_figure(7.4, 4.0 + 0.27 * count + 0.55)
    top, bottom = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [4.0, 0.27 * count + 0.25]}
    )
    slot = min(0.45 * lr_step(ranges.lrs), 0.3) / count
    for index, arm in enumerate(ranges.arms):
        _draw_arm(top, ranges, arm, styles[arm.arm], (index - (count - 1) / 2) * slot, slot)
    score_axis(top, ranges)
    if ranges.metric.kind == "loss":
        log_y(top)
    top.set_title(f"{ranges.metric.title} at the end of training, by learning rate")
    _draw_ranges(bottom, ranges, styles)
    lr_axis(top, ranges.lrs, label=False)
    lr_axis(bottom, ranges.lrs)
    top.tick_params(axis="x", labelbottom=False)
    return figure


def _draw_arm(
    axes: Axes, ranges: FacetRanges, arm: ArmRange, style: ArmStyle, offset: float, slot: float
) -> None:
    means = [_shown(ranges, mean.mean) for mean in arm.means]
    bands = [_band(ranges, mean) for mean in arm.means]
    axes.fill_between(
        arm.lrs, [low for low, _ in bands], [high for _, high in bands],
        color=style.color, alpha=0.13, linewidth=0, zorder=2,
    )  # fmt: skip
    _draw_seeds(axes, ranges, arm, style, offset, slot)
    axes.plot(
        arm.lrs, means, color=style.color, linestyle=style.dash, marker=style.marker, markersize=5.5,
        markeredgecolor="white", markeredgewidth=0.6, zorder=4, label=arm.arm,
    )  # fmt: skip


def _draw_seeds(
    axes: Axes, ranges: FacetRanges, arm: ArmRange, style: ArmStyle, offset: float, slot: float
) -> None:
    """Draw a dot for every seed, beside its learning rate, and a cross for a diverged one."""
    places: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for lr, values, flags in zip(arm.lrs, arm.values, arm.diverged, strict=True):
        for index, (value, burst) in enumerate(zip(values, flags, strict=True)):
            shift = offset + slot * 0.6 * ((index + 0.5) / len(values) - 0.5)
            places[burst].append((lr * 10**shift, _shown(ranges, value)))
    for burst, points in places.items():
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            s=16 if burst else 7,
            marker="x" if burst else "o",
            color=style.color,
            alpha=0.9 if burst else 0.6,
            linewidths=0.9 if burst else 0,
            zorder=3,
        )


def _draw_ranges(axes: Axes, ranges: FacetRanges, styles: dict[str, ArmStyle]) -> None:
    """Draw which learning rates train, one line an arm; it is the legend of the panel above."""
    count = len(ranges.arms)
    for index, arm in enumerate(ranges.arms):
        y, style = count - 1 - index, styles[arm.arm]
        axes.plot([arm.lrs[0], arm.lrs[-1]], [y, y], color=RULE, linewidth=1, zorder=1)
        for low, high in pairwise(arm.lrs):
            if low in arm.within and high in arm.within and arm.trains:
                axes.plot([low, high], [y, y], color=style.color, alpha=0.28, linewidth=9, zorder=2,
                          solid_capstyle="butt")  # fmt: skip
            if low in arm.trains and high in arm.trains:
                axes.plot([low, high], [y, y], color=style.color, linestyle=style.dash, zorder=3)
        axes.plot(arm.trains, [y] * len(arm.trains), linestyle="none", marker=style.marker, markersize=6,
                  color=style.color, markeredgecolor="white", markeredgewidth=0.6, zorder=4)  # fmt: skip
        idle = [lr for lr in arm.lrs if lr not in arm.trains]
        axes.plot(idle, [y] * len(idle), linestyle="none", marker="|", color=QUIET, markersize=5, zorder=2)
        edge = bool(arm.trains) and arm.trains[-1] == arm.lrs[-1]
        text = lr_text(arm.trains[-1]) + (" →" if edge else "") if arm.trains else "–"
        axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5,
                      color=INK, annotation_clip=False)  # fmt: skip
    axes.annotate("largest lr", (1.01, 1), xycoords="axes fraction", xytext=(0, 3), fontsize=7.5,
                  textcoords="offset points", va="bottom", color=QUIET)  # fmt: skip
    axes.set_yticks(range(count), [arm.arm for arm in reversed(ranges.arms)])
    axes.set_ylim(-0.6, count - 0.4)
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title("Learning rates that train", fontsize=8.5)


def arm_figure(ranges: FacetRanges, styles: dict[str, ArmStyle]) -> Figure:
    """Draw the final reading of every arm where the sweep has one learning rate."""
    count = len(ranges.arms)
    figure = new_figure(7.4, 4.0)
    axes = figure.subplots()
    for index, arm in enumerate(ranges.arms):
        style, mean = styles[arm.arm], arm.means[0]
        size = len(arm.values[0])
        for i, (value, burst) in enumerate(zip(arm.values[0], arm.diverged[0], strict=True)):
            axes.scatter(
                [index + 0.3 * ((i + 0.5) / size - 0.5)], [_shown(ranges, value)], color=style.color,
                s=24 if burst else 12, marker="x" if burst else "o", linewidths=1 if burst else 0,
                alpha=0.9 if burst else 0.6, zorder=3,
            )  # fmt: skip
        low, high = _band(ranges, mean)
        axes.plot([index - 0.27, index - 0.27], [low, high], color=style.color, linewidth=1.4, zorder=3)
        axes.plot([index - 0.27], [_shown(ranges, mean.mean)], color=style.color, marker=style.marker,
                  markersize=7, markeredgecolor="white", zorder=4)  # fmt: skip
    axes.set_xticks(range(count), [arm.arm.replace(" ", "\n") for arm in ranges.arms])
    axes.set_xlim(-0.6, count - 0.4)
    axes.grid(False, axis="x")
    score_axis(axes, ranges)
    if ranges.metric.kind == "loss":
        log_y(axes)
    axes.set_title(f"{ranges.metric.title} at the end of training, lr {lr_text(ranges.lrs[0])}")
    return figure
