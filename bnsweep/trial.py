"""What a trial is: its parameters, its state, and its identity.

Shared by both halves of the package (the engine and the sweep), so it needs the standard library
alone. A trial is one training of one network: a complete set of parameters and a seed. Its
``trial_id`` is a short hash of everything that determines its result, so the same trial written
in another way, or found in another sweep, is the same trial.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from bnsweep.names import DATASETS
from bnsweep.parameters import (
    MEMBER_PARAMETERS,
    Parameters,
    Value,
    complete_parameters,
    complete_probes,
)

__all__ = ["RESULTS_VERSION", "TrialConfig", "TrialState", "derive_seed", "short_hash"]

RESULTS_VERSION = 1
"""Raised whenever a change of the code alters numbers; part of every ``trial_id``."""


class TrialState(StrEnum):
    """How a trial ended. A trial without a record is pending, whatever was tried before."""

    COMPLETED = "completed"
    DIVERGED = "diverged"
    STOPPED = "stopped"
    FAILED = "failed"


def short_hash(content: object) -> str:
    """Return the first 16 hex digits of the SHA-256 of ``content`` as canonical JSON.

    Example:
        >>> short_hash({"b": 1, "a": 0.1}) == short_hash({"a": 1e-1, "b": 1})
        True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose of a trial, independent of every other purpose.

    Args:
        seed: The trial's seed.
        purpose: What is drawn, and when, such as ``"noise", step``.

    Example:
        >>> derive_seed(3, "order", 0) == derive_seed(3, "order", 0)
        True
        >>> derive_seed(3, "order", 0) == derive_seed(3, "order", 1)
        False
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class TrialConfig:
    """One trial: complete parameters with its seed, its probes, and the data it trains on.

    Build it with :meth:`create`, which fills in defaults and checks.

    Attributes:
        parameters: Every parameter that applies, ``seed`` included.
        probes: Options by probe, defaults filled in.
        fingerprint: Hash of the data set's contents.
        norm_code: Hash of the file that a norm of the user's comes from; empty for the others.
    """

    parameters: Mapping[str, Value]
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fingerprint: str = ""
    norm_code: str = ""

    @classmethod
    def create(
        cls,
        parameters: Mapping[str, object],
        probes: Mapping[str, Mapping[str, Any]] | None = None,
        fingerprint: str | None = None,
    ) -> TrialConfig:
        """Complete and check ``parameters`` and ``probes``.

        Raises:
            ValueError: As :func:`complete_parameters` does.
        """
        complete = complete_parameters(parameters)
        if fingerprint is None:
            facts = DATASETS.get(str(complete["dataset"]))
            fingerprint = facts.fingerprint if facts else ""
        return cls(complete, complete_probes(probes), fingerprint)

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return int(self.parameters["seed"])

    @cached_property
    def trial_id(self) -> str:
        """16 hex digits: parameters, seed, probes, data and results version."""
        return short_hash(self._identity(self.parameters))

    @cached_property
    def condition_id(self) -> str:
        """Like :attr:`trial_id`, without the seed: equal for the replicates of one condition."""
        return short_hash(self._identity(_without(self.parameters, ("seed",))))

    @cached_property
    def lineage_id(self) -> str:
        """Like :attr:`trial_id`, without the steps: equal for trials that may go on from one another."""
        return short_hash(self._identity(_without(self.parameters, ("steps",))))

    @property
    def tensor_dtype(self) -> str:
        """Name of the type of data, weights and statistics: ``float32`` where only products are bfloat16."""
        precision = str(self.parameters["precision"])
        return "float32" if precision == "bfloat16" else precision

    @property
    def signature(self) -> str:
        """Equal for trials that can be members of one pack."""
        return short_hash(self._identity(_without(self.parameters, MEMBER_PARAMETERS)))

    def _identity(self, parameters: Parameters) -> dict[str, Any]:
        content = {
            "parameters": dict(parameters),
            "probes": {name: dict(options) for name, options in self.probes.items()},
            "data": self.fingerprint,
            "results_version": RESULTS_VERSION,
        }
        return content | {"norm_code": self.norm_code} if self.norm_code else content

    def label(self, varying: Sequence[str] = ("lr",)) -> str:
        """Return a name for people: the norm, what varies, and the seed.

        Example:
            >>> TrialConfig.create({"norm": "batch", "lr": 0.1, "seed": 3}).label()
            'batch lr=0.1 seed=3'
        """
        parts = [str(self.parameters["norm"])]
        for name in varying:
            if name in self.parameters and name not in ("norm", "seed"):
                value = self.parameters[name]
                parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
        return " ".join([*parts, f"seed={self.seed}"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; :meth:`from_dict` is the inverse."""
        return {
            "parameters": dict(self.parameters),
            "probes": {name: dict(options) for name, options in self.probes.items()},
            "fingerprint": self.fingerprint,
            "norm_code": self.norm_code,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrialConfig:
        """Rebuild a trial written by :meth:`to_dict`."""
        return cls(
            dict(content["parameters"]),
            dict(content["probes"]),
            content["fingerprint"],
            content["norm_code"],
        )


def _without(parameters: Parameters, names: Sequence[str] | frozenset[str]) -> dict[str, Value]:
    return {name: value for name, value in parameters.items() if name not in names}
