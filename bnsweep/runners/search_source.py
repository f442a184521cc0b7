"""The conditions of a search as a source of work: suggested when a worker is idle, ended when trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from bnsweep.search import Suggestion
from bnsweep.sweep import Plan
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.packs import Pack, by_signature
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState

from .failing import abandon_pack, divide_pack, may_be_divided
from .messages import Progress
from .source import Unit, pack_unit

__all__ = ["PACK_SIZE", "PlannedConditions", "SearchSource", "Suggester"]

PACK_SIZE = 16
"""Most members of a pack that conditions share."""

SHARE = 8
"""Conditions are asked for together only while a share of the budget this small is under way a worker."""


class Suggester(Protocol):
    """What says which condition is next; see :class:`bnsweep.search.Search`."""

    budget: int
    lag: int | None
    suggestions: list[Suggestion]

    @property
    def open(self) -> list[Suggestion]:
        """Suggestions that have not ended."""

    @property
    def more(self) -> bool:
        """Whether anything is left to suggest."""

    def ask(self) -> Suggestion | None:
        """Suggest the next condition."""

    def end(self, number: int, records: Sequence[Record]) -> None:
        """Learn how a suggestion ended."""


class Rule(Protocol):
    """What decides who is stopped; see :class:`bnsweep.runners.early_stopping.Stopper`."""

    rungs: tuple[int, ...]

    def decide(self, condition: str, step: int, value: float) -> bool:
        """Return whether a condition is to be stopped."""

    def ended(self, condition: str, steps: int, value: float, diverged: bool) -> None:
        """Learn that a condition ran to its end, or diverged."""

    def known(self, condition: str) -> Mapping[int, bool]:
        """Return what was decided before, by step."""


class PlannedConditions:
    """The conditions of a fixed plan, one after another, for a search that only stops early.

    Args:
        plan: The plan.
        begun: Packs that were left open: their conditions go on first.
    """

    lag: int | None = None

    def __init__(self, plan: Plan, begun: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        seeds = len(plan.seeds)
        self._planned = [
            Suggestion(start // seeds, plan.trials[start : start + seeds], plan.labels[start : start + seeds])
            for start in range(0, len(plan.trials), seeds)
        ]
        self.budget = len(self._planned)
        members = {trial_id for pack in (begun or {}).values() for trial_id in pack["members"]}
        self.open = [one for one in self._planned if members.intersection(one.trial_ids)]
        self.suggestions = list(self.open)
        self._next = [one for one in self._planned if not members.intersection(one.trial_ids)][::-1]

    @property
    def more(self) -> bool:
        """Whether some condition was not handed out yet."""
        return bool(self._next)

    def ask(self) -> Suggestion | None:
        """Return the next condition, finished or not."""
        if not self.more:
            return None
        self.suggestions.append(self._next.pop())
        return self.suggestions[-1]

    def end(self, number: int, records: Sequence[Record]) -> None:
        """Nothing follows from it."""


class SearchSource:
    """Keeps workers busy with the suggestions of a search.

    A condition is trained with all its seeds in one pack. Several conditions share a pack where no
    one is stopped early, the order of results is free, and enough of the budget is left to learn.

    Args:
        search: What suggests.
        ledger: Where packs and records stand.
        device: Type of the device that packs are made for.
        kernel: How packs are computed.
        stackable: Whether a trial can share a pack with others.
        rule: What stops conditions early, if anything does.
        goal: What the search is after, as plain data, for packs with rungs.
        retry: Trials of suggestions that ended, to be trained once more.
    """

    given_up = ""
    by_gpu = False

    def __init__(
        self,
        search: Suggester,
        ledger: Ledger,
        device: str,
        kernel: str,
        stackable: Callable[[TrialConfig], bool],
        rule: Rule | None = None,
        goal: Mapping[str, Any] | None = None,
        retry: Sequence[tuple[TrialConfig, str]] = (),
    ) -> None:
        self.search, self.ledger, self.device, self.kernel = search, ledger, device, kernel
        self.stackable, self.rule, self.goal = stackable, rule, goal
        self.width = max(1, search.budget - len(search.suggestions) + len(search.open) + len(retry))
        self._live: dict[str, set[str]] = {}
        self._units: list[Unit] = []
        self._waiting = {one.number: one for one in search.open}
        self._done = ledger.done()
        self._failed = set(ledger.failed())
        again = {trial.trial_id for trial, _ in retry}
        self._failed -= again
        wanted = [pair for one in self._waiting.values() for pair in zip(one.trials, one.labels, strict=True)]
        self._reopen([pair for pair in (*wanted, *retry) if pair[0].trial_id not in self._failed])

    # -- what runners ask ------------------------------------------------------------------------

    @property
    def expecting(self) -> bool:
        """Whether more may be suggested when what is at work has ended."""
        return self.search.more and bool(self._live)

    def ready(self, workers: int) -> Sequence[Unit]:
        """Return packs for idle workers, after asking the search for conditions."""
        self._settle()
        while len(self._live) < workers:
            batch = self._ask(workers)
            if not batch:
                break
            self._begin([pair for one in batch for pair in zip(one.trials, one.labels, strict=True)])
            self._settle()
        units, self._units = self._units, []
        return units

    def finished(self, unit: Unit, progress: Progress) -> None:
        """End the conditions of a pack, or divide a pack that does not fit in memory or failed."""
        members = self._live.pop(unit["pack"], set())
        if progress.too_large or progress.retry:
            self._divide(unit["pack"], alone=progress.retry)
            return
        self._note(members)

    def lost(self, unit: Unit, cause: str) -> Progress:
        """Give up a pack whose worker was lost again and again."""
        alone = may_be_divided(self.ledger, unit["pack"], cause)
        if alone is not None:
            self._live.pop(unit["pack"])
            self._divide(unit["pack"], alone=alone)
            return Progress(unit["pack"], 0, 0, 0, finished=True, too_large=not alone, retry=alone)
        progress = abandon_pack(self.ledger, unit["pack"], cause)
        self._note(self._live.pop(unit["pack"], set()))
        return progress

    def rung(self, progress: Progress) -> None:
        """Decide whether a condition that has come to a rung goes on."""
        assert self.rule is not None and progress.value is not None
        trials = self.ledger.read_pack(progress.pack_id)["trials"]
        condition = TrialConfig.from_dict(trials[0]).condition_id
        stop = self.rule.decide(condition, progress.step, progress.value)
        self.ledger.write_decision(progress.pack_id, progress.step, stop)

    # -- packs -----------------------------------------------------------------------------------

    def _ask(self, workers: int) -> list[Suggestion]:
        """Ask for as many conditions as one worker shall train at once."""
        batch: list[Suggestion] = []
        limit = 1
        while len(batch) < limit and (one := self.search.ask()) is not None:
            batch.append(one)
            self._waiting[one.number] = one
            if self.rule is None and self.search.lag is None:
                room = PACK_SIZE // len(one.trials)
                limit = max(1, min(room, self.search.budget // (SHARE * workers)))
        return batch

    def _reopen(self, wanted: Sequence[tuple[TrialConfig, str]]) -> None:
        """Go on with packs that were left open, and open new ones for the rest."""
        pending = {trial.trial_id for trial, _ in wanted} - self._done
        for pack_id, content in self.ledger.take_up_packs().items():
            members = set(content["members"])
            if members <= self._done:
                self.ledger.close_pack(pack_id)
            elif members & pending and content["device"] == self.device:
                self._take(pack_id, members)
                pending -= members
        groups: dict[str, list[tuple[TrialConfig, str]]] = {}
        for trial, label in wanted:
            if trial.trial_id in pending:
                groups.setdefault(trial.condition_id, []).append((trial, label))
        for group in groups.values():
            self._begin(group)

    def _begin(self, pairs: Sequence[tuple[TrialConfig, str]]) -> None:
        """Open packs for the trials that neither are done nor under way, nor have failed."""
        busy = self._done.union(self._failed, *self._live.values())
        fresh = {trial.trial_id: (trial, label) for trial, label in pairs if trial.trial_id not in busy}
        labels = {trial_id: label for trial_id, (_, label) in fresh.items()}
        for alike in by_signature([trial for trial, _ in fresh.values()]):
            size = len(alike) if self.stackable(alike[0]) and self.rule else PACK_SIZE
            size = size if self.stackable(alike[0]) else 1
            for start in range(0, len(alike), size):
                self._open(alike[start : start + size], labels)

    def _open(self, trials: Sequence[TrialConfig], labels: Mapping[str, str]) -> None:
        ids = tuple(trial.trial_id for trial in trials)
        precision = str(trials[0].parameters["precision"])
        pack = Pack(ids, trials[0].signature, precision, self.device, self.kernel)
        content = {
            **pack.to_dict(),
            "trials": [trial.to_dict() for trial in trials],
            "labels": [labels[trial_id] for trial_id in ids],
        }
        if self.rule is not None:
            content |= {"rungs": list(self.rule.rungs), "goal": self.goal}
        self.ledger.write_pack(pack.pack_id, content)
        self._take(pack.pack_id, set(ids))

    def _take(self, pack_id: str, members: set[str]) -> None:
        if self.rule is not None:
            trials = self.ledger.read_pack(pack_id)["trials"]
            condition = TrialConfig.from_dict(trials[0]).condition_id
            for step, stop in self.rule.known(condition).items():
                self.ledger.write_decision(pack_id, step, stop)
        self._live[pack_id] = members
        self._units.append(pack_unit(pack_id))

    def _divide(self, pack_id: str, *, alone: bool) -> None:
        for part, members in divide_pack(self.ledger, pack_id, alone=alone):
            self._take(part, members)

    # -- ends ------------------------------------------------------------------------------------

    def _note(self, members: set[str]) -> None:
        """Note which members of a pack that has ended have a record."""
        for trial_id in members:
            (self._done if self.ledger.record(trial_id) is not None else self._failed).add(trial_id)
        self._settle()

    def _settle(self) -> None:
        """End every suggestion of which all trials are done or have failed."""
        for number, one in list(self._waiting.items()):
            if all(trial_id in self._done or trial_id in self._failed for trial_id in one.trial_ids):
                records = list(self.ledger.records(one.trial_ids))
                if len(records) == len(
                    one.trials
                ):  # before the end is written: what has ended is not looked at
                    self._tell_rule(one.trials[0].condition_id, records)
                self.search.end(number, records)
                del self._waiting[number]

    def _tell_rule(self, condition: str, records: Sequence[Record]) -> None:
        """Let the rule that stops conditions know of one that was not stopped."""
        if self.rule is None or any(record.state is TrialState.STOPPED for record in records):
            return
        worth = Goal.from_dict(self.goal or {}).worth(records)
        steps = max(record.steps for record in records)
        self.rule.ended(condition, steps, worth.values[0], worth.diverged_fraction == 1.0)
