"""Judging: parts are tested, levels corrected over the sweep, and a reason found for what stays open."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.claims.catalogue import CATALOGUE, ClaimDefinition
from bnsweep.analysis.claims.evidence import PlannedFacet, findings, planned_facets
from bnsweep.analysis.claims.frozen import FrozenClaim, FrozenClaims
from bnsweep.analysis.claims.parts import Findings, Part, Side, unit_text
from bnsweep.analysis.statistics import PairedTest, holm, paired_interval, paired_test, seeds_needed
from bnsweep.analysis.tables import ARM_PARAMETERS

if TYPE_CHECKING:
    from bnsweep.analysis.results import Results

__all__ = ["Judged", "Verdict", "adjust", "conclude", "judge", "looked", "test_findings"]

SUPPORTED, REFUTED, UNDECIDED, PENDING = "supported", "refuted", "undecided", "no verdict yet"


@dataclass(frozen=True)
class Judged:
    """The tests of one claim in one facet, before the correction over the sweep.

    Attributes:
        findings: What was measured.
        tests: One a part.
        sides: Means and intervals of the measures beside them; nothing is tested.
        p_supported: Two-sided p-value of all parts lying above their thresholds.
        p_refuted: The same of some part lying below its threshold.
    """

    findings: Findings
    tests: tuple[PairedTest, ...] = ()
    sides: tuple[PairedTest, ...] = ()
    p_supported: float = 1.0
    p_refuted: float = 1.0


@dataclass(frozen=True)
class Verdict:
    """What a sweep says about a claim, in one facet.

    Attributes:
        claim: The claim, as the sweep began with.
        definition: Its definition.
        facet: The facet; empty where the sweep has one.
        word: ``supported``, ``refuted``, ``undecided`` or ``no verdict yet``.
        reason: Why it is undecided, or what is missing; else empty.
        min_effect: Smallest effect that counts.
        judged: The tests.
        p_supported: ``judged.p_supported`` after Holm's correction over the sweep.
        p_refuted: The same for ``p_refuted``.
        cautions: What weakens the verdict: exploratory, changed after results, unseen divergence.
        paper: The paper's own values; empty where it has none for this network.
        open: Whether more seeds may decide what is undecided.
    """

    claim: FrozenClaim
    definition: ClaimDefinition
    facet: str
    word: str
    reason: str
    min_effect: float
    judged: Judged
    p_supported: float = 1.0
    p_refuted: float = 1.0
    cautions: tuple[str, ...] = ()
    paper: str = ""
    open: bool = False

    @property
    def key(self) -> str:
        """The claim's name, with the facet's where there are several."""
        return f"{self.claim.name} {self.facet}".strip()


def judge(results: Results) -> tuple[Verdict, ...]:
    """Judge every claim that a sweep began with, in each of its facets, from the ledger alone.

    The same ledger gives the same verdicts: the generator of the sign flips is seeded with the
    plan's hash.
    """
    frozen = results.frozen
    facets, found = planned_facets(results), []
    for claim in frozen.claims:
        if claim.name in CATALOGUE:
            own = [facet for facet in facets if _applies(facet, CATALOGUE[claim.name])]
            found += [_verdict(results, facet, claim) for facet in own] or [_apart(results, claim)]
    waiting = sum(verdict.word == PENDING for verdict in found)
    corrected = adjust(looked(found, frozen, results.looks), waiting)
    done = []
    for verdict, (above, below) in zip(found, corrected, strict=True):
        done.append(_concluded(replace(verdict, p_supported=above, p_refuted=below), frozen))
    return tuple(done)


def _applies(facet: PlannedFacet, definition: ClaimDefinition) -> bool:
    chosen = facet.chosen(definition)
    some = not definition.any_of or any(norm in chosen for norm in definition.any_of)
    return some and all(norm in chosen for norm in definition.arms)


def _apart(results: Results, claim: FrozenClaim) -> Verdict:
    """Say that no setting of a sweep has all arms of a claim, and what the arms differ in."""
    definition = CATALOGUE[claim.name]
    norms = set(definition.norms)
    parameters = [one.config.parameters for one in results.plan if one.config.parameters["norm"] in norms]
    skip = {*ARM_PARAMETERS, "lr", "seed"}
    differ = [
        name
        for name in results.varying
        if name not in skip and len({one.get(name) for one in parameters}) > 1
    ]
    reason = f"arm missing: no setting has {' and '.join(definition.arms)} together"
    if definition.any_of:
        reason += f" with one of {', '.join(definition.any_of)}"
    if differ:
        reason += f"; its arms differ in {', '.join(differ)}, and are never compared across"
    least = definition.least("accuracy") if claim.min_effect is None else claim.min_effect
    return Verdict(claim, definition, "", "", reason, least, Judged(Findings(problem=reason)))


def _verdict(results: Results, facet: PlannedFacet, claim: FrozenClaim) -> Verdict:
    definition = CATALOGUE[claim.name]
    missing = _missing(results, facet, definition)
    if missing:
        least = definition.least("accuracy") if claim.min_effect is None else claim.min_effect
        return Verdict(claim, definition, facet.name, PENDING, missing, least, Judged(Findings()))
    measured, least = findings(results, facet, definition, claim.min_effect)
    looks = results.frozen.looks
    seed = hashlib.sha256(f"{results.plan_hash} {claim.name} {facet.name}".encode()).digest()
    judged = test_findings(measured, int.from_bytes(seed[:8], "big"), looks)
    measured = replace(measured, notes=(*measured.notes, *_unequal(results, facet, definition)))
    judged = replace(judged, findings=measured)
    model = str(next(iter(facet.arms.values()))[0].config.parameters["model"])
    paper = definition.paper.get("vgg" if model.startswith("vgg") else model, "")
    return Verdict(claim, definition, facet.name, "", measured.problem, least, judged, paper=paper)


def _unequal(results: Results, facet: PlannedFacet, definition: ClaimDefinition) -> list[str]:
    """Say in what the arms of a claim were not tuned alike."""
    from bnsweep.analysis.effort import efforts, unequal

    arms = set(facet.chosen(definition).values())
    own = [one for one in efforts(results) if one.facet == facet.name and one.arm in arms]
    return [text[0].lower() + text[1:].rstrip(".") for text in unequal(own)]


def _missing(results: Results, facet: PlannedFacet, definition: ClaimDefinition) -> str:
    """Say how many trials of a claim's arms have no record; empty if none."""
    arms = set(facet.chosen(definition).values())
    planned = [trial.trial_id for arm in arms for trial in facet.arms[arm]]
    done = {record.trial_id for record in results.records}
    left = [trial for trial in planned if trial not in done]
    if not left:
        return ""
    text = f"{len(left)} of {len(planned)} trials are missing"
    failed = sum(trial in results.failed for trial in left)
    return f"{text} ({failed} failed)" if failed else text


