"""Which figures a sweep gets, at which learning rates, and what is said below them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnsweep.analysis.curve_figures import Curves, Panel, band_figure, curves_figure
from bnsweep.analysis.figures import FigureFile, arm_figure, finish, lr_figure
from bnsweep.analysis.ranges import FacetRanges, facet_ranges
from bnsweep.analysis.scores import metric_named
from bnsweep.analysis.styles import ArmStyle, arm_styles, drawing
from bnsweep.analysis.tables import lr_text

if TYPE_CHECKING:
    from bnsweep.analysis.results import Results

__all__ = ["MOST_FACETS", "draw_all"]

MOST_FACETS = 6
"""Facets that are drawn; tables hold all of them."""

_SEEDS = (
    "Thin lines are seeds, the thick line is their mean{kind}; a cross marks the last reading of a seed "
    "that diverged{after}."
)
_ICS = (
    Panel("ics/l2", "Size of the shift", "‖G − G′‖₂, mean over layers", log=True),
    Panel("ics/cosine", "Direction", "cos(G, G′), mean over layers", level=(0.0, ""), limits=(-1.05, 1.05)),
)
_SUMMARY = (
    Panel("landscape/loss_width", "Width of the loss band", "largest − smallest loss", log=True),
    Panel("landscape/gradient_change_max", "Gradient change", "largest ‖g′ − g‖₂", log=True),
    Panel(
        "landscape/beta_lr",
        "Effective smoothness",
        "β · lr",
        log=True,
        level=(2.0, "β = 2/lr, edge of stability"),
    ),
)
_MOMENTS = (
    Panel("moments/mean_change", "Mean of activations", "change from step to step", log=True),
    Panel("moments/variance_change", "Variance of activations", "change from step to step", log=True),
)
_BANDS = (
    ("loss-band", "landscape/loss_min", "landscape/loss_max", "loss", "Loss along the gradient"),
    (
        "gradient-band", "landscape/gradient_change_min", "landscape/gradient_change_max",
        "‖g′ − g‖₂", "Change of the gradient along the gradient",
    ),
)  # fmt: skip
_TRAINING = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")
_NAMES = sorted(
    {panel.reading for panel in (*_ICS, *_SUMMARY, *_MOMENTS)}
    | {name for band in _BANDS for name in band[1:3]}
    | set(_TRAINING)
)


def draw_all(results: Results) -> list[FigureFile]:
    """Draw every figure that the sweep has the readings for, facet by facet.

    Args:
        results: The sweep.

    Returns:
        Figures in the order of the report; the same sweep gives the same bytes.
    """
    styles = arm_styles(results.arms)
    found: list[FigureFile] = []
    with drawing(results.plan_hash):
        for ranges in results.ranges[:MOST_FACETS]:
            facet = _Facet(results, ranges, styles)
            found.extend(facet.figures())
    return found


class _Facet:
    """The figures of one facet."""

    def __init__(self, results: Results, ranges: FacetRanges, styles: Mapping[str, ArmStyle]) -> None:
        self.ranges = ranges
        self.styles = dict(styles)
        trials = results.trials
        self.trials = trials[trials["facet"] == ranges.facet]
        slug = re.sub(r"[^a-z0-9.]+", "-", ranges.facet.lower()).strip("-")
        self.prefix = f"{slug}-" if slug else ""
        self.where = f" ({ranges.facet})" if ranges.facet else ""
        best = {arm.arm: arm.lrs[arm.best] for arm in ranges.arms}
        common = {arm.arm: ranges.common_lr for arm in ranges.arms if ranges.common_lr in arm.lrs}
        self.best, self.common = self._ids(best), self._ids(common)
        self.best_lr = best
        ids = sorted({trial for own in (self.best, self.common) for arm in own.values() for trial in arm})
        self.frame = results.curves(ids, _NAMES)
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

    @property
    def _at(self) -> str:
        return (
            f"All arms at learning rate {lr_text(self.ranges.common_lr)}, the largest at which as many arms "
            "train as at any."
        )

    def figures(self) -> Iterator[FigureFile]:
        """Yield the figures that the readings allow."""
        yield from self._against_lr()
        yield from self._training()
        yield from self._probe(
            "ics", _ICS, "Internal covariate shift (Definition 2.1)",
            "G is a layer's gradient before, and G' after, the earlier layers have taken their step. No shift "
            "is a small norm of the difference and a cosine of 1.",
        )  # fmt: skip
        yield from self._probe(
            "landscape", _SUMMARY, "Loss landscape along the gradient",
            "Steps of several lengths are tried along the present gradient. Smaller is smoother: a narrow band "
            "of losses, a gradient that changes little, a small effective β. β is given in units of 1/lr: late "
            "in training it saturates at the inverse of the shortest step tried, whatever the normalization, "
            "so compare it early only.",
        )  # fmt: skip
        yield from self._bands()
        yield from self._probe(
            "moments", _MOMENTS, "Activations from step to step",
            "How much the mean and the variance of a hidden activation change from one step to the next, mean "
            "over units and layers; larger is less stable.",
        )  # fmt: skip

    def _against_lr(self) -> Iterator[FigureFile]:
        ranges = self.ranges
        split = "train" if ranges.metric.name.startswith("test") else "test"
        other = facet_ranges(
            self.trials, [arm.arm for arm in ranges.arms], metric_named(f"{split}_{ranges.metric.kind}")
        )
        for one in (ranges, other):
            if one is None:
                continue
            reading = one.metric.name.replace("_", "-")
            title = f"Final {one.metric.title.lower()} against learning rate{self.where}"
            if len(one.lrs) == 1:
                title = f"Final {one.metric.title.lower()} at learning rate {lr_text(one.lrs[0])}{self.where}"
                figure, said = arm_figure(one, self.styles), "Every dot is a seed."
            else:
                figure, said = lr_figure(one, self.styles), _lr_caption(one)
            said += (
                " Crosses are seeds that diverged, counted at "
                + ("chance" if one.metric.kind == "accuracy" else "the initial loss")
                + "; the larger marker is the mean over seeds"
                + (" (geometric)" if one.metric.kind == "loss" else "")
                + ", with its 95 % t interval."
            )
            if one.metric.name == "train_accuracy":
                said += " Training accuracy is that of the last minibatch read."
            yield finish(figure, f"{self.prefix}{reading}-vs-lr", title, said)

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
                panels += [panel] if curves.has(panel.reading) else []
            if panels:
                rows.append((curves, panels, names))
        if len({lr_text(lr) for lr in (*self.best_lr.values(), self.ranges.common_lr)}) == 1:
            rows = rows[:1]
        if rows:
            kind, after = ("", ", and counts at chance from there") if accuracy else (" (geometric)", "")
            said = (
                "Above: every arm at its own best learning rate. Below: " + self._at
                if len(rows) > 1
                else self._at
            )
            said += " " + _SEEDS.format(kind=kind, after=after)
            said += " Training readings are those of the current minibatch; long curves are averaged over "
            said += "stretches of steps."
            yield finish(
                curves_figure(rows, self.styles), f"{self.prefix}training", f"Training{self.where}", said
            )

    def _probe(self, name: str, panels: Sequence[Panel], title: str, said: str) -> Iterator[FigureFile]:
        curves = self._curves(self.common)
        panels = [panel for panel in panels if curves.has(panel.reading)]
        if not panels:
            return
        rows: list[tuple[Curves, Sequence[Panel], Mapping[str, str]]]
        rows = [(curves, panels, {})]
        after = "; from there the mean is over the others"
        kind = " (geometric on logarithmic axes)"
        said = f"{said} {self._at} {_SEEDS.format(kind=kind, after=after)}"
        yield finish(curves_figure(rows, self.styles), f"{self.prefix}{name}", f"{title}{self.where}", said)

    def _bands(self) -> Iterator[FigureFile]:
        curves = self._curves(self.common)
        for name, low, high, ylabel, title in _BANDS:
            if not (curves.has(low) and curves.has(high)):
                continue
            shown = {arm: own for arm, own in curves.trials.items() if self._curves({arm: own}).has(high)}
            figure = band_figure(self._curves(shown), low, high, ylabel, title, self.styles)
            said = (
                "Between the smallest and the largest value over the step lengths tried; geometric means over "
                f"seeds, with each seed's edges as thin lines. {self._at}"
            )
            yield finish(figure, f"{self.prefix}landscape-{name}", f"{title}{self.where}", said)


def _lr_caption(ranges: FacetRanges) -> str:
    accuracy = ranges.metric.kind == "accuracy"
    near = "2 points of the arm's best mean" if accuracy else "a factor of 2 of the arm's best mean"
    return (
        "Above: dots are seeds, set beside their learning rate so that they do not cover each other. Below: "
        f"the learning rates that train ({ranges.said_threshold()}); the wide band joins those within {near}; "
        "ticks are learning rates that do not train; an arrow says that the range reaches the grid's edge and "
        "may reach further."
    )
