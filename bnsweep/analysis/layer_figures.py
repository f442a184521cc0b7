"""Readings layer by layer, and along the step length: the paper's figures 1 (c), 2, 3, 6, 8 and 11."""

# ruff: noqa: RUF001 (dashes, primes and signs as they are printed)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bnsweep.analysis.curve_figures import SHOWN_LOG, Curves, Panel, curves_figure
from bnsweep.analysis.styles import INK, ArmStyle, log_y, new_figure
from bnsweep.analysis.tables import lr_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LAYERED", "drift_figure", "fan_figure", "ics_figure", "step_figure"]

LAYERED = (
    "ics/l2", "ics/cosine", "moments/mean_change", "activations/mean",
    *(f"activations/q{level:02d}" for level in (5, 25, 50, 75, 95)),
)  # fmt: skip
"""Readings that are drawn layer by layer."""

MOST_LAYERS = 3
MOST_ARMS = 4
"""Arms in one row of small panels."""

Trials = Mapping[str, Sequence[str]]


def _by_layer(frame: pd.DataFrame) -> pd.DataFrame:
    """Return single layers' readings with the layer as the last part of their names."""
    inside = frame[frame["layer"] > 0]
    names = inside["name"].astype(str) + "/" + inside["layer"].astype(str)
    return inside.assign(name=names).drop(columns="layer")


def _layers(frame: pd.DataFrame, *names: str) -> list[int]:
    """Return at most three layers that have all of some readings: the first, the middle and the last."""
    sets = [set(frame.loc[(frame["name"] == name) & (frame["layer"] > 0), "layer"]) for name in names]
    found = sorted(set.intersection(*sets))
    if len(found) <= MOST_LAYERS:
        return [int(layer) for layer in found]
    return [int(found[round(i * (len(found) - 1) / (MOST_LAYERS - 1))]) for i in range(MOST_LAYERS)]


def ics_figure(
    frame: pd.DataFrame,
    by_lr: Mapping[float, Trials],
    diverged: Mapping[str, int],
    styles: Mapping[str, ArmStyle],
) -> Figure | None:
    """Draw the covariate shift of single layers at each of some learning rates: cosine, then size."""
    frame = frame[frame["layer"] != 1]  # no layer before it: its shift is 0 by definition
    layers = _layers(frame, "ics/cosine", "ics/l2")
    if not layers:
        return None
    own = _by_layer(frame)
    rows: list[tuple[Curves, Sequence[Panel], Mapping[str, str]]] = []
    for lr, trials in by_lr.items():
        curves = Curves(own, trials, diverged)
        where = f"lr {lr_text(lr)}"
        cosines = [
            Panel(f"ics/cosine/{layer}", f"Layer {layer}, {where}", "cos(G, G′)", level=(0.0, ""),
                  limits=(-1.05, 1.05))
            for layer in layers
        ]  # fmt: skip
        sizes = [
            Panel(f"ics/l2/{layer}", f"Layer {layer}, {where}", "‖G − G′‖₂", log=True) for layer in layers
        ]
        for panels in (cosines, sizes):
            shown = [panel for panel in panels if curves.has(panel)]
            if shown:
                rows.append((curves, shown, {}))
    return curves_figure(rows, styles) if rows else None


def drift_figure(
    frame: pd.DataFrame, trials: Trials, diverged: Mapping[str, int], styles: Mapping[str, ArmStyle]
) -> Figure | None:
    """Draw how far the mean of activations moves in one step, and how far it has come since the first."""
    layers = _layers(frame, "moments/mean_change", "activations/mean")
    if not layers:
        return None
    means = frame[frame["name"] == "activations/mean"]
    first = means[means["step"] == 0].set_index(["trial_id", "layer"])["value"]
    start = first.reindex(list(zip(means["trial_id"], means["layer"], strict=True))).to_numpy()
    drift = means.assign(name="drift", value=(means["value"] - start).abs())
    both = _by_layer(frame[frame["name"] == "moments/mean_change"]), _by_layer(drift[drift["step"] > 0])
    rows: list[tuple[Curves, Sequence[Panel], Mapping[str, str]]] = []
    kinds = (("moments/mean_change", "change in one step"), ("drift", "distance from step 0"))
    for table, (name, label) in zip(both, kinds, strict=True):
        curves = Curves(table, trials, diverged)
        panels = [Panel(f"{name}/{layer}", f"Layer {layer}", label, log=True) for layer in layers]
        panels = [panel for panel in panels if curves.has(panel)]
        if panels:
            rows.append((curves, panels, {}))
    return curves_figure(rows, styles) if rows else None