def test_findings(measured: Findings, seed: int, looks: int = 1) -> Judged:
    """Test every part of a claim.

    Args:
        measured: What a sweep has to say.
        seed: Seeds the generator of the sign flips.
        looks: How many times a claim may be looked at; intervals hold over all of them.

    Returns:
        The tests. All parts must hold, so the p-value of *supported* is the largest of theirs; one
        that fails refutes, so that of *refuted* is the smallest, times their number. A part of
        which only a bound is known cannot be decided on its open side.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    tests = tuple(
        paired_test(part.values, part.threshold, rng, part.resolution, looks) for part in measured.parts
    )
    sides = tuple(_interval(side, looks) for side in measured.sides)
    if not tests:
        return Judged(measured)
    above = [1.0 if part.at_most else test.p_above for part, test in zip(measured.parts, tests, strict=True)]
    below = [1.0 if part.at_least else test.p_below for part, test in zip(measured.parts, tests, strict=True)]
    return Judged(measured, tests, sides, max(above), min(1.0, len(below) * min(below)))


def _interval(side: Side, looks: int) -> PairedTest:
    found = paired_interval(side.values, side.resolution, looks)
    return PairedTest(len(side.values), *found, 1.0, 1.0, "interval")


def looked(
    verdicts: Sequence[Verdict], frozen: FrozenClaims, looks: Sequence[Mapping[str, Any]]
) -> list[Judged]:
    """Correct the p-values of each claim for the looks that a sequential sweep may take.

    What a claim's data have shown at any look stays shown: its p-value is the smallest of its looks',
    times the number of looks that are planned (Bonferroni's inequality, which holds however the looks
    depend on each other, and whatever is decided after each).

    Args:
        verdicts: Claims as tested at the present number of seeds.
        frozen: The claims as stored, with the schedule.
        looks: Looks taken before, as the ledger has them.
    """
    if frozen.looks == 1:
        return [verdict.judged for verdict in verdicts]
    past = [look["p"] for look in looks if look.get("hash") == frozen.hash]
    done = []
    for verdict in verdicts:
        own = [(verdict.judged.p_supported, verdict.judged.p_refuted)]
        own += [tuple(look[verdict.key]) for look in past if verdict.key in look]
        above, below = (min(1.0, frozen.looks * min(one[side] for one in own)) for side in (0, 1))
        done.append(replace(verdict.judged, p_supported=above, p_refuted=below))
    return done


def adjust(judged: Sequence[Judged], waiting: int = 0) -> list[tuple[float, float]]:
    """Correct the p-values of several claims by Holm's procedure, each direction apart.

    Args:
        judged: Claims, tested or not.
        waiting: How many of them wait for trials. They count with a p-value of 1, the strictest for the
            others, so that no verdict has to be taken back when they are tested.
    """
    tested = [index for index, one in enumerate(judged) if one.tests]
    above = holm([*(judged[index].p_supported for index in tested), *[1.0] * waiting])[: len(tested)]
    below = holm([*(judged[index].p_refuted for index in tested), *[1.0] * waiting])[: len(tested)]
    found = [(1.0, 1.0)] * len(judged)
    for index, high, low in zip(tested, above, below, strict=True):
        found[index] = (high, low)
    return found


def conclude(p_supported: float, p_refuted: float, alpha: float) -> str:
    """Return the word for two corrected p-values.

    Example:
        >>> conclude(0.01, 1.0, 0.05), conclude(1.0, 0.2, 0.05)
        ('supported', 'undecided')
    """
    if max(p_supported, p_refuted) <= alpha:
        return UNDECIDED  # two looks of a sequential sweep that contradict each other
    if p_supported <= alpha:
        return SUPPORTED
    return REFUTED if p_refuted <= alpha else UNDECIDED


def _concluded(verdict: Verdict, frozen: FrozenClaims) -> Verdict:
    cautions = []
    if frozen.exploratory:
        cautions.append("exploratory: trials were chosen or stopped by results, or the file says so")
    if frozen.changed:
        cautions.append("changed after results: claims or thresholds are not those the sweep began with")
    word, reason = verdict.word, verdict.reason
    if word != PENDING:
        word = UNDECIDED if reason else conclude(verdict.p_supported, verdict.p_refuted, verdict.claim.alpha)
        if word == UNDECIDED and not reason:
            reason = _why(verdict)
            verdict = replace(verdict, open=not _bounds(verdict))
        cautions.extend(verdict.judged.findings.notes)
    return replace(verdict, word=word, reason=reason, cautions=tuple(cautions))


def _why(verdict: Verdict) -> str:
    """Say why the tests left a claim open."""
    alpha = verdict.claim.alpha
    pairs = list(zip(verdict.judged.findings.parts, verdict.judged.tests, strict=True))
    if bounds := _bounds(verdict):
        return "; ".join(bounds)
    if max(verdict.p_supported, verdict.p_refuted) <= alpha:
        return "two looks contradict each other"
    part, test = max(pairs, key=lambda pair: pair[1].p_above)
    if test.method == "no test":
        return "no spread between seeds" if test.n > 1 else "one seed: no test"
    if test.p_above <= alpha or any(test.p_below <= alpha for _, test in pairs):
        return (
            "too few seeds for this test: an interval lies beyond its threshold, but not at the level "
            "corrected "
            "for the number of claims and parts"
        )
    more = _more_seeds(part, test, alpha * min(1.0, test.p_above / max(verdict.p_supported, 1e-12)))
    return f"too few seeds for this test: its interval holds the threshold{more}"


def _bounds(verdict: Verdict) -> list[str]:
    """Return the ends of the grid that keep a claim open, whatever the number of seeds."""
    alpha = verdict.claim.alpha
    found = [
        bound
        for part, test in zip(verdict.judged.findings.parts, verdict.judged.tests, strict=True)
        for bound in (
            part.at_most if test.p_above <= alpha else "",
            part.at_least if test.p_below <= alpha else "",
        )
        if bound
    ]
    return list(dict.fromkeys(found))


def _more_seeds(part: Part, test: PairedTest, alpha: float) -> str:
    """Say how many seeds would decide, were the mean found the true one."""
    excess = abs(test.mean - part.threshold)
    side = 1.0 if test.mean > part.threshold else -1.0
    needed = seeds_needed(
        excess, test.sd, 0.8, alpha, part.resolution, [side * value for value in part.values]
    )
    if needed is None or needed > 1_000 or needed <= test.n:
        return ""
    truth = unit_text(test.mean, part.unit)
    return f"; about {needed} would decide with probability 0.8, were {truth} the truth"
