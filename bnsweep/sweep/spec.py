"""What a sweep file says, as frozen dataclasses: :class:`SweepSpec` and its parts.

A spec holds canonical values (``0.1`` and ``1e-1`` are one value) and nothing that a trial does not
need in order to be planned or run; :meth:`SweepSpec.to_dict` writes it back as a sweep file's content.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bnsweep.parameters import PARAMETERS, Parameter, Value

__all__ = [
    "CONSTRAINED",
    "DISTRIBUTIONS",
    "EPOCHS",
    "GOALS",
    "MAX_SEEDS",
    "MAX_TRIALS",
    "MAX_VALUES",
    "METHODS",
    "SETTINGS",
    "SWEEP_NAME",
    "Claim",
    "Constraint",
    "Metric",
    "Range",
    "Resources",
    "SeedSchedule",
    "Setting",
    "SweepSpec",
]

SWEEP_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""Legal names of a sweep: they become folders, MLflow experiments and job names."""

METHODS = ("grid", "random", "optuna")
DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")
GOALS = {
    "test_accuracy": "maximize",
    "train_accuracy": "maximize",
    "test_loss": "minimize",
    "train_loss": "minimize",
}
"""Readings that a sweep may be judged by, each with the only goal that makes sense."""

CONSTRAINED = (*GOALS, "diverged_fraction")
"""What a constraint may be about: means over seeds, and the share of seeds that diverged."""

_CONSTRAINT = re.compile(r"(\w+)\s*(<=|>=)\s*(\S+)")

MAX_TRIALS = 1_000_000
MAX_VALUES = 10_000
MAX_SEEDS = 100_000

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


@dataclass(frozen=True)
class Metric:
    """The reading that a sweep is judged by, and whether more of it is better."""

    name: str
    goal: str


@dataclass(frozen=True)
class Constraint:
    """What a condition must keep to count as feasible.

    Attributes:
        name: One of :data:`CONSTRAINED`.
        most: Whether the bound is an upper one.
        bound: The bound.
    """

    name: str
    most: bool
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint | None:
        """Return the constraint that a text states, or ``None``.

        Example:
            >>> Constraint.parse("diverged_fraction <= 0.2")
            Constraint(name='diverged_fraction', most=True, bound=0.2)
        """
        match = _CONSTRAINT.fullmatch(text.strip())
        if match is None or match[1] not in CONSTRAINED:
            return None
        try:
            bound = float(match[3])
        except ValueError:
            return None
        return cls(match[1], match[2] == "<=", bound) if math.isfinite(bound) else None

    def excess(self, value: float) -> float:
        """Return by how much a value breaks the constraint; at most 0 where it keeps it.

        Example:
            >>> Constraint("diverged_fraction", True, 0.2).excess(0.5)
            0.3
        """
        return value - self.bound if self.most else self.bound - value


