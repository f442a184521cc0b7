"""Claims on what probes read during training: covariate shift, landscape, moments."""

# ruff: noqa: RUF001 (dashes, primes and signs as they are printed)

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnsweep.analysis.claims.final_scores import ScoreTable
from bnsweep.analysis.claims.parts import Findings, Part, Side

if TYPE_CHECKING:
    import pandas as pd

    from bnsweep.analysis.claims.parts import Array, Flags

__all__ = [
    "EARLY",
    "LATE",
    "NONE_LEFT",
    "PHASES",
    "SAID_EARLY",
    "CurveTable",
    "Phase",
    "ics_not_reduced",
    "log_ratio",
    "logs",
    "lp_landscape",
    "lp_shift",
]

SMALLEST, LARGEST = 1e-100, 1e100
"""Ends that a reading is cut at before its logarithm is taken: overflow counts, and stays finite."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training; the start is the first reading alone.

    The paper's readings contradict its sentences at the first step, and its effective smoothness
    saturates late, so that claims are judged early and the other phases shown beside.

    Attributes:
        name: ``start``, ``early`` or ``late``.
        low: Share of the steps after which it begins.
        high: Share of the steps with which it ends.
    """

    name: str
    low: float
    high: float


START = Phase("start", 0.0, 0.0)
EARLY = Phase("early", 0.0, 1 / 3)
LATE = Phase("late", 2 / 3, 1.0)
PHASES = (START, EARLY, LATE)
SAID_EARLY = "early: steps above 0 up to a third of training"


