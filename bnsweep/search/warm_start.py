"""What a sampler may know before its first suggestion: finished conditions of another search.

They are read once, when a search begins, and stand in its first event: the source may then disappear. What is
taken over teaches the sampler and is in no table, since it is no trial of this sweep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bnsweep.errors import BnsweepError
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.plan import expander
from bnsweep.sweep.records import PlannedTrial, Record
from bnsweep.sweep.spec import SweepSpec
from bnsweep.trial import RESULTS_VERSION, TrialConfig
from bnsweep.trial import TrialState as State

from .databases import read_study, without_secrets
from .spaces import Space

__all__ = ["Known", "know_ledger", "know_study"]

Observation = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """What a search knows before it begins.

    Attributes:
        source: Where it comes from, for people.
        observations: ``parameters``, ``values`` and ``excess`` of each condition, as plain data.
        left_out: Conditions that were left out, by reason.
        notes: What else is to be said.
    """

    source: str = ""
    observations: tuple[Observation, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"warm start: {len(self.observations)} conditions of {self.source} are known"
        if self.left_out:
            text += f"; left out: {', '.join(f'{n} {reason}' for reason, n in self.left_out.items())}"
        return "; ".join([text, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return what the first event of a search says of it."""
        return {
            "source": self.source,
            "known": len(self.observations),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


def know_ledger(spec: SweepSpec, ledger: Ledger) -> Known:
    """Return what the finished conditions of another sweep say about this one's.

    A condition counts if all its seeds ran to their end or diverged, and if it differs in nothing but the
    settings that this search varies: a value after other steps, or on other data, is a value of something
    else. Seeds may be others and another number: their mean estimates the same thing.

    Args:
        spec: The search.
        ledger: The other sweep.

    Raises:
        BnsweepError: If none counts.
    """
    groups: dict[str, list[PlannedTrial]] = {}
    for trial in ledger.planned():
        groups.setdefault(trial.config.condition_id, []).append(trial)
    goal, judge = Goal.of(spec), _Judge(spec)
    found, left = list[Observation](), Counter[str]()
    seeds: set[int] = set()
    for members in groups.values():
        records = list(ledger.records(member.trial_id for member in members))
        reason, parameters = judge.ledger(members[0].config, records, len(members))
        if reason:
            left[reason] += 1
            continue
        worth = goal.worth(records)
        seeds.add(len(records))
        found.append({"parameters": parameters, "values": list(worth.values), "excess": dict(worth.excess)})
    own = len(spec.seeds)
    notes = (f"means over {_listed(seeds)} seeds, here {own}",) if seeds - {own} else ()
    return _some(Known(ledger.name, tuple(found), dict(left), notes))


def know_study(spec: SweepSpec, uri: str, name: str) -> Known:
    """Return what the complete trials of an Optuna study say; what its values mean is the user's to know.

    Args:
        spec: The search.
        uri: The study's database, which is not changed.
        name: The study.

    Raises:
        BnsweepError: If it cannot be read, has other objectives, or no trial of it fits.
    """
    directions, trials = read_study(uri, name)
    source = f"study {name} in {without_secrets(uri)}"
    wanted = [StudyDirection[metric.goal.upper()] for metric in Goal.of(spec).metrics]
    if directions != wanted:
        has = ", ".join(direction.name.lower() for direction in directions)
        must = ", ".join(direction.name.lower() for direction in wanted)
        raise BnsweepError(
            f"A warm start must have this search's objectives ({must}), but {source} has {has}. Change "
            "metric, or leave search.warm_start out."
        )
    judge = _Judge(spec)
    found, left = list[Observation](), Counter[str]()
    for trial in trials:
        reason, parameters = judge.study(trial)
        if reason:
            left[reason] += 1
            continue
        excess = {text: trial.constraints[text] for text in spec.constraints}
        found.append({"parameters": parameters, "values": list(trial.values), "excess": excess})
    return _some(Known(source, tuple(found), dict(left)))


class _Judge:
    """Says why a condition does not fit a search, or which settings it has there."""

    def __init__(self, spec: SweepSpec) -> None:
        self.spec, self.space, self.expand = spec, Space(spec.parameters), expander(spec)

    def ledger(
        self, config: TrialConfig, records: Sequence[Record], seeds: int
    ) -> tuple[str, Mapping[str, Any]]:
        """Judge a condition of another sweep."""
        if len(records) < seeds:
            return "unfinished", {}
        if any(record.state is State.STOPPED for record in records):
            return "stopped early", {}
        if any(record.results_version != RESULTS_VERSION for record in records):
            return "of another results version", {}
        parameters = {name: config.parameters[name] for name in self.space.free if name in config.parameters}
        condition = self.space.condition(parameters)
        if condition is None:
            return self._outside(parameters), {}
        own = self.expand(condition)[0]
        others = next(_differences(config, own), "")
        return (f"with other {others}", {}) if others else ("", self.space.parameters(condition))

    def study(self, trial: FrozenTrial) -> tuple[str, Mapping[str, Any]]:
        """Judge a trial of an Optuna study."""
        if trial.state is not TrialState.COMPLETE:
            return trial.state.name.lower(), {}
        condition = self.space.condition(trial.params)
        if condition is None:
            return self._outside(trial.params), {}
        if others := [name for name, value in trial.params.items() if condition.get(name) != value]:
            return f"with other {others[0]}", {}
        if any(text not in trial.constraints for text in self.spec.constraints):
            return "without the value of a constraint", {}
        return "", self.space.parameters(condition)

    def _outside(self, parameters: Mapping[str, Any]) -> str:
        """Name the first setting that is absent, or has a value that this search does not try."""
        bad = (name for name, value in parameters.items() if name in self.space.free)
        name = next((name for name in bad if not self.space.legal(name, parameters[name])), "")
        return f"outside of the range of {name}" if name else "without a setting that varies here"


def _differences(config: TrialConfig, own: TrialConfig) -> Iterator[str]:
    """Yield what tells two conditions apart, seeds and probes aside."""
    for name in {**own.parameters, **config.parameters}:
        if name != "seed" and config.parameters.get(name) != own.parameters.get(name):
            yield name
    if config.fingerprint != own.fingerprint:
        yield "data"
    if config.norm_code != own.norm_code:
        yield "code of the norm"


def _some(known: Known) -> Known:
    if known.observations:
        return known
    why = ", ".join(f"{number} {reason}" for reason, number in known.left_out.items()) or "it is empty"
    raise BnsweepError(
        f"A warm start must know a finished condition of this search's space, but {known.source} has none: "
        f"{why}. Leave search.warm_start out, or name another source."
    )


def _listed(numbers: set[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))