@dataclass(frozen=True)
class Claim:
    """A claim of the paper that the report is to judge, with its thresholds where stated."""

    name: str
    min_effect: float | None = None
    alpha: float | None = None
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SeedSchedule:
    """Seeds of a sequential sweep: it begins with some and adds more until its claims are clear.

    Attributes:
        start: Seeds before the first look.
        step: Seeds added after each look that leaves a claim open.
        max: Most seeds.
    """

    start: int
    step: int
    max: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of seeds at each look.

        Example:
            >>> SeedSchedule(5, 10, 30).counts
            (5, 15, 25, 30)
        """
        return (*range(self.start, self.max, self.step), self.max)

    def to_dict(self) -> dict[str, int]:
        """Return plain data."""
        return {"start": self.start, "step": self.step, "max": self.max}


@dataclass(frozen=True)
class Resources:
    """What one pack takes of a machine.

    Attributes:
        cpus: CPU cores.
        gpus: GPUs; below 1 several packs share one.
        max_concurrent: Packs at once; ``None`` for as many as fit.
        device: ``auto``, ``cpu`` or ``cuda``.
        pack_size: Most trials of a pack; ``None`` for what a calibration finds fastest.
        kernel: How packs are computed; ``None`` for what a calibration finds fastest.
        step_limit: Seconds after which a step counts as hanging; ``None`` derives it from those before.
    """

    cpus: float = 1
    gpus: float = 0
    max_concurrent: int | None = None
    device: str = "auto"
    pack_size: int | None = None
    kernel: str | None = None
    step_limit: float | None = None


@dataclass(frozen=True)
class SweepSpec:
    """A sweep file that has been read and found right.

    Attributes:
        name: Name of the sweep, and of its folder and MLflow experiment.
        parameters: What is swept and what is fixed, in file order.
        seeds: Replicates, the same for every condition.
        probes: Options as written, by probe.
        metric: What the sweep is judged by; the first of several.
        objectives: Every metric of a search with several; empty where there is one.
        description: One sentence for people.
        method: ``grid``, ``random`` or ``optuna``.
        claims: Claims to judge.
        search: Sampler and budget of ``random`` and ``optuna``.
        early_stop: Rule that ends trials early.
        resources: What one pack takes.
        tracking: MLflow's URI; ``none`` for no tracking; ``None`` for SQLite beside the results.
        storage: Folder of the ledgers, relative to the current directory.
        data_root: Folder of the data sets, or the image folder itself; no part of a trial's identity.
        deterministic: Suggestions must not depend on timing.
        exploratory: Findings are to be marked exploratory.
        keep_checkpoints: Keep final checkpoints so that ``steps`` can be raised.
        save_weights: ``none`` or ``final``.
        constraints: Conditions on combinations of parameters.
        source: The file's name as the user gave it; empty where there was none.
        text: The file as submitted.
        given: Top-level keys that stand in the file.
        sequential: How seeds are added look by look, beginning with ``seeds``; ``None`` for fixed seeds.
    """

    name: str
    parameters: tuple[Setting, ...] = ()
    seeds: tuple[int, ...] = (0,)
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metric: Metric = Metric("test_accuracy", "maximize")
    description: str = ""
    method: str = "grid"
    claims: tuple[Claim, ...] = ()
    search: Mapping[str, Any] = field(default_factory=dict)
    early_stop: Mapping[str, Value] = field(default_factory=dict)
    resources: Resources = Resources()
    tracking: str | None = None
    storage: str = "results"
    data_root: str | None = None
    deterministic: bool = False
    exploratory: bool = False
    keep_checkpoints: bool = False
    save_weights: str = "none"
    constraints: tuple[str, ...] = ()
    source: str = field(default="", compare=False)
    objectives: tuple[Metric, ...] = ()
    text: str = field(default="", compare=False, repr=False)
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    sequential: SeedSchedule | None = None

    def setting(self, name: str) -> Setting | None:
        """Return the setting called ``name``, if the file has it."""
        return next((setting for setting in self.parameters if setting.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which :func:`~bnsweep.sweep.load_spec` makes an equal spec."""
        resources = {name: value for name, value in vars(self.resources).items() if value is not None}
        content: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "method": self.method,
            "metric": _metrics(self.objectives or (self.metric,)),
            "parameters": {setting.name: setting.to_content() for setting in self.parameters},
            "seeds": self.sequential.to_dict() if self.sequential else list(self.seeds),
            "probes": {name: dict(options) for name, options in self.probes.items()},
            "resources": resources,
            "storage": self.storage,
        }
        for name in ("search", "early_stop"):
            if getattr(self, name):
                content[name] = dict(getattr(self, name))
        for name in ("deterministic", "exploratory", "keep_checkpoints"):
            if getattr(self, name):
                content[name] = True
        if self.claims:
            content["claims"] = [_claim(claim) for claim in self.claims]
        if self.tracking is not None:
            content["tracking"] = {"uri": self.tracking}
        if self.data_root is not None:
            content["data_root"] = self.data_root
        if self.save_weights != "none":
            content["save_weights"] = self.save_weights
        if self.constraints:
            content["constraints"] = list(self.constraints)
        return content


def _metrics(metrics: tuple[Metric, ...]) -> Any:
    content = [{"name": metric.name, "goal": metric.goal} for metric in metrics]
    return content[0] if len(content) == 1 else content


def _claim(claim: Claim) -> Any:
    limits = {"min_effect": claim.min_effect, "alpha": claim.alpha}
    stated = {name: value for name, value in limits.items() if value is not None}
    return {claim.name: stated} if stated else claim.name
