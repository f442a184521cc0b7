"""What a reader must know before believing the numbers of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnsweep.analysis.effort import efforts, unequal
from bnsweep.analysis.gallery import MOST_FACETS
from bnsweep.analysis.ranges import FacetRanges
from bnsweep.analysis.tables import lr_text
from bnsweep.parameters import Value
from bnsweep.trial import RESULTS_VERSION

if TYPE_CHECKING:
    from bnsweep.analysis.results import Results

__all__ = ["cautions"]

_EDGES = (
    ("best at the largest lr", "the best may lie beyond the largest learning rate, {lr}, for"),
    ("best at the smallest lr", "the best may lie below the smallest learning rate, {lr}, for"),
    ("trains at the largest lr", "the range may reach beyond the largest learning rate, {lr}, for"),
    ("trains at the smallest lr", "the range may begin below the smallest learning rate, {lr}, for"),
)


def cautions(results: Results) -> list[str]:
    """Return warnings about a sweep, the gravest first, one or two sentences each."""
    found = [*_unfinished(results), *_seeds(results), *_sameness(results)]
    found.extend(unequal(efforts(results)))
    for ranges in results.ranges:
        found.extend(_grid(ranges))
    if len(results.ranges) > MOST_FACETS:
        left = len(results.ranges) - MOST_FACETS
        found.append(f"{left} further settings are in the tables but not in the figures.")
    return found + list(results.ledger_warnings)


def _unfinished(results: Results) -> Iterator[str]:
    if not results.records:
        yield "No trial has finished: there is nothing to show yet."
    elif results.missing:
        yield (
            f"Unfinished: {results.missing} of {results.planned} trials are missing. Means are over what is "
            "there and may change."
        )
    if results.failed:
        yield (
            f"Failed, and counted as missing: {_trials(len(results.failed))} "
            f"({sum(results.failed.values())} failed attempts). The tracebacks are in the ledger, in "
            "failure.*.json beside each trial."
        )
    states = Counter(record.state.value for record in results.records)
    if results.records and states["diverged"] == len(results.records):
        yield "Every finished trial diverged; all aggregates are at chance by definition."
    if states["stopped"]:
        yield (
            f"Stopped early: {_trials(states['stopped'])}. Their final readings are from earlier steps than "
            "those of the others, which favours whatever learns fast; comparisons are exploratory."
        )
    if results.outside:
        yield f"Left out: {_trials(results.outside)} in the ledger, not part of the present plan."


def _seeds(results: Results) -> Iterator[str]:
    conditions = results.conditions
    if conditions.empty:
        return
    done = conditions.loc[conditions["done"] > 0, "done"]
    if done.nunique() > 1:
        yield (
            f"Conditions have unequal numbers of finished seeds, from {done.min()} to {done.max()}: those "
            "with fewer are less certain, and seeds do not pair everywhere."
        )
    if len(done) and done.max() == 1:
        yield "One seed a condition: differences between arms cannot be told from luck; no band is drawn."
    elif len(done) and done.max() < 5:
        yield f"{done.max()} seeds a condition at most: intervals are wide and rough."


def _sameness(results: Results) -> Iterator[str]:
    prints: dict[Value, set[str]] = {}
    for record in results.records:
        prints.setdefault(record.parameters["dataset"], set()).add(record.fingerprint)
    for name in sorted(str(name) for name, found in prints.items() if len(found) > 1):
        yield f"Trials on {name} were trained on different data (their fingerprints differ)."
    versions = sorted({record.results_version for record in results.records})
    if len(versions) > 1:
        listed = ", ".join(map(str, versions))
        yield f"Trials of different results versions ({listed}) are mixed: their numbers do not compare."
    elif versions and versions != [RESULTS_VERSION]:
        yield (
            f"The trials are of results version {versions[0]}, and this code makes version "
            f"{RESULTS_VERSION}: it would give other numbers."
        )
    if results.trials.duplicated(["facet", "arm", "lr", "seed"]).any():
        yield (
            "Several trials share arm, learning rate and seed, since they differ in less than names show: "
            "means count each of them."
        )
    for key, what in (("device_name", "devices"), ("torch", "versions of torch")):
        seen = Counter(str(one.environment[key]) for one in results.records if key in one.environment)
        if len(seen) > 1:
            listed = ", ".join(f"{name} ({number} trials)" for name, number in sorted(seen.items()))
            yield f"Trials ran with different {what}: {listed}."
    if len(results.trials) and results.trials["classes"].isna().any():
        yield "The number of classes of some data is not known: diverged trials on it count as accuracy 0."


def _grid(ranges: FacetRanges) -> Iterator[str]:
    where = f" ({ranges.facet})" if ranges.facet else ""
    if len(ranges.lrs) == 1:
        yield f"One learning rate{where}: nothing can be said about ranges of learning rates."
        return
    if not any(arm.trains for arm in ranges.arms):
        yield f"No arm trains at any learning rate{where}."
    grids = {arm.lrs for arm in ranges.arms}
    if len(grids) > 1:
        yield (
            f"Arms have finished trials at different learning rates{where}: compare ranges only where their "
            "grids agree."
        )
    for kind, said in _EDGES:
        end = -1 if "largest" in kind else 0
        for lr in sorted({arm.lrs[end] for arm in ranges.arms if kind in arm.edges}):
            names = [arm.arm for arm in ranges.arms if kind in arm.edges and arm.lrs[end] == lr]
            yield f"Grid edge{where}: {said.format(lr=lr_text(lr))} {', '.join(names)}."


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
