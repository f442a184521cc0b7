"""From a sweep's results to the tables that claims are judged by: arms aligned by seed and lr."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bnsweep.analysis.claims.catalogue import ClaimDefinition
from bnsweep.analysis.claims.curves import CurveTable
from bnsweep.analysis.claims.final_scores import ScoreTable
from bnsweep.analysis.claims.parts import ArmTable, Findings
from bnsweep.analysis.scores import scores
from bnsweep.analysis.tables import arm_label, facet_label, lr_text

if TYPE_CHECKING:
    import pandas as pd

    from bnsweep.analysis.ranges import FacetRanges
    from bnsweep.analysis.results import Results
    from bnsweep.sweep.records import PlannedTrial

__all__ = ["PlannedFacet", "findings", "planned_facets"]


@dataclass(frozen=True)
class PlannedFacet:
    """The planned trials of one facet, by arm.

    Attributes:
        name: Its label; empty where the sweep has one facet.
        arms: Planned trials by arm, in the plan's order.
    """

    name: str
    arms: Mapping[str, Sequence[PlannedTrial]]

    def chosen(self, definition: ClaimDefinition) -> dict[str, str]:
        """Return the arm of every norm that a claim looks at and the facet has.

        Of several noise levels the one next to 1, the paper's; of other variants the first.
        """
        found: dict[str, str] = {}
        for norm in definition.norms:
            own = [arm for arm, trials in self.arms.items() if trials[0].config.parameters["norm"] == norm]
            if own:
                found[norm] = min(own, key=self._distance)
        return found

    def _distance(self, arm: str) -> float:
        noise = float(self.arms[arm][0].config.parameters.get("noise", 1.0))
        return abs(math.log(noise)) if noise > 0 else math.inf


def planned_facets(results: Results) -> list[PlannedFacet]:
    """Group the trials of the plan by facet and arm."""
    grouped: dict[str, dict[str, list[PlannedTrial]]] = {}
    for trial in results.plan:
        parameters = trial.config.parameters
        facet = grouped.setdefault(facet_label(parameters, results.varying), {})
        facet.setdefault(arm_label(parameters, results.varying), []).append(trial)
    return [PlannedFacet(name, arms) for name, arms in grouped.items()]


def findings(
    results: Results,
    facet: PlannedFacet,
    definition: ClaimDefinition,
    min_effect: float | None,
    seeds: Sequence[int] | None = None,
) -> tuple[Findings, float]:
    """Measure what a facet has to say on a claim.

    Args:
        results: The sweep.
        facet: One of its facets.
        definition: The claim.
        min_effect: As the sweep file states it.
        seeds: Only these; by default all that the arms have in common.

    Returns:
        The findings, and the smallest effect that counts.
    """
    ranges = next((one for one in results.ranges if one.facet == facet.name), None)
    kind = ranges.metric.kind if ranges else "accuracy"
    least = definition.least(kind) if min_effect is None else min_effect
    if ranges is None:
        return Findings(problem="no finished trial has a final reading to compare"), least
    frame = results.trials[results.trials["facet"] == facet.name]
    chosen = facet.chosen(definition)
    if frame[frame["arm"].isin(list(chosen.values()))].duplicated(["arm", "lr", "seed"]).any():
        return Findings(
            problem="an arm has several trials of one learning rate and seed: none is chosen"
        ), least
    table = _score_table(frame, ranges, chosen, seeds)
    if table is None:
        return Findings(problem="the arms have no learning rate and seed in common"), least
    mixed = _mixed(results, table)
    if mixed:
        return Findings(problem=mixed), least
    left = () if seeds is not None else _left_out(frame, table, chosen)
    if definition.scores is not None:
        return _noted(definition.scores(table, least), left), least
    assert definition.curves is not None
    config = facet.arms[chosen[definition.arms[0]]][0].config
    sizes = config.probes.get("landscape", {}).get("step_sizes", ())
    ceiling = 1 / min(sizes) if sizes else math.nan
    steps = int(config.parameters["steps"])
    curves = CurveTable(table, results.curves, steps, ceiling, results.layer_curves)
    return _noted(definition.curves(curves, least), left), least


def _noted(found: Findings, notes: Sequence[str]) -> Findings:
    return replace(found, notes=(*found.notes, *notes))


def _left_out(frame: pd.DataFrame, table: ScoreTable, chosen: Mapping[str, str]) -> Sequence[str]:
    """Say which learning rates and seeds some arm lacks, so that they are in no number of the claim."""
    own = frame[frame["arm"].isin(list(chosen.values()))]
    lrs = sorted(set(own["lr"]) - set(table.lrs))
    seeds = sorted(set(own["seed"]) - set(table.seeds))
    said = {"learning rates": [lr_text(float(lr)) for lr in lrs], "seeds": [str(seed) for seed in seeds]}
    return tuple(
        f"{what} that not every arm has are left out: {', '.join(values)}"
        for what, values in said.items()
        if values
    )


def _score_table(
    frame: pd.DataFrame, ranges: FacetRanges, chosen: Mapping[str, str], seeds: Sequence[int] | None
) -> ScoreTable | None:
    """Align arms on the learning rates and seeds that all of them have."""
    own = frame.assign(score=scores(frame, ranges.metric)).dropna(subset=["score"])
    tables = {
        norm: own[own["arm"] == arm].pivot(index="seed", columns="lr", values=["score", "state", "trial_id"])
        for norm, arm in chosen.items()
    }
    common_lrs = sorted(set.intersection(*(set(table["score"].columns) for table in tables.values())))
    common = set.intersection(
        *(
            set(table["score"][common_lrs].dropna().index) if common_lrs else set()
            for table in tables.values()
        )
    )
    rows = sorted(common if seeds is None else common & set(seeds))
    if not rows or not common_lrs:
        return None
    arms = {}
    for norm, table in tables.items():
        part = {name: table[name].loc[rows, common_lrs] for name in ("score", "state", "trial_id")}
        arms[norm] = ArmTable(
            chosen[norm],
            part["score"].to_numpy(dtype=float),
            (part["state"] == "diverged").to_numpy(dtype=bool),
            tuple(tuple(map(str, row)) for row in part["trial_id"].to_numpy()),
        )
    unit = "points" if ranges.metric.kind == "accuracy" else "log10"
    return ScoreTable(
        tuple(float(lr) for lr in common_lrs), arms, ranges.reference, ranges.threshold,
        ranges.metric.near, unit, ranges.metric.title.lower(), tuple(int(seed) for seed in rows),
    )  # fmt: skip


def _mixed(results: Results, table: ScoreTable) -> str:
    """Say what about the trials of a claim forbids to average over them; empty if nothing."""
    ids = {trial for arm in table.arms.values() for row in arm.trials for trial in row}
    records = [record for record in results.records if record.trial_id in ids]
    versions = sorted({record.results_version for record in records})
    if len(versions) > 1:
        listed = ", ".join(map(str, versions))
        return f"trials of different results versions ({listed}): their numbers do not compare"
    if len({record.fingerprint for record in records}) > 1:
        return "trials were trained on different data: their fingerprints differ"
    if any(record.state.value == "stopped" for record in records):
        return "trials were stopped early: their final readings are from different steps"
    return ""
