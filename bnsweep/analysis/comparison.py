"""Two sweeps, or two arms, side by side: paired differences of final scores with intervals."""

# ruff: noqa: RUF001 (dashes and signs as they are printed)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnsweep.analysis.claims.parts import interval_text
from bnsweep.analysis.scores import Metric, headline, metric_named, reference_score, scores
from bnsweep.analysis.statistics import paired_interval
from bnsweep.analysis.tables import lr_text, number_text
from bnsweep.errors import BnsweepError
from bnsweep.parameters import PARAMETERS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from bnsweep.analysis.results import Results
    from bnsweep.sweep.records import Record

__all__ = ["Side", "compare"]


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        results: The sweep.
        arm: One of its arms; empty for all.
    """

    results: Results
    arm: str = ""

    @property
    def name(self) -> str:
        """The sweep's name, with the arm's."""
        return f"{self.results.name}:{self.arm}" if self.arm else self.results.name

    def rows(self) -> pd.DataFrame:
        """Return its finished trials.

        Raises:
            BnsweepError: If it has none, or no such arm.
        """
        table = self.results.trials
        if self.arm:
            table = table[table["arm"] == self.arm]
        if table.empty:
            arms = ", ".join(self.results.arms) or "none"
            raise BnsweepError(
                f"{self.name} must have finished trials, but has none; the arms of "
                f"{self.results.name}: {arms}"
            )
        return table


def compare(first: Side, second: Side) -> list[str]:
    """Compare two sides where they agree in everything but the arm.

    Trials pair by seed, at learning rates that both have. Arms are matched by name, unless each side
    names one; settings that vary otherwise must agree.

    Returns:
        Lines for a terminal: for each pair of arms one line a learning rate, and their mean.

    Raises:
        BnsweepError: If nothing pairs, or the readings do not compare.
    """
    a, b = first.rows(), second.rows()
    metric, other = headline(a), headline(b)
    if metric is None or other is None or metric.name != other.name:
        names = [one.name if one else "nothing" for one in (metric, other)]
        raise BnsweepError(
            f"Both sides must be judged by one reading, but {first.name} has {names[0]} and "
            f"{second.name} {names[1]}."
        )
    lines = [f"final {metric.name}: {first.name} − {second.name}, paired by seed, 95 % intervals"]
    lines += [f"caution: {text}" for text in _cautions(first, second, a, b)]
    pairs = list(_pairs(first, second, a, b))
    for label, one, two in pairs:
        lines += ["", label, *_lines(one, two, metric)]
    if not pairs:
        raise BnsweepError(
            f"{first.name} and {second.name} must have arms and settings in common, but have none. "
            "Name one arm of each, as in SWEEP:ARM."
        )
    return lines


def _cautions(first: Side, second: Side, a: pd.DataFrame, b: pd.DataFrame) -> Iterator[str]:
    """Say what makes two sides unequal."""
    sides = ((first, a), (second, b))
    records = [_records(side, frame) for side, frame in sides]
    versions = sorted({one.results_version for own in records for one in own})
    if len(versions) > 1:
        yield f"results versions {', '.join(map(str, versions))}: their numbers do not compare"
    if len({one.fingerprint for own in records for one in own}) > 1:
        yield "the sides were trained on different data"
    for side, frame in sides:
        if side.results.missing:
            yield f"{side.results.name} lacks {side.results.missing} trials"
        if (frame["state"] == "stopped").any():
            yield f"trials of {side.name} were stopped early"
    for name in PARAMETERS:
        if name in ("norm", "noise", "lr", "seed"):
            continue
        values = [
            sorted({number_text(x) for x in frame[name].dropna()}) if name in frame else []
            for frame in (a, b)
        ]
        if values[0] and values[1] and values[0] != values[1]:
            one, two = (", ".join(own) for own in values)
            yield f"{name} is {one} in {first.name} and {two} in {second.name}"
    seeds = [set(map(int, frame["seed"])) for frame in (a, b)]
    if seeds[0] != seeds[1]:
        left = ", ".join(map(str, sorted(seeds[0] ^ seeds[1])))
        yield f"seeds that only one side has are left out: {left}"


def _records(side: Side, frame: pd.DataFrame) -> list[Record]:
    """Return the records of a side.

    Raises:
        BnsweepError: If they are of several versions of the code or of the data.
    """
    ids = set(frame["trial_id"])
    found = [one for one in side.results.records if one.trial_id in ids]
    for what, values in (
        ("results versions", sorted({str(one.results_version) for one in found})),
        ("data fingerprints", sorted({one.fingerprint for one in found if len(set(frame["dataset"])) == 1})),
    ):
        if len(values) > 1:
            raise BnsweepError(
                f"The trials of {side.name} must be of one kind, but have the {what} {', '.join(values)}: "
                "their numbers are never averaged. Report them as separate sweeps."
            )
    return found


def _pairs(
    first: Side, second: Side, a: pd.DataFrame, b: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    for facet in dict.fromkeys(a["facet"]):
        one, two = a[a["facet"] == facet], b[b["facet"] == facet]
        where = f" ({facet})" if facet else ""
        if first.arm or second.arm:
            for arm, other in ((x, y) for x in dict.fromkeys(one["arm"]) for y in dict.fromkeys(two["arm"])):
                if (first.arm and second.arm) or arm == other:
                    yield f"{arm} − {other}{where}", one[one["arm"] == arm], two[two["arm"] == other]
            continue
        for arm in dict.fromkeys(one["arm"]):
            if (two["arm"] == arm).any():
                yield f"{arm}{where}", one[one["arm"] == arm], two[two["arm"] == arm]


def _lines(a: pd.DataFrame, b: pd.DataFrame, metric: Metric) -> Iterator[str]:
    import numpy as np

    metric = metric_named(metric.name)
    wide = [frame.assign(score=scores(frame, metric)).pivot(index="seed", columns="lr", values="score")
            for frame in (a, b)]  # fmt: skip
    lrs = sorted(set(wide[0].columns) & set(wide[1].columns))
    seeds = sorted(set(wide[0].index) & set(wide[1].index))
    if not lrs or not seeds:
        yield "  no learning rate and seed in common"
        return
    one, two = (table.loc[seeds, lrs].to_numpy(dtype=float) for table in wide)
    unit = "points" if metric.kind == "accuracy" else "log10"
    references = [reference_score(frame, metric) for frame in (a, b)]
    gap = max(float(np.nanmax(one)), float(np.nanmax(two))) - min(references)
    threshold = min(references) + gap / 2
    for index, lr in enumerate(lrs):
        yield _line(
            f"lr {lr_text(float(lr))}", one[:, [index]], two[:, [index]], unit, metric, gap, threshold
        )
    if len(lrs) > 1:
        yield _line("mean", one, two, unit, metric, gap, threshold)


def _line(
    label: str, one: np.ndarray, two: np.ndarray, unit: str, metric: Metric, gap: float, threshold: float
) -> str:
    import numpy as np

    keep = ~(np.isnan(one).any(axis=1) | np.isnan(two).any(axis=1))
    one, two = one[keep], two[keep]
    mixed = any(((x > threshold).any(axis=0) & ~(x > threshold).all(axis=0)).any() for x in (one, two))
    difference = one.mean(axis=1) - two.mean(axis=1)
    mean, _, low, high = paired_interval(difference.tolist(), gap / one.shape[1] if mixed else 0.0)
    said = interval_text(mean, low, high, unit)
    values = " and ".join(metric.text(float(x.mean())) for x in (one, two))
    return f"  {label}: {said}  ({values}, n={len(difference)})"
