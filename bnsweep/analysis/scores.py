"""How one trial counts in an aggregate, and on which scale trials are compared.

A diverged trial is an outcome, not a hole in the data: it counts at chance level, so that a mean
over seeds is finite and a norm is not rewarded for losing its worst seeds.
"""

# ruff: noqa: RUF001 (dashes, primes and signs as they are printed)

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bnsweep.names import DATASETS
from bnsweep.sweep.records import Record, aggregate_value
from bnsweep.trial import TrialState

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "HEADLINES",
    "Metric",
    "class_count",
    "counted_value",
    "headline",
    "metric_named",
    "reference_score",
    "scores",
]

HEADLINES = ("test_accuracy", "train_accuracy", "test_loss", "train_loss")
"""Final readings that are aggregated over seeds."""


@dataclass(frozen=True)
class Metric:
    """A final reading, and the scale on which it is compared: higher is better.

    Accuracies are compared as they are. Losses of a regression span many orders of magnitude: they
    are compared as ``-log10(min(loss, initial loss))``, so that an exploded run counts like an
    untrained one, as in the learning-rate sensitivity of [1].

    Attributes:
        name: Name of the reading.
        kind: ``accuracy`` or ``loss``.
        near: Scores within this of the best count as good as the best: 2 points of accuracy, or a
            factor of 2 in loss.
        gain: Least score above the untrained network that counts as training: 5 points of
            accuracy, or a factor of 2 in loss.

    References:
        [1] Wortsman et al. Small-scale proxies for large-scale Transformer training instabilities.
        2023. https://arxiv.org/abs/2309.14322
    """

    name: str
    kind: str
    near: float
    gain: float

    def score(self, value: float, reference: float) -> float:
        """Return the score of a counted ``value``; ``reference`` is the untrained network's.

        Example:
            >>> metric_named("train_loss").score(100.0, 1000.0)
            -2.0
        """
        if self.kind == "accuracy":
            return value
        value = min(value, reference) if math.isfinite(reference) else value
        return -math.log10(max(value, 1e-100))

    def value(self, score: float) -> float:
        """Return the reading that has this score: for a loss, a geometric mean."""
        return score if self.kind == "accuracy" else float(10.0 ** (-score))

    def text(self, score: float) -> str:
        """Say a score in the reading's own unit.

        Example:
            >>> metric_named("test_accuracy").text(0.876), metric_named("train_loss").text(-2.5)
            ('87.6 %', '316')
        """
        if not math.isfinite(score):
            return "–"
        return f"{100 * score:.1f} %" if self.kind == "accuracy" else f"{self.value(score):.3g}"

    @property
    def title(self) -> str:
        """The reading's name in words."""
        split = "Test" if self.name.startswith("test") else "Training"
        return f"{split} {self.kind}"


def metric_named(name: str) -> Metric:
    """Return the metric of one of :data:`HEADLINES`."""
    if name.endswith("accuracy"):
        return Metric(name, "accuracy", 0.02, 0.05)
    return Metric(name, "loss", math.log10(2.0), math.log10(2.0))


def headline(frame: pd.DataFrame) -> Metric | None:
    """Return the reading by which the trials of ``frame`` are compared.

    Test accuracy for classification. For a regression the training loss, which is what the paper
    plots. What is absent from every trial gives way to the next.
    """
    regression = len(frame) > 0 and bool(frame["classes"].eq(0).all())
    order = ("train_loss", "test_loss") if regression else HEADLINES
    for name in order:
        if frame[f"{name}_counted"].notna().any():
            return metric_named(name)
    return None


def reference_score(frame: pd.DataFrame, metric: Metric) -> float:
    """Return the score of an untrained network: chance accuracy, or the mean initial loss.

    NaN where neither is known.
    """
    if metric.kind == "accuracy":
        classes = frame["classes"].dropna()
        return 1.0 / float(classes.iloc[0]) if len(classes) and classes.iloc[0] >= 1 else math.nan
    initial = [float(value) for value in frame["initial_loss"].dropna() if value > 0]
    return math.fsum(-math.log10(value) for value in initial) / len(initial) if initial else math.nan


def scores(frame: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """Return the score of every trial of ``frame``, with its index; NaN where it has no reading."""
    reference = metric.value(reference_score(frame, metric))
    return frame[f"{metric.name}_counted"].map(
        lambda value: metric.score(float(value), reference), na_action="ignore"
    )


def counted_value(record: Record, name: str, initial_loss: float = math.nan) -> float:
    """Return what one trial's final reading counts as: finite, or NaN where it has no such reading.

    A diverged trial, and a reading that is not finite, counts as chance accuracy ``1 / classes``,
    or as the loss ``max(ln(classes), last finite loss)``. A regression has no chance level; there
    ``initial_loss`` stands for ``ln(classes)``. Where the number of classes is not known, chance
    accuracy counts as 0; a loss of which nothing finite was seen is the largest double.

    Args:
        record: The trial's record.
        name: One of :data:`HEADLINES`.
        initial_loss: The trial's first training loss.

    Example:
        >>> from bnsweep.trial import TrialState
        >>> facts = {"dataset": "digits", "seed": 0}
        >>> burst = Record("0" * 16, facts, TrialState.DIVERGED, 7, {}, diverged_step=7)
        >>> counted_value(burst, "test_accuracy")
        0.1
    """
    bad = not math.isfinite(record.readings.get(name, 0.0))
    if bad and record.state is not TrialState.DIVERGED:
        record = replace(record, state=TrialState.DIVERGED, diverged_step=record.steps)
    value = aggregate_value(record, name)
    if record.state is not TrialState.DIVERGED:
        return math.nan if value is None else value
    if name.endswith("accuracy"):
        return value if value is not None else 0.0 if class_count(record) is None else math.nan
    floor = initial_loss if class_count(record) == 0 else math.nan
    known = [x for x in (value, floor) if x is not None and math.isfinite(x)]
    return max(known, default=sys.float_info.max)


def class_count(record: Record) -> int | None:
    """Return the number of classes of a trial's data set: 0 for a regression, ``None`` if unknown."""
    facts = DATASETS.get(str(record.parameters.get("dataset")))
    classes = record.data.get("classes", facts.classes if facts else None)
    return None if classes is None else int(classes)
