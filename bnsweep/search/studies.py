"""Optuna's study of one search: asked, told, and rebuilt from what was written down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from bnsweep.errors import LedgerError
from bnsweep.parameters import Value
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.spec import SweepSpec

from .samplers import PointSampler, name_of, quiet, sampler_for
from .spaces import Space

__all__ = ["Asked", "SearchStudy"]

STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
"""What Optuna calls the ends of a condition. A diverged one is complete, at chance: TPE passes over FAIL."""

ASKED_AGAIN = ("cmaes",)
"""Samplers that keep pickles in the study: they are rebuilt by asking again, never from these."""


LARGE_LOSS = math.log(10)
"""The loss of guessing one of ten classes; above it, by how much says little."""


def _squeezed(loss: float) -> float:
    """Return a loss as it is up to :data:`LARGE_LOSS`, and less than twice that beyond, in order.

    Example:
        >>> _squeezed(0.5), round(_squeezed(4.0), 2), round(_squeezed(1e30), 2)
        (0.5, 3.28, 4.61)
    """
    over = loss - LARGE_LOSS
    return loss if over <= 0 else LARGE_LOSS * (2 - 1 / (1 + over / LARGE_LOSS))


@dataclass(frozen=True)
class Asked:
    """What a sampler said.

    Attributes:
        condition: The settings, fixed ones included.
        parameters: Those that leave a choice.
        attrs: What the sampler keeps with the trial.
        study: What it has added to the study.
    """

    condition: Mapping[str, Value]
    parameters: Mapping[str, Any]
    attrs: Mapping[str, Any]
    study: Mapping[str, Any]


class SearchStudy:
    """A study in memory.

    Args:
        spec: A spec of method ``optuna``.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self.spec, self.space = spec, Space(spec.parameters)
        self.name = name_of(spec)
        self._known: list[FrozenTrial] = []
        self._minimized = tuple(metric.goal == "minimize" for metric in Goal.of(spec).metrics)
        self._storage = InMemoryStorage()
        with quiet():
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=spec.name,
                directions=[StudyDirection[metric.goal.upper()] for metric in Goal.of(spec).metrics],
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
        self._id = self._storage.get_study_id_from_name(spec.name)
        self._points: BaseSampler | None = None

    def ask(self, number: int) -> Asked:
        """Let the sampler suggest condition ``number``."""
        before = self._storage.get_study_system_attrs(self._id)
        with quiet():
            self.study.sampler = self._sampler(number)
            condition = self.space.suggest(self.study.ask())
        trial = self._trial(number)
        after = self._storage.get_study_system_attrs(self._id)
        added = {name: value for name, value in after.items() if before.get(name) != value}
        if self.name in ASKED_AGAIN:
            return Asked(condition, trial.params, {}, {})
        return Asked(condition, trial.params, dict(trial.system_attrs), added)

    def repeat(self, event: Mapping[str, Any]) -> None:
        """Put a suggestion back that was made before.

        Raises:
            LedgerError: If asking again does not give it: the sampler is another one now.
        """
        number, parameters = int(event["number"]), event["parameters"]
        if self.name in ASKED_AGAIN:
            if dict(self.ask(number).parameters) != parameters:
                raise LedgerError(
                    f"Suggestion {number} of sampler {self.name} must repeat itself, but does not: was it "
                    "made with another version of Optuna? Install that version, or rename the sweep."
                )
            return
        trial = create_trial(
            state=TrialState.RUNNING,
            params=dict(parameters),
            distributions={name: self.space.distributions[name] for name in parameters},
            system_attrs=dict(event["attrs"]),
        )
        self._storage.create_new_trial(self._id, template_trial=trial)
        for name, value in event["study"].items():
            self._storage.set_study_system_attr(self._id, name, value)

    def know(self, observations: Sequence[Mapping[str, Any]]) -> None:
        """Add what is known of another search; call it before the first suggestion."""
        for one in observations:
            parameters = one["parameters"]
            known = create_trial(
                values=self._heard(one["values"]),
                params=dict(parameters),
                distributions={name: self.space.distributions[name] for name in parameters},
                constraints=dict(one["excess"]),
            )
            self.study.add_trial(known)
            self._known.append(known)

    def tell(self, number: int, event: Mapping[str, Any]) -> None:
        """Tell the sampler how a suggestion ended, as its event says."""
        state, key = STATES[event["state"]], self._key(number)
        values = None if event.get("values") is None else self._heard(event["values"])
        if state is TrialState.COMPLETE:
            attrs = create_trial(values=values, constraints=dict(event["excess"])).system_attrs
            for name, value in attrs.items():
                self._storage.set_trial_system_attr(key, name, value)
        if values is not None:
            self._storage.set_trial_user_attr(key, "diverged_fraction", event["diverged_fraction"])
        if state is TrialState.PRUNED and values is not None:
            self._storage.set_trial_intermediate_value(key, int(event["step"]), values[0])
        with quiet():
            told = values if state is TrialState.COMPLETE else None
            self.study.tell(len(self._known) + number, told, state=state)

    def _heard(self, values: Sequence[float]) -> list[float]:
        """Return values as the sampler hears them.

        A Gaussian process works with the values themselves: beside the last finite loss of a diverged
        trial, which may be 1e30, all others would look the same. So losses are squeezed for it, in their
        order: as they are while small, towards twice :data:`LARGE_LOSS` where large. Other samplers go by
        ranks.
        """
        if self.name != "gp":
            return list(values)
        pairs = zip(values, self._minimized, strict=True)
        return [_squeezed(value) if minimized else value for value, minimized in pairs]

    def _sampler(self, number: int) -> BaseSampler:
        if self.name == "qmc":
            self._points = self._points or sampler_for(self.spec, self.space, 0)
            assert isinstance(self._points, PointSampler)
            return self._points
        return sampler_for(self.spec, self.space, number, self._known)

    def _key(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, len(self._known) + number)

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._key(number))
