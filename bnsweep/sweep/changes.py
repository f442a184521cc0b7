"""What has changed since a sweep ran before, and what of it has to be agreed to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnsweep.trial import TrialConfig

__all__ = ["Changes", "compare_environments", "compare_plans"]


@dataclass(frozen=True)
class Changes:
    """What differs from the last run.

    Attributes:
        lines: One sentence each, such as ``lr: + 0.3``.
        grave: What would give finished trials another meaning, and has to be agreed to.
    """

    lines: Sequence[str] = ()
    grave: Sequence[str] = field(default_factory=tuple)

    def __add__(self, other: Changes) -> Changes:
        """Put the changes of two kinds together."""
        return Changes((*self.lines, *other.lines), (*self.grave, *other.grave))


def compare_plans(
    before: Iterable[TrialConfig], now: Iterable[TrialConfig], done: set[str], results_version: int | None
) -> Changes:
    """Compare the trials of two plans of one sweep.

    Args:
        before: Trials of the stored plan.
        now: Trials that are asked for.
        done: Ids of finished trials.
        results_version: Version of the code's numbers that finished trials have; ``None`` for none.

    Returns:
        Values added and removed by parameter, probes, and how many trials are new or no longer asked
        for. Other contents of a data set, and other numbers of the code, are grave.

    Example:
        >>> one = TrialConfig({"lr": 0.1, "seed": 0})
        >>> compare_plans([one], [one, TrialConfig({"lr": 0.2, "seed": 0})], set(), None).lines
        ('lr: + 0.2', 'trials: + 1 new')
    """
    from bnsweep.trial import RESULTS_VERSION

    old, new = {trial.trial_id: trial for trial in before}, {trial.trial_id: trial for trial in now}
    lines = _values(old.values(), new.values())
    probes = [{repr(sorted(trial.probes.items())) for trial in plan.values()} for plan in (old, new)]
    if probes[0] != probes[1] and old and new:
        lines.append("probes: changed, so that every trial is another one")
    fresh, gone = len(new.keys() - old.keys()), old.keys() - new.keys()
    if fresh:
        lines.append(f"trials: + {fresh} new")
    if gone:
        kept = len(gone & done)
        lines.append(f"trials: - {len(gone)} no longer asked for; {kept} results of them are kept, not shown")
    grave = [
        f"the contents of data set {name} ({min(was)} -> {min(prints)})"
        for name, was in _fingerprints(old.values()).items()
        if (prints := _fingerprints(new.values()).get(name, was)).isdisjoint(was)
    ]
    if results_version not in (None, RESULTS_VERSION):
        grave.append(
            f"the numbers that the code makes (results version {results_version} -> {RESULTS_VERSION})"
        )
    return Changes(tuple(lines), tuple(grave) if done else ())


def _values(old: Iterable[TrialConfig], new: Iterable[TrialConfig]) -> list[str]:
    had, has = _by_parameter(old), _by_parameter(new)
    lines = []
    for name in [*had, *(name for name in has if name not in had)]:
        was, values = had.get(name, set()), has.get(name, set())
        if len(was) == len(values) == 1 and was != values:
            lines.append(f"{name}: {min(was)} -> {min(values)}")
            continue
        parts = [f"+ {value}" for value in sorted(values - was)] + [f"- {v}" for v in sorted(was - values)]
        if parts:
            lines.append(f"{name}: {', '.join(parts)}")
    return lines


def _by_parameter(trials: Iterable[TrialConfig]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in trial.parameters.items():
            found.setdefault(name, set()).add(str(value))
    return found


def _fingerprints(trials: Iterable[TrialConfig]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for trial in trials:
        found.setdefault(str(trial.parameters.get("dataset")), set()).add(trial.fingerprint)
    return found


def compare_environments(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Compare what two drivers ran on: Python, packages, commit, platform, host, CPUs.

    Args:
        before: As the ledger stores it; empty where nothing was run.
        now: The same of this run.

    Example:
        >>> compare_environments({"packages": {"torch": "2.11"}}, {"packages": {"torch": "2.15"}}).lines
        ('torch: 2.11 -> 2.15',)
    """
    if not before:
        return Changes()
    had, has = _flat(before), _flat(now)
    names = [name for name in has if name in had and had[name] != has[name]]
    return Changes(tuple(f"{name}: {had[name]} -> {has[name]}" for name in names))


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return one level of names and texts; what was not known is left out."""
    nested = ("packages", "submission")
    flat = {**environment, **environment.get("packages", {})}
    kept = {name: value for name, value in flat.items() if name not in nested and value is not None}
    return {name: str(value)[:12] if name == "commit" else str(value) for name, value in kept.items()}