def fan_figure(frame: pd.DataFrame, trials: Trials, styles: Mapping[str, ArmStyle]) -> Figure | None:
    """Draw quantiles of one activation over training, a column an arm and a row a layer, of one seed."""
    layers = _layers(frame, "activations/q50")
    if not layers:
        return None
    quantiles = frame[frame["name"].astype(str).str.startswith("activations/q")]
    chosen = {arm: ids[0] for arm, ids in trials.items() if ids and (quantiles["trial_id"] == ids[0]).any()}
    if not chosen:
        return None
    figure = new_figure(max(1.55 * len(chosen) + 0.7, 4.2), 1.45 * len(layers) + 0.7)
    grid = figure.subplots(len(layers), len(chosen), sharex=True, sharey="row", squeeze=False)
    for row, layer in zip(grid, layers, strict=True):
        for axes, (arm, trial) in zip(row, chosen.items(), strict=True):
            own = quantiles[(quantiles["trial_id"] == trial) & (quantiles["layer"] == layer)]
            _fan(axes, own, styles[arm].color)
            if layer == layers[0]:
                axes.set_title(arm.replace(" ", "\n"), fontsize=8.5, color=INK)
        row[0].set_ylabel(f"layer {layer}", fontsize=8.5)
    figure.supxlabel("step (optimizer updates)", fontsize=9)
    return figure


def _fan(axes: Axes, own: pd.DataFrame, color: str) -> None:
    wide = own.pivot_table(index="step", columns=own["name"].astype(str), values="value")
    wide = wide.where(wide.abs() < 1e6).dropna()
    steps = wide.index.to_numpy(dtype=float)
    if not len(steps):
        return
    values = {level: wide[f"activations/q{level:02d}"].to_numpy() for level in (5, 25, 50, 75, 95)}
    axes.fill_between(steps, values[5], values[95], color=color, alpha=0.18, linewidth=0)
    axes.fill_between(steps, values[25], values[75], color=color, alpha=0.35, linewidth=0)
    axes.plot(steps, values[50], color=color, linewidth=1.1)


def step_figure(
    frame: pd.DataFrame, lr: float, trials: Trials, styles: Mapping[str, ArmStyle]
) -> Figure | None:
    """Draw the change of the gradient against the step length, a line for each time, a panel an arm."""
    from matplotlib.ticker import NullFormatter, NullLocator

    readings = frame["name"].astype(str)
    own = frame[readings.str.startswith("landscape/gradient_change_at_")]
    if own.empty:
        return None
    own = own.assign(length=own["name"].astype(str).str.rpartition("_at_")[2].astype(float) * lr)
    own = own[(own["value"] > SHOWN_LOG[0]) & (own["value"] < SHOWN_LOG[1]) & (own["step"] > 0)]
    shown = [arm for arm, ids in trials.items() if own["trial_id"].isin(ids).any()]
    if not shown:
        return None
    rows = -(-len(shown) // MOST_ARMS)
    columns = -(-len(shown) // rows)
    figure = new_figure(max(1.8 * columns + 0.6, 4.2), 1.9 * rows + 0.7)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, arm in zip(grid, shown, strict=False):
        table = own[own["trial_id"].isin(trials[arm])]
        wide = table.pivot_table(index="length", columns="step", values="value", aggfunc="median")
        color = styles[arm].color
        for step in wide.columns:
            axes.plot(wide.index, wide[step], color=color, linewidth=0.6, alpha=0.35)
        axes.plot(wide.index, wide.median(axis=1), color=color, marker=styles[arm].marker, markersize=4)
        axes.set_title(arm.replace(" ", "\n"), fontsize=8.5, color=INK)
    grid[0].set_xscale("log")
    lengths = sorted(set(own["length"]))
    grid[0].xaxis.set_minor_formatter(NullFormatter())
    if lengths[-1] < 20 * lengths[0]:
        grid[0].xaxis.set_minor_locator(NullLocator())
        grid[0].set_xticks(lengths, [lr_text(float(f"{length:.6g}")) for length in lengths])
    grid[0].set_yscale("log")
    log_y(grid[0])
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    figure.supxlabel("length of the step along the gradient (a learning rate), log scale", fontsize=9)
    figure.supylabel("‖g′ − g‖₂, log scale", fontsize=9)
    return figure
