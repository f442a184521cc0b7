"""A search as a study in a database of Optuna's: written from the events of the ledger, never read for them.

The copy can be thrown away at any time. Trials are told apart by their number: what the study lacks is added,
what it has is left as it is, and where it shows something else, another study is begun beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.spec import SweepSpec
from bnsweep.trial import TrialConfig, short_hash

from .spaces import Space
from .studies import STATES

__all__ = ["Picture", "StudyCopy"]

TOKEN = "bnsweep.search"
"""User attribute of a study that says of which search it is a copy."""


class Picture:
    """What a study has to show of a search: one trial of Optuna's for each prior and suggestion.

    Args:
        spec: The sweep.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self.space, self.token = Space(spec.parameters), ""
        self.trials: list[FrozenTrial] = []
        self._priors = 0
        self._first: dict[str, int] = {}

    def add(self, event: Mapping[str, Any]) -> int | None:
        """Take in an event; return the number of the trial that it changed, if it did."""
        kind = event["event"]
        if kind == "begin":
            self.token = short_hash([event["identity"], event["written_at"]])
            for prior in event.get("prior", ()):
                self.trials.append(self._finished(prior))
            self._priors = len(self.trials)
        elif kind == "suggest":
            return self._suggested(event)
        elif kind == "rung" and event["condition"] in self._first:
            number = self._first[event["condition"]]
            self.trials[number].intermediate_values[int(event["step"])] = float(event["value"])
            return number
        elif kind == "end":
            return self._ended(event)
        return None

    def _finished(self, prior: Mapping[str, Any]) -> FrozenTrial:
        return create_trial(
            values=prior["values"],
            constraints=prior.get("excess"),
            user_attrs={"warm_start": True},
            **self._placed(prior["parameters"]),
        )

    def _suggested(self, event: Mapping[str, Any]) -> int:
        number = len(self.trials)
        condition = TrialConfig.from_dict(event["trials"][0]).condition_id
        self._first.setdefault(condition, number)
        trial = create_trial(
            state=TrialState.RUNNING,
            user_attrs={"condition": condition, "trials": [one["trial_id"] for one in event["trials"]]},
            **self._placed(event["parameters"]),
        )
        trial.datetime_start = _time(event)
        self.trials.append(trial)
        return number

    def _ended(self, event: Mapping[str, Any]) -> int:
        number = self._priors + int(event["number"])
        trial, state = self.trials[number], STATES[event["state"]]
        values = event.get("values")
        if values is not None:
            if state is TrialState.PRUNED and len(values) == 1:
                trial.intermediate_values[int(event["step"])] = values[0]
            trial.user_attrs["diverged_fraction"] = event["diverged_fraction"]
            for name, value in event["excess"].items():
                trial.set_constraint(name, value)
        trial.values = values if state is TrialState.COMPLETE else None
        trial.state, trial.datetime_complete = state, _time(event)
        return number

    def _placed(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "params": dict(parameters),
            "distributions": {name: self.space.distributions[name] for name in parameters},
        }


class StudyCopy:
    """The study in a database that shows a picture; making one finds or makes it, and may fail.

    Args:
        storage: The database.
        spec: The sweep.
        picture: What to show, with the events so far.
    """

    def __init__(self, storage: RDBStorage, spec: SweepSpec, picture: Picture) -> None:
        self._storage, self._picture = storage, picture
        goal = Goal.of(spec)
        self._directions = [StudyDirection[metric.goal.upper()] for metric in goal.metrics]
        self._metrics = [metric.name for metric in goal.metrics]
        self.name, self._study = self._find() or self._make(spec.name)
        self._shown = storage.get_all_trials(self._study)
        self.update(range(len(picture.trials)))

    def there(self) -> bool:
        """Tell whether the study is still there, with as many trials as were written."""
        try:
            return self._storage.get_n_trials(self._study) == len(self._shown)
        except KeyError:
            return False

    def update(self, numbers: Iterable[int]) -> None:
        """Bring trials up to date; those before them must be there."""
        for number in sorted(set(numbers)):
            wanted = self._picture.trials[number]
            if number >= len(self._shown):
                key = self._storage.create_new_trial(self._study, wanted)
                self._shown.append(self._storage.get_trial(key))
            elif not self._shown[number].state.is_finished():
                self._mend(number, wanted)

    def _mend(self, number: int, wanted: FrozenTrial) -> None:
        key = self._shown[number]._trial_id
        known = self._shown[number].intermediate_values
        for step, value in wanted.intermediate_values.items():
            if step not in known:
                self._storage.set_trial_intermediate_value(key, step, value)
        if wanted.state.is_finished():
            for name, value in wanted.user_attrs.items():
                self._storage.set_trial_user_attr(key, name, value)
            for name, value in wanted.system_attrs.items():
                self._storage.set_trial_system_attr(key, name, value)
            self._storage.set_trial_state_values(key, wanted.state, wanted.values)
        self._shown[number] = self._storage.get_trial(key)

    def _find(self) -> tuple[str, int] | None:
        """Return the newest study of this search that shows nothing else than it should."""
        for study in sorted(self._storage.get_all_studies(), key=lambda study: -study._study_id):
            if study.user_attrs.get(TOKEN) == self._picture.token and self._agrees(study._study_id):
                return study.study_name, study._study_id
        return None

    def _agrees(self, study: int) -> bool:
        found = self._storage.get_all_trials(study)
        wanted = self._picture.trials
        if len(found) > len(wanted):
            return False
        return all(
            one.params == other.params
            and (not one.state.is_finished() or (one.state, one.values) == (other.state, other.values))
            for one, other in zip(found, wanted, strict=False)
        )

    def _make(self, name: str) -> tuple[str, int]:
        """Make a study under the first name that is free: ``NAME``, ``NAME-2``, ..."""
        taken, count = {study.study_name for study in self._storage.get_all_studies()}, 1
        while True:
            called = name if count == 1 else f"{name}-{count}"
            count += 1
            if called in taken:
                continue
            try:
                study = self._storage.create_new_study(self._directions, called)
            except DuplicatedStudyError:
                continue
            self._storage.set_study_user_attr(study, TOKEN, self._picture.token)
            self._storage.set_study_system_attr(study, "study:metric_names", self._metrics)
            return called, study


def _time(event: Mapping[str, Any]) -> datetime:
    """Return when an event was written, in local time as Optuna has it."""
    return datetime.fromisoformat(event["written_at"]).astimezone().replace(tzinfo=None)
