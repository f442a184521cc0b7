"""A sweep's settings as Optuna's distributions, and Optuna's values as a sweep's conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from bnsweep.parameters import Value
from bnsweep.sweep.draws import free_settings
from bnsweep.sweep.expansion import in_order
from bnsweep.sweep.settings import Setting

__all__ = ["Space", "distribution_of", "settle"]


def distribution_of(setting: Setting) -> BaseDistribution:
    """Return the distribution from which a setting's values are suggested.

    A list is a choice without order. A range, with listed points or without, is a range to Optuna;
    points are snapped to by :func:`settle`.
    """
    range_ = setting.range
    if range_ is None:
        return CategoricalDistribution(setting.values)
    log = range_.distribution == "log_uniform_values"
    if setting.whole:
        return IntDistribution(int(range_.low), int(range_.high), log=log)
    return FloatDistribution(float(range_.low), float(range_.high), log=log)


def settle(setting: Setting, value: Any) -> Value:
    """Return the legal value next to what a sampler wants: 6 significant digits, or a listed point."""
    range_ = setting.range
    if range_ is None:
        return setting.values[setting.values.index(value)]
    if setting.values:
        return min(setting.values, key=lambda point: abs(_scale(setting, point) - _scale(setting, value)))
    if not setting.whole:
        value = min(max(float(f"{value:.6g}"), range_.low), range_.high)
    return setting.canonical(value)


def _scale(setting: Setting, value: Any) -> float:
    assert setting.range is not None
    return math.log(value) if setting.range.distribution == "log_uniform_values" else float(value)


class Space:
    """The settings of a search.

    Args:
        settings: All settings of the sweep file.
    """

    def __init__(self, settings: Sequence[Setting]) -> None:
        self.settings = in_order(settings)
        self.free = {setting.name: setting for setting in free_settings(settings)}
        self.distributions = {name: distribution_of(setting) for name, setting in self.free.items()}

    @property
    def branches(self) -> bool:
        """Whether some choice stands in some conditions only."""
        return any(setting.when for setting in self.free.values())

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """Ask a trial for a condition: the free settings that apply, and the fixed ones."""
        condition: dict[str, Value] = {}
        for setting in self.settings:
            if not setting.holds(condition):
                continue
            value: Any = setting.values[0] if setting.values else None
            if setting.name in self.free:
                value = self._ask(trial, setting.name)
            condition[setting.name] = value
        return condition

    def _ask(self, trial: Trial, name: str) -> Any:
        distribution = self.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            return trial.suggest_categorical(name, distribution.choices)
        if isinstance(distribution, IntDistribution):
            value = trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
            return settle(self.free[name], value)
        assert isinstance(distribution, FloatDistribution)
        return settle(
            self.free[name],
            trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log),
        )

    def parameters(self, condition: Mapping[str, Value]) -> dict[str, Value]:
        """Return what Optuna knows of a condition: its free settings, in the order of suggesting."""
        return {
            s.name: condition[s.name] for s in self.settings if s.name in self.free and s.name in condition
        }

    def condition(self, parameters: Mapping[str, Any]) -> dict[str, Value] | None:
        """Return the condition with these free settings; ``None`` if it is not one of this space."""
        condition: dict[str, Value] = {}
        for setting in self.settings:
            if not setting.holds(condition):
                continue
            if setting.name not in self.free:
                condition[setting.name] = setting.values[0]
            elif self.legal(setting.name, parameters.get(setting.name)):
                condition[setting.name] = parameters[setting.name]
            else:
                return None
        return condition

    def legal(self, name: str, value: Any) -> bool:
        """Tell whether a value is one that the setting may have."""
        distribution = self.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            return any(value == one and type(value) is type(one) for one in distribution.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        return distribution.low <= value <= distribution.high
