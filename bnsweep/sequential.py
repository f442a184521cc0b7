"""Sequential sweeps: run, judge, add seeds, until every claim is clear or the most seeds are reached.

Each look is written to the ledger before anything is done about it, so that a sweep that is resumed
repeats its decisions and never looks twice at the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnsweep.execution import Outcome
    from bnsweep.sweep import SweepSpec
    from bnsweep.sweep.ledger import Ledger

__all__ = ["run_in_looks", "seeds_now"]

MORE, CLEAR, CAP, STUCK = "more", "clear", "cap", "stuck"
"""What a look decides: add seeds; every claim is decided; no more seeds are allowed; more would not help."""

SAID = {
    MORE: "a claim is open",
    CLEAR: "every claim is decided",
    CAP: "the most seeds are reached",
    STUCK: "more seeds would not decide what is open",
}

Look = Callable[["Ledger"], bool]


def run_in_looks(
    spec: SweepSpec,
    find: Callable[[], Ledger | None],
    once: Callable[[SweepSpec, Look], Outcome],
    tell: Callable[[str], None],
) -> Outcome:
    """Run a sequential sweep to its last look.

    Args:
        spec: The sweep, with a schedule of seeds.
        find: Returns its ledger, where there is one by now.
        once: Makes the ledger match a spec; calls the look when everything is trained, and makes a report
            unless that says that the sweep goes on.
        tell: Takes sentences for people.

    Returns:
        How the last run ended, with the trials and the time of all of them. Nothing is judged while
        trials are missing: then the outcome says which.
    """
    before: Outcome | None = None
    while True:
        ledger = find()
        seeds = seeds_now(spec, ledger)
        own = replace(spec, seeds=tuple(range(seeds)))
        outcome = once(own, lambda ledger, seeds=seeds: _look(ledger, seeds, tell))  # type: ignore[misc]
        outcome = _joined(before, outcome)
        ledger = find()
        looks = _looks(ledger)
        if outcome.exit_code or not looks or looks[-1]["seeds"] != seeds or looks[-1]["decision"] != MORE:
            return outcome
        before = outcome


def seeds_now(spec: SweepSpec, ledger: Ledger | None) -> int:
    """Return how many seeds a sequential sweep has to have by now, from the looks in its ledger.

    A decision holds for the claims, thresholds and schedule that it was made with: after a change the
    same seeds are looked at again.
    """
    assert spec.sequential is not None
    counts, looks = spec.sequential.counts, _looks(ledger)
    if ledger is None or not looks:
        return counts[0]
    from bnsweep.analysis.claims import freeze

    last = looks[-1]
    seeds = int(last["seeds"])
    same = last["hash"] == freeze(spec, {}, False)["hash"]
    if same and last["decision"] == MORE:
        return next((count for count in counts if count > seeds), counts[-1])
    if same or seeds in counts:
        return seeds
    return next((count for count in counts if count > seeds), counts[-1])


def _looks(ledger: Ledger | None) -> list[Mapping[str, Any]]:
    return [event for event in ledger.search_log if event["event"] == "look"] if ledger is not None else []


def _look(ledger: Ledger, seeds: int, tell: Callable[[str], None]) -> bool:
    """Judge a sweep that has that many seeds, write down what was decided, and tell whether it goes on."""
    from bnsweep.analysis.claims.verdicts import PENDING
    from bnsweep.analysis.results import Results

    results = Results.read(ledger)
    frozen, verdicts = results.frozen, results.verdicts
    assert frozen.schedule is not None
    if any(verdict.word == PENDING for verdict in verdicts):
        return False
    if any(look["hash"] == frozen.hash and look["seeds"] == seeds for look in results.looks):
        return False
    undecided = [verdict for verdict in verdicts if verdict.word == "undecided"]
    if not undecided:
        decision = CLEAR
    elif not any(verdict.open for verdict in undecided):
        decision = STUCK
    else:
        decision = MORE if seeds < frozen.schedule.max else CAP
    number = sum(look["hash"] == frozen.hash for look in results.looks) + 1
    ledger.search_log.append(
        "look",
        number=number,
        seeds=seeds,
        hash=frozen.hash,
        decision=decision,
        p={verdict.key: [verdict.judged.p_supported, verdict.judged.p_refuted] for verdict in verdicts},
        words={verdict.key: verdict.word for verdict in verdicts},
    )
    tell(
        f"look {number} of at most {frozen.looks}, {seeds} seeds: {len(verdicts) - len(undecided)} of "
        f"{len(verdicts)} claims decided; {SAID[decision]}"
    )
    return decision == MORE


def _joined(before: Outcome | None, now: Outcome) -> Outcome:
    """Return how the latest run ended, with the trials, seconds and errors of those before."""
    if before is None:
        return now
    errors = {**before.errors}
    for error, count in now.errors.items():
        errors[error] = errors.get(error, 0) + count
    return replace(
        now, started=before.started + now.started, seconds=before.seconds + now.seconds, errors=errors
    )
