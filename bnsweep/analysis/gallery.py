"""Which figures a sweep gets, at which learning rates, and what is said below them."""

# ruff: noqa: RUF001 (dashes, primes and signs as they are printed)

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnsweep.analysis import captions
from bnsweep.analysis.claims.figures import claim_figure
from bnsweep.analysis.curve_figures import Curves, Panel, band_figure, curves_figure
from bnsweep.analysis.figures import FigureFile, arm_figure, finish, lr_figure
from bnsweep.analysis.layer_figures import LAYERED, drift_figure, fan_figure, ics_figure, step_figure
from bnsweep.analysis.ranges import FacetRanges, facet_ranges
from bnsweep.analysis.scores import metric_named
from bnsweep.analysis.search_figures import search_figures
from bnsweep.analysis.styles import ArmStyle, arm_styles, drawing
from bnsweep.analysis.tables import lr_text, slug

if TYPE_CHECKING:
    import pandas as pd

    from bnsweep.analysis.results import Results
    from bnsweep.sweep.objectives import Share

__all__ = ["MOST_FACETS", "draw_all", "draw_claims"]

MOST_FACETS = 6
"""Facets that are drawn; tables hold all of them."""

_ICS = (
    Panel("ics/l2", "Size of the shift", "‖G − G′‖₂", log=True),
    Panel("ics/relative", "Relative size", "‖G − G′‖₂ / ‖G‖₂", log=True),
    Panel("ics/cosine", "Direction", "cos(G, G′)", level=(0.0, ""), limits=(-1.05, 1.05)),
)
_SUMMARY = (
    Panel("landscape/loss_width", "Width of the loss band", "max − min loss", log=True),
    Panel("landscape/gradient_change_max", "Gradient change", "max ‖g′ − g‖₂", log=True),
    Panel(
        "landscape/beta_lr",
        "Effective smoothness",
        "β · lr",
        log=True,
        level=(2.0, "β = 2/lr, edge of stability"),
    ),
)
_MOMENTS = (
    Panel("moments/mean_change", "Mean of activations", "change in one step", log=True),
    Panel("moments/variance_change", "Variance of activations", "change in one step", log=True),
)
_BANDS = (
    (
        "loss-band",
        "Loss along the gradient",
        Panel("landscape/loss_min", "", "loss", log=True),
        Panel("landscape/loss_max", "", "loss", log=True),
    ),
    (
        "gradient-band",
        "Change of the gradient along the gradient",
        Panel("landscape/gradient_change_min", "", "‖g′ − g‖₂", log=True),
        Panel("landscape/gradient_change_max", "", "‖g′ − g‖₂", log=True),
    ),
)
_TRAINING = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")
_NAMES = sorted(
    {panel.reading for panel in (*_ICS, *_SUMMARY, *_MOMENTS)}
    | {panel.reading for band in _BANDS for panel in band[2:]}
    | set(_TRAINING)
)


def draw_all(results: Results, shares: Sequence[tuple[str, Sequence[Share]]] = ()) -> list[FigureFile]:
    """Draw every figure that the sweep has the readings for, facet by facet.

    Args:
        results: The sweep.
        shares: What settings explain of each metric of a search.

    Returns:
        Figures in the order of the report; the same sweep gives the same bytes.
    """
    styles = arm_styles(results.arms)
    found: list[FigureFile] = []
    with drawing(results.plan_hash):
        for ranges in results.ranges[:MOST_FACETS]:
            facet = _Facet(results, ranges, styles)
            found.extend(facet.figures())
        if results.found is not None:
            found.extend(search_figures(results.found, shares))
    return found


def draw_claims(results: Results) -> dict[str, FigureFile]:
    """Draw the evidence of every claim that was tested, by the verdict's key."""
    with drawing(results.plan_hash):
        drawn = {verdict.key: claim_figure(verdict) for verdict in results.verdicts}
    return {key: figure for key, figure in drawn.items() if figure is not None}


def readings_of_steps(trials: pd.DataFrame) -> list[str]:
    """Return the names of the landscape's readings of single step lengths that trials have."""
    return [str(name) for name in trials.columns if str(name).startswith("landscape/gradient_change_at_")]


