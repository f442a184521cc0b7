"""One search: what is suggested next, and what became of it, written down before anything is done.

Optuna's study lives in memory. Whatever enters it stands in the ledger's event log first, and a study
that is rebuilt from there is the same to the bit, down to the attributes that samplers keep in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError
from bnsweep.parameters import Value
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.records import Record
from bnsweep.sweep.search_log import SearchLog
from bnsweep.sweep.spec import SweepSpec
from bnsweep.trial import TrialConfig, TrialState, short_hash

if TYPE_CHECKING:
    from .studies import SearchStudy
    from .warm_start import Known

__all__ = ["Search", "Suggestion"]

Expand = Callable[[Mapping[str, Value]], Sequence[TrialConfig]]


@dataclass(frozen=True)
class Suggestion:
    """A condition that a search wants to know about.

    Attributes:
        number: Its number, from 0.
        trials: Its trials, one a seed.
        labels: Their names for people.
    """

    number: int
    trials: tuple[TrialConfig, ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Suggestion:
        """Rebuild a suggestion from its event."""
        trials = tuple(TrialConfig.from_dict(entry) for entry in event["trials"])
        return cls(int(event["number"]), trials, tuple(str(entry["label"]) for entry in event["trials"]))

    @property
    def trial_ids(self) -> tuple[str, ...]:
        """Ids of the trials."""
        return tuple(trial.trial_id for trial in self.trials)


class Search:
    """Suggests conditions, learns what they are worth, and survives the end of its process.

    With ``search.lag: L`` suggestion n is made when the results of 0 to n - L - 1 are there, and from
    these alone: the same trials follow whatever the number of workers and whoever is first. Without,
    every result counts as soon as it is there, and the log says in which order they came.

    Args:
        spec: A spec of method ``optuna``.
        log: The ledger's events, which are replayed now.
        expand: Returns the trials of a condition.
        known: What the sampler shall know at the start; of no effect where the search has begun.
        clock: Reads the time that ``search.timeout`` counts.

    Raises:
        BnsweepError: If the log is that of another search.
    """

    def __init__(
        self,
        spec: SweepSpec,
        log: SearchLog,
        expand: Expand,
        known: Known | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from .studies import SearchStudy

        self.spec, self.log, self.expand = spec, log, expand
        self.goal = Goal.of(spec)
        self.budget = int(spec.search["num_trials"])
        self.lag: int | None = spec.search.get("lag") if spec.deterministic else None
        self.suggestions: list[Suggestion] = []
        self.ends: dict[int, Mapping[str, Any]] = {}
        self.study: SearchStudy = SearchStudy(spec)
        self._told = 0
        self._clock, self._began = clock, clock()
        self._varying = tuple(self.study.space.free)
        self._replay(known)

    # -- what is to be done ----------------------------------------------------------------------

    @property
    def open(self) -> list[Suggestion]:
        """Suggestions that have not ended, oldest first."""
        return [one for one in self.suggestions if one.number not in self.ends]

    @property
    def more(self) -> bool:
        """Whether anything is left to suggest, now or when results have come."""
        timeout = self.spec.search.get("timeout")
        late = timeout is not None and self._clock() - self._began > timeout
        return len(self.suggestions) < self.budget and not late

    def ask(self) -> Suggestion | None:
        """Suggest the next condition; ``None`` where there is none, or none yet."""
        number = len(self.suggestions)
        if not self.more or not self._informed(number):
            return None
        self._inform(number)
        made = self.study.ask(number)
        trials = self.expand(made.condition)
        entries = [
            {"trial_id": trial.trial_id, "label": trial.label(self._varying), **trial.to_dict()}
            for trial in trials
        ]
        event = self.log.append(
            "suggest", number=number, parameters=made.parameters, attrs=made.attrs, study=made.study,
            trials=entries,
        )  # fmt: skip
        self.suggestions.append(Suggestion.of(event))
        return self.suggestions[-1]

    def end(self, number: int, records: Sequence[Record]) -> None:
        """Learn how a suggestion ended.

        Args:
            number: Its number.
            records: The records of its trials; fewer than it has seeds means that it failed.
        """
        if number in self.ends:
            return
        suggestion = self.suggestions[number]
        content: dict[str, Any] = {"state": "failed"}
        if len(records) == len(suggestion.trials):
            worth = self.goal.worth(records)
            stopped = [record.steps for record in records if record.state is TrialState.STOPPED]
            content = {
                "state": "stopped" if stopped else "complete",
                "values": list(worth.values),
                "excess": dict(worth.excess),
                "diverged_fraction": worth.diverged_fraction,
                "step": max(stopped) if stopped else max(record.steps for record in records),
            }
        self._ended(self.log.append("end", number=number, **content))

    # -- what has happened -----------------------------------------------------------------------

    def _replay(self, known: Known | None) -> None:
        events = list(self.log)
        identity = self._identity()
        if not events:
            content = {} if known is None else {"warm_start": known.to_dict(), "prior": known.observations}
            events = [self.log.append("begin", identity=identity, method="optuna", **content)]
        if events[0].get("identity") != identity:
            raise BnsweepError(
                f"Search {self.spec.name} must be what it was when it began, but its parameters, seeds, "
                "metric or sampler have changed; only num_trials, timeout, storage and resources may. "
                "Give it another name; search.warm_start takes over what was learnt."
            )
        for event in events:
            if event["event"] == "begin":
                self.study.know(event.get("prior", ()))
            elif event["event"] == "suggest":
                self._inform(int(event["number"]))
                self.study.repeat(event)
                self.suggestions.append(Suggestion.of(event))
            elif event["event"] == "end":
                self._ended(event)

    def _ended(self, event: Mapping[str, Any]) -> None:
        number = int(event["number"])
        self.ends[number] = event
        if self.lag is None:
            self.study.tell(number, event)

    def _informed(self, number: int) -> bool:
        """Whether every result that a suggestion rests on is there."""
        return self.lag is None or all(n in self.ends for n in range(self._told, number - self.lag))

    def _inform(self, number: int) -> None:
        """Tell the study the results that a suggestion rests on, in their order."""
        while self.lag is not None and self._told < number - self.lag:
            self.study.tell(self._told, self.ends[self._told])
            self._told += 1

    def _identity(self) -> str:
        """Return a hash of everything that decides what is suggested and learnt."""
        content = self.spec.to_dict()
        search = dict(content["search"])
        for name in ("num_trials", "timeout", "storage", "warm_start"):
            search.pop(name, None)
        names = ("parameters", "seeds", "metric", "constraints", "early_stop", "probes")
        return short_hash({name: content.get(name) for name in names} | {"search": search, "lag": self.lag})
