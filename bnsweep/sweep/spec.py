"""What a sweep file says, as frozen dataclasses: :class:`SweepSpec` and its parts.

A spec holds canonical values (``0.1`` and ``1e-1`` are one value) and nothing that a trial does not
need in order to be planned or run; :meth:`SweepSpec.to_dict` writes it back as a sweep file's content.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnsweep.parameters import Value
from bnsweep.sweep.settings import Setting

__all__ = [
    "CONSTRAINED",
    "GOALS",
    "MAX_SEEDS",
    "MAX_TRIALS",
    "METHODS",
    "SWEEP_NAME",
    "Claim",
    "Constraint",
    "Metric",
    "Resources",
    "SeedSchedule",
    "SweepSpec",
]

SWEEP_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""Legal names of a sweep: they become folders, MLflow experiments and job names."""

METHODS = ("grid", "random", "optuna")
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
MAX_SEEDS = 100_000


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