@dataclass(frozen=True)
class CurveTable:
    """A facet's arms with the curves of their trials.

    Attributes:
        table: Final scores, arms and learning rates.
        read: Gives the curves of some trials: columns ``trial_id``, ``name``, ``step``, ``value``.
        steps: Optimizer steps of a trial.
        ceiling: The largest β·lr that the landscape's smallest step can show; NaN where unknown.
        read_layers: Gives the curves layer by layer, with a column ``layer``.
    """

    table: ScoreTable
    read: Callable[[Sequence[str], Sequence[str]], pd.DataFrame]
    steps: int
    ceiling: float = math.nan
    read_layers: Callable[[Sequence[str], Sequence[str]], pd.DataFrame] | None = None

    def layers(self, trials: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
        """Return the readings of trials, layer by layer."""
        assert self.read_layers is not None
        return self.read_layers(trials, names)

    def columns(self, roles: Sequence[str], trained: Sequence[str]) -> Flags:
        """Return the learning rates at which no trial of ``roles`` diverged and ``trained`` train."""
        import numpy as np

        keep = np.ones(len(self.table.lrs), dtype=bool)
        for role in roles:
            keep &= ~self.table.arms[role].diverged.any(axis=0)
        for role in trained:
            keep &= self.table.trains(role)
        return keep

    def summaries(
        self, roles: Sequence[str], readings: Sequence[str], columns: Flags, average: str = "median"
    ) -> Mapping[tuple[str, str, str], Array]:
        """Return the median, or mean, of readings over each phase, ``[seeds, learning rates kept]``.

        Args:
            roles: Arms.
            readings: Names of readings.
            columns: Which learning rates.
            average: ``median`` or ``mean``.

        Returns:
            By role, reading and phase. NaN where a trial has no such reading in that phase.
        """
        import numpy as np
        import pandas as pd

        ids = {role: np.asarray(self.table.arms[role].trials, dtype=object)[:, columns] for role in roles}
        every = sorted({trial for table in ids.values() for trial in table.ravel()})
        frame = self.read(every, readings)
        frame = frame.assign(trial_id=frame["trial_id"].astype(str), name=frame["name"].astype(str))
        found = {}
        for phase in PHASES:
            inside = _inside(frame, phase, self.steps)
            with np.errstate(invalid="ignore"):  # the median of infinities
                values = inside.groupby(["trial_id", "name"], observed=True)["value"].agg(average)
            for role, table in ids.items():
                for reading in readings:
                    index = pd.MultiIndex.from_product([table.ravel(), [reading]])
                    found[role, reading, phase.name] = (
                        values.reindex(index).to_numpy(dtype=float).reshape(table.shape)
                    )
        return found


def _inside(frame: pd.DataFrame, phase: Phase, steps: int) -> pd.DataFrame:
    """Return the readings of a phase."""
    if phase is START:
        return frame[frame["step"] == frame["step"].min()] if len(frame) else frame
    share = frame["step"] / steps
    return frame[(share > phase.low) & (share <= phase.high)]


def logs(values: Array) -> Array:
    """Return decimal logarithms, finite whatever the values."""
    import numpy as np

    return np.asarray(np.log10(np.clip(values, SMALLEST, LARGEST)))


def _shown(found: Mapping[tuple[str, str, str], Array], compare: Callable[[str], Array]) -> dict[str, Array]:
    """Return a comparison in every phase that has readings, the mean over learning rates."""
    import numpy as np

    values = {phase.name: compare(phase.name) for phase in PHASES}
    return {
        name: np.asarray(array.mean(axis=1))
        for name, array in values.items()
        if array.size and np.isfinite(array).all()
    }


NONE_LEFT = (
    "too many diverged: there is no learning rate at which all arms train and no seed of theirs diverges"
)


def _ratio_part(
    label: str,
    found: Mapping[tuple[str, str, str], Array],
    reading: str,
    above: str,
    below: str,
    threshold: float,
) -> tuple[Part | None, tuple[Side, ...]]:
    """Compare two arms by the logarithm of the ratio of one reading: early, and beside it the rest."""
    phases = _shown(
        found, lambda phase: logs(found[above, reading, phase]) - logs(found[below, reading, phase])
    )
    sides = tuple(
        Side(f"{label}, {phase}", tuple(values.tolist()), "log10")
        for phase, values in phases.items()
        if phase != EARLY.name
    )
    if EARLY.name not in phases:
        return None, sides
    return Part(f"{label}, early", tuple(phases[EARLY.name].tolist()), threshold, "log10"), sides


def log_ratio(
    curves: CurveTable, min_effect: float, reading: str, above: str, below: str, name: str
) -> Findings:
    """Judge whether a reading of one arm lies above that of another, by a factor, early in training.

    Args:
        curves: The facet.
        min_effect: Smallest decimal logarithm of the ratio that counts.
        reading: Name of the reading.
        above: Role whose readings are claimed to be larger.
        below: Role whose readings are claimed to be smaller.
        name: The reading for people.
    """
    columns = curves.columns((above, below), (above, below))
    if not columns.any():
        return Findings(problem=NONE_LEFT)
    found = curves.summaries((above, below), (reading,), columns)
    part, sides = _ratio_part(f"{above} / {below}, {name}", found, reading, above, below, min_effect)
    if part is None:
        return Findings(problem=f"no finite readings of {reading} in the first third of training")
    notes = _ceiling_note(curves, found, reading, (above, below))
    return Findings((part,), sides, f"{SAID_EARLY}; learning rates {curves.table.said(columns)}", notes)


def _ceiling_note(
    curves: CurveTable, found: Mapping[tuple[str, str, str], Array], reading: str, roles: Sequence[str]
) -> tuple[str, ...]:
    import numpy as np

    if reading != "landscape/beta_lr" or not math.isfinite(curves.ceiling):
        return ()
    values = np.concatenate([found[role, reading, EARLY.name].ravel() for role in roles])
    share = float((values > 0.95 * curves.ceiling).mean())
    if share == 0:
        return ()
    return (
        f"{100 * share:.0f} % of the trials' early medians lie at or above 1 / (smallest step size) = "
        f"{curves.ceiling:g}, where a step that uses up the gradient ends for every normalization: "
        "differences are hidden there",
    )


def ics_not_reduced(curves: CurveTable, min_effect: float) -> Findings:
    """Judge whether covariate shift with BatchNorm is at least what it is without."""
    roles, readings = ("batch", "none"), ("ics/l2", "ics/cosine", "ics/relative")
    columns = curves.columns(roles, roles)
    if not columns.any():
        return Findings(problem=NONE_LEFT)
    found = curves.summaries(roles, readings, columns)
    size, sides = _ratio_part("batch / none, ‖G − G′‖", found, "ics/l2", "batch", "none", -min_effect)
    turned = _shown(
        found, lambda phase: found["none", "ics/cosine", phase] - found["batch", "ics/cosine", phase]
    )
    if size is None or EARLY.name not in turned:
        return Findings(problem="no finite readings of ics in the first third of training")
    relative, more = _ratio_part("batch / none, ‖G − G′‖ / ‖G‖", found, "ics/relative", "batch", "none", 0.0)
    beside = (Side(relative.label, relative.values, "log10"),) if relative else ()
    direction = Part(
        "none − batch, cosine of G and G′, early", tuple(turned[EARLY.name].tolist()), -min_effect, "cosine"
    )
    others = tuple(
        Side(f"none − batch, cosine of G and G′, {phase}", tuple(values.tolist()), "cosine")
        for phase, values in turned.items()
        if phase != EARLY.name
    )
    where = f"{SAID_EARLY}; learning rates {curves.table.said(columns)}"
    return Findings((size, direction), beside + sides + more + others, where)


def lp_shift(curves: CurveTable, min_effect: float) -> Findings:
    """Judge whether activations move more with each Lp normalization than without any."""
    norms = tuple(role for role in curves.table.arms if role in ("l1", "l2", "linf"))
    roles, readings = ("none", *norms), ("moments/mean_change", "moments/variance_change")
    columns = curves.columns(roles, roles)
    if not columns.any():
        return Findings(problem=NONE_LEFT)
    found = curves.summaries(roles, readings, columns)
    parts: list[Part] = []
    sides: list[Side] = []
    for norm in norms:
        for reading, name in zip(readings, ("change of means", "change of variances"), strict=True):
            label = f"{norm} / none, {name}"
            part, more = _ratio_part(label, found, reading, norm, "none", min_effect)
            if part is None:
                return Findings(problem=f"no finite readings of {reading} in the first third of training")
            parts.append(part)
            sides.extend(more)
    return Findings(tuple(parts), tuple(sides), f"{SAID_EARLY}; learning rates {curves.table.said(columns)}")


def lp_landscape(curves: CurveTable, min_effect: float) -> Findings:
    """Judge whether the loss varies less along the gradient with each Lp normalization."""
    norms = tuple(role for role in curves.table.arms if role in ("l1", "l2", "linf"))
    columns = curves.columns(("none", *norms), ("none", *norms))
    if not columns.any():
        return Findings(problem=NONE_LEFT)
    reading = "landscape/loss_width"
    found = curves.summaries(("none", *norms), (reading,), columns)
    parts: list[Part] = []
    sides: list[Side] = []
    for norm in norms:
        part, more = _ratio_part(
            f"none / {norm}, width of the loss band", found, reading, "none", norm, min_effect
        )
        if part is None:
            return Findings(problem=f"no finite readings of {reading} in the first third of training")
        parts.append(part)
        sides.extend(more)
    return Findings(tuple(parts), tuple(sides), f"{SAID_EARLY}; learning rates {curves.table.said(columns)}")
