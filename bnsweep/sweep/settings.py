"""What a sweep file says of one parameter: its values or its range, and the trials that have it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bnsweep.parameters import PARAMETERS, Parameter, Value

__all__ = ["DISTRIBUTIONS", "EPOCHS", "MAX_VALUES", "SETTINGS", "Range", "Setting"]

DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")

MAX_VALUES = 10_000

EPOCHS = Parameter(
    "epochs",
    "int",
    "Passes over the training split; stands for steps, which it is turned into.",
    1,
    1,
    1_000_000,
)
"""May stand in a sweep file in place of ``steps``; a trial has steps alone."""

SETTINGS: Mapping[str, Parameter] = MappingProxyType(
    {name: parameter for name, parameter in PARAMETERS.items() if name != "seed"} | {"epochs": EPOCHS}
)
"""Legal keys under ``parameters``."""


@dataclass(frozen=True)
class Range:
    """``num`` points from ``low`` to ``high``, both included.

    Attributes:
        low: First point.
        high: Last point.
        num: Number of points; ``None`` where points are drawn, not enumerated.
        distribution: ``uniform`` and ``int_uniform`` space the points evenly,
            ``log_uniform_values`` evenly in the logarithm.
    """

    low: int | float
    high: int | float
    num: int | None
    distribution: str

    def points(self, *, whole: bool = False) -> tuple[int | float, ...]:
        """Return the points; inner ones are rounded to 6 significant digits, ends are exact.

        Two ways to compute a logarithmic grid differ in the last bit, and a trial's identity must
        not.

        Args:
            whole: Round to integers.

        Example:
            >>> Range(0.001, 1.0, 4, "log_uniform_values").points()
            (0.001, 0.01, 0.1, 1.0)
            >>> Range(2, 10, 3, "int_uniform").points(whole=True)
            (2, 6, 10)
        """
        if self.num is None:
            return ()
        inner = (self._inner(i / (self.num - 1)) for i in range(1, self.num - 1))
        if whole:
            return (self.low, *(round(point) for point in inner), self.high)
        return (self.low, *(float(f"{point:.6g}") for point in inner), self.high)

    def at(self, part: float, *, whole: bool = False) -> int | float:
        """Return the value at a part of the way, for drawing; rounded to 6 significant digits.

        Args:
            part: From 0 to 1.
            whole: Draw an integer: every integer has the same share of the way (of its logarithm).

        Example:
            >>> Range(0.001, 1.0, None, "log_uniform_values").at(0.5)
            0.0316228
            >>> [Range(1, 4, None, "int_uniform").at(part, whole=True) for part in (0, 0.24, 0.26, 1)]
            [1, 1, 2, 4]
        """
        if whole and self.distribution == "log_uniform_values":
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            value: int | float = round(math.exp(low + (high - low) * part))
        elif whole:
            value = math.floor(self.low + (self.high - self.low + 1) * part)
        else:
            value = float(f"{self._inner(part):.6g}")
        return min(max(value, self.low), self.high)

    def _inner(self, part: float) -> float:
        if self.distribution == "log_uniform_values":
            low, high = math.log(self.low), math.log(self.high)
            return math.exp(low + (high - low) * part)
        return self.low * (1 - part) + self.high * part


@dataclass(frozen=True)
class Setting:
    """One key under ``parameters``: the values to try, and where it applies.

    Attributes:
        name: A key of :data:`SETTINGS`.
        values: Canonical values, in file order, each once.
        when: Values of other settings, by name, of which one must hold for each; empty for always.
        range: The range that the values come from, if it was written as one.
        line: 1-based line in the file.
    """

    name: str
    values: tuple[Value, ...]
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    range: Range | None = None
    line: int | None = field(default=None, compare=False)

    @property
    def continuous(self) -> bool:
        """Whether values are drawn from a range, of which no points are listed."""
        return not self.values

    @property
    def whole(self) -> bool:
        """Whether only integers are drawn from the range."""
        by_range = self.range is not None and self.range.distribution == "int_uniform"
        return by_range or SETTINGS[self.name].kind != "float"

    @property
    def size(self) -> float:
        """Number of values that there are to choose from; infinite for a range of numbers."""
        if self.values or self.range is None:
            return len(self.values)
        return self.range.high - self.range.low + 1 if self.whole else math.inf

    def at(self, part: float) -> Value:
        """Return the value at a part of the way from the first to the last.

        Args:
            part: From 0 to below 1.
        """
        if self.values or self.range is None:
            return self.values[int(part * len(self.values))]
        return self.canonical(self.range.at(part, whole=self.whole))

    def canonical(self, value: object) -> Value:
        """Return a value as the type that identity is computed from."""
        return SETTINGS[self.name].canonical(value)

    def always(self) -> Setting:
        """Return the same setting without its ``when``."""
        return Setting(self.name, self.values, {}, self.range, self.line)

    def holds(self, condition: Mapping[str, Value]) -> bool:
        """Whether this setting is present beside the settings in ``condition``."""
        return all(condition.get(name) in values for name, values in self.when.items())

    def to_content(self) -> Any:
        """Return the setting as a sweep file has it: shortest form that says the same."""
        when = {"when": {name: list(values) for name, values in self.when.items()}} if self.when else {}
        if self.range is not None:
            range_ = self.range
            num = {} if range_.num is None else {"num": range_.num}
            ends = {"min": range_.low, "max": range_.high}
            return ends | num | {"distribution": range_.distribution} | when
        if when:
            return {"values": list(self.values)} | when
        return self.values[0] if len(self.values) == 1 else list(self.values)