class _Facet:
    """The figures of one facet."""

    def __init__(self, results: Results, ranges: FacetRanges, styles: Mapping[str, ArmStyle]) -> None:
        self.ranges = ranges
        self.styles = dict(styles)
        trials = results.trials
        self.trials = trials[trials["facet"] == ranges.facet]
        name = slug(ranges.facet)
        self.prefix = f"{name}-" if name else ""
        self.where = f" ({ranges.facet})" if ranges.facet else ""
        best = {arm.arm: arm.lrs[arm.best] for arm in ranges.arms}
        common = {arm.arm: ranges.common_lr for arm in ranges.arms if ranges.common_lr in arm.lrs}
        self.best, self.common = self._ids(best), self._ids(common)
        self.best_lr = best
        ids = sorted({trial for own in (self.best, self.common) for arm in own.values() for trial in arm})
        lowest = min((lr for lr in ranges.lrs if all(lr in arm.lrs for arm in ranges.arms)), default=None)
        self.lowest = (
            {} if lowest in (None, ranges.common_lr) else {lowest: self._ids(dict.fromkeys(best, lowest))}
        )
        own = {trial for group in self.lowest.values() for arm in group.values() for trial in arm}
        steps = readings_of_steps(trials)
        whole = results.layer_curves(sorted({*ids, *own}), [*_NAMES, *LAYERED, *steps])
        self.layered = whole.assign(trial_id=whole["trial_id"].astype(str))
        self.frame = self.layered[self.layered["layer"] == 0].drop(columns="layer")
        diverged = self.trials.dropna(subset=["diverged_step"])
        self.diverged = {
            str(trial): int(step)
            for trial, step in zip(diverged["trial_id"], diverged["diverged_step"], strict=True)
        }

    def _ids(self, lrs: Mapping[str, float]) -> dict[str, list[str]]:
        """Return the trials of each arm at one learning rate."""
        chosen = {}
        for arm, lr in lrs.items():
            rows = self.trials[(self.trials["arm"] == arm) & (self.trials["lr"] == lr)]
            chosen[arm] = [str(trial) for trial in rows["trial_id"]]
        return chosen

    def _curves(self, trials: Mapping[str, Sequence[str]]) -> Curves:
        return Curves(self.frame, trials, self.diverged)

    def figures(self) -> Iterator[FigureFile]:
        """Yield the figures that the readings allow."""
        yield from self._against_lr()
        yield from self._training()
        yield from self._probe("ics", _ICS, "Internal covariate shift (Definition 2.1)", captions.ICS)
        yield from self._probe("landscape", _SUMMARY, "Loss landscape along the gradient", captions.LANDSCAPE)
        yield from self._bands()
        yield from self._probe("moments", _MOMENTS, "Activations from step to step", captions.MOMENTS)
        yield from self._layers()

    def _layers(self) -> Iterator[FigureFile]:
        lr, frame, styles = self.ranges.common_lr, self.layered, self.styles
        made = (
            ("ics-layers", "Covariate shift of single layers", captions.ICS_LAYERS,
             ics_figure(frame, {**self.lowest, lr: self.common}, self.diverged, styles)),
            ("step-lengths", "Change of the gradient by step length", captions.STEPS,
             step_figure(frame, lr, self.common, styles)),
            ("activations", "One activation of a layer over training", captions.FAN,
             fan_figure(frame, self.common, styles)),
            ("drift", "Activations of single layers", captions.DRIFT,
             drift_figure(frame, self.common, self.diverged, styles)),
        )  # fmt: skip
        for name, title, said, figure in made:
            if figure is not None:
                where = captions.common_lr(self.ranges)
                yield finish(figure, f"{self.prefix}{name}", f"{title}{self.where}", f"{said} {where}")

    def _against_lr(self) -> Iterator[FigureFile]:
        first = self.ranges
        split = "train" if first.metric.name.startswith("test") else "test"
        other = metric_named(f"{split}_{first.metric.kind}")
        second = facet_ranges(self.trials, [arm.arm for arm in first.arms], other)
        for ranges in (first, second):
            if ranges is None:
                continue
            single = len(ranges.lrs) == 1
            where = f"at learning rate {lr_text(ranges.lrs[0])}" if single else "against learning rate"
            title = f"Final {ranges.metric.title.lower()} {where}{self.where}"
            figure = (arm_figure if single else lr_figure)(ranges, self.styles)
            name = f"{self.prefix}{ranges.metric.name.replace('_', '-')}-vs-lr"
            yield finish(figure, name, title, captions.against_lr(ranges))

    def _training(self) -> Iterator[FigureFile]:
        accuracy = self.ranges.metric.kind == "accuracy"
        reference = self.ranges.metric.value(self.ranges.reference)
        rows = []
        at_best = {arm: f"{arm}, lr {lr_text(lr)}" for arm, lr in self.best_lr.items()}
        common = f"all at lr {lr_text(self.ranges.common_lr)}"
        for trials, where, names in ((self.best, "each at its best lr", at_best), (self.common, common, {})):
            curves = self._curves(trials)
            panels = []
            for split, word in (("train", "Training"), ("test", "Test")):
                kind = "accuracy" if accuracy else "loss"
                panel = Panel(
                    f"{split}_{kind}", f"{word} {kind}, {where}", f"{kind} (%)" if accuracy else kind
                )
                if accuracy:
                    level = (100 * reference, "chance")
                    panel = replace(panel, percent=True, limits=(-2, 102), level=level, fill=reference)
                else:
                    panel = replace(panel, log=True)
                panels += [panel] if curves.has(panel) else []
            if panels:
                rows.append((curves, panels, names))
        if len({*self.best_lr.values(), self.ranges.common_lr}) == 1:
            rows = rows[-1:]
        if rows:
            said = "Above: every arm at its own best learning rate. Below: " if len(rows) > 1 else ""
            said += f"{captions.common_lr(self.ranges)} {captions.seed_lines(not accuracy, accuracy)} "
            figure = curves_figure(rows, self.styles)
            yield finish(figure, f"{self.prefix}training", f"Training{self.where}", said + captions.TRAINING)

    def _probe(self, name: str, panels: Sequence[Panel], title: str, said: str) -> Iterator[FigureFile]:
        curves = self._curves(self.common)
        panels = [panel for panel in panels if curves.has(panel)]
        if not panels:
            return
        said = f"{said} {captions.common_lr(self.ranges)} {captions.seed_lines(True, False)}"
        figure = curves_figure([(curves, panels, {})], self.styles)
        yield finish(figure, f"{self.prefix}{name}", f"{title}{self.where}", said)

    def _bands(self) -> Iterator[FigureFile]:
        curves = self._curves(self.common)
        for name, title, low, high in _BANDS:
            shown = [arm for arm in curves.trials if curves.of(arm).has(low) and curves.of(arm).has(high)]
            if not shown:
                continue
            some = replace(curves, trials={arm: curves.trials[arm] for arm in shown})
            figure = band_figure(some, low, high, title, self.styles)
            said = f"{captions.BAND} {captions.common_lr(self.ranges)}"
            yield finish(figure, f"{self.prefix}landscape-{name}", f"{title}{self.where}", said)
