"""What a sweep's claims can show before it is run: smallest effects, and seeds needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnsweep.analysis.claims.catalogue import CATALOGUE
from bnsweep.analysis.claims.evidence import PlannedFacet, findings, planned_facets
from bnsweep.analysis.claims.frozen import ALPHA
from bnsweep.analysis.claims.parts import Part, unit_text
from bnsweep.analysis.statistics import paired_interval, power, seeds_needed, smallest_excess

if TYPE_CHECKING:
    from bnsweep.analysis.results import Results
    from bnsweep.sweep.ledger import Ledger
    from bnsweep.sweep.spec import Claim, SweepSpec

__all__ = ["Forecast", "forecast", "forecast_lines"]

POWER = 0.8
"""Probability with which the smallest effect is to be found, where none is asked for."""


@dataclass(frozen=True)
class Forecast:
    """What a claim's most doubtful part can show.

    Attributes:
        claim: Name of the claim, with its facet where there are several.
        seeds: Seeds of the sweep.
        alpha: Level at which it is judged, after correction for the number of claims.
        wanted: Probability of finding the effect.
        pilot: Seeds that the spread was taken from; 0 where there are none.
        part: The part, as the pilot has it; ``None`` without one.
        smallest: Smallest true effect that is found with that probability, in the part's unit; without
            a pilot the distance from the threshold in standard deviations.
        power: Probability that the pilot's mean, were it the truth, is found; 0 without a pilot.
        needed: Seeds that find the pilot's mean with the probability wanted; ``None`` where it does
            not exceed the threshold, or 1 000 are too few.
    """

    claim: str
    seeds: int
    alpha: float
    wanted: float
    pilot: int
    part: Part | None
    smallest: float
    power: float = 0.0
    needed: int | None = None

    def text(self) -> str:
        """Say it in one line."""
        if self.part is None:
            return (
                f"{self.claim}: {self.seeds} seeds find an effect {self.smallest:.2g} standard deviations of "
                f"the paired differences beyond its threshold, with probability {self.wanted:g}; no pilot yet"
            )
        mean = paired_interval(self.part.values)[0]
        unit = self.part.unit
        line = (
            f"{self.claim}: {self.seeds} seeds find {unit_text(self.smallest, unit)} with probability "
            f"{self.wanted:g} ({self.part.label}; must exceed {unit_text(self.part.threshold, unit)})"
        )
        said = f"the mean of {self.pilot} seeds so far, {unit_text(mean, unit)},"
        if self.needed is None:
            return f"{line}; {said} would not be found by any number"
        return (
            f"{line}; {said} is found with probability {self.power:.2f}, and takes {self.needed} seeds for "
            f"{self.wanted:g}"
        )


def forecast(spec: SweepSpec, ledger: Ledger | None, wanted: float = POWER) -> tuple[Forecast, ...]:
    """Forecast what the claims of a sweep can show with its seeds.

    The spread comes from the seeds that the sweep's own ledger has finished (two at least, in every
    condition of a claim's arms), from ten on their shape too. The level is divided by the number of
    claims, the strictest that Holm's correction asks for, and by the number of looks of a sequential
    sweep, which is taken at its most seeds; a claim of several parts needs all of them, so its power is
    somewhat below that of its most doubtful part, which is shown.

    Args:
        spec: The sweep.
        ledger: Its ledger, where there is one.
        wanted: Probability of finding an effect.
    """
    from bnsweep.analysis.results import Results

    results = Results.read(ledger) if ledger is not None and ledger.done() else None
    facets = planned_facets(results) if results is not None else []
    made: list[Forecast] = []
    for claim in spec.claims:
        found = [one for facet in facets if (one := _from_pilot(spec, claim, results, facet, wanted))]
        made.extend(found or [_without_pilot(spec, claim, wanted)])
    return tuple(made)


def _level(spec: SweepSpec, claim: Claim) -> float:
    looks = len(spec.sequential.counts) if spec.sequential else 1
    return (ALPHA if claim.alpha is None else claim.alpha) / (len(spec.claims) * looks)


def _most_seeds(spec: SweepSpec) -> int:
    return spec.sequential.max if spec.sequential else len(spec.seeds)


def _without_pilot(spec: SweepSpec, claim: Claim, wanted: float) -> Forecast:
    n, alpha = _most_seeds(spec), _level(spec, claim)
    return Forecast(claim.name, n, alpha, wanted, 0, None, smallest_excess(1.0, n, wanted, alpha))


def _from_pilot(
    spec: SweepSpec, claim: Claim, results: Results | None, facet: PlannedFacet, wanted: float
) -> Forecast | None:
    """Return the forecast of a facet, or ``None`` where fewer than two seeds are complete."""
    definition = CATALOGUE[claim.name]
    chosen = facet.chosen(definition)
    if results is None or any(norm not in chosen for norm in definition.arms):
        return None
    seeds = _complete(results, facet, list(chosen.values()))
    if len(seeds) < 2:
        return None
    parts = findings(results, facet, definition, claim.min_effect, seeds)[0].parts
    if not parts:
        return None
    n, alpha = _most_seeds(spec), _level(spec, claim)

    def reach(part: Part) -> tuple[float, float]:
        mean, sd, *_ = paired_interval(part.values)
        return mean - part.threshold, sd

    part = min(parts, key=lambda one: power(*reach(one), n, alpha, one.resolution, one.values))
    excess, sd = reach(part)
    return Forecast(
        f"{claim.name} {facet.name}".strip(),
        n,
        alpha,
        wanted,
        len(seeds),
        part,
        part.threshold + smallest_excess(sd, n, wanted, alpha, part.resolution, part.values),
        power(excess, sd, n, alpha, part.resolution, part.values),
        seeds_needed(excess, sd, wanted, alpha, part.resolution, part.values),
    )


def _complete(results: Results, facet: PlannedFacet, arms: Sequence[str]) -> list[int]:
    """Return the seeds whose trials are all done."""
    done = {record.trial_id for record in results.records}
    by_seed: dict[int, bool] = {}
    for arm in arms:
        for trial in facet.arms[arm]:
            seed = int(trial.config.parameters["seed"])
            by_seed[seed] = by_seed.get(seed, True) and trial.trial_id in done
    return sorted(seed for seed, complete in by_seed.items() if complete)


def forecast_lines(spec: SweepSpec, ledger: Ledger | None, wanted: float = POWER) -> list[str]:
    """Return :func:`forecast` as lines for a terminal; empty for a sweep without claims."""
    return [one.text() for one in forecast(spec, ledger, wanted)]
