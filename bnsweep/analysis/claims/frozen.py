"""Claims as they stand in the stored plan: resolved, hashed, and compared with what was first said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.claims.catalogue import CATALOGUE
from bnsweep.sweep.spec import SeedSchedule

if TYPE_CHECKING:
    from bnsweep.sweep.spec import SweepSpec

__all__ = ["ALPHA", "FrozenClaim", "FrozenClaims", "freeze"]

ALPHA = 0.05
"""Level of a claim that states none."""


@dataclass(frozen=True)
class FrozenClaim:
    """One claim with its thresholds, as the sweep began with.

    Attributes:
        name: A key of the catalogue.
        min_effect: As the file states it; ``None`` for the claim's own.
        alpha: Level of the two-sided test.
    """

    name: str
    min_effect: float | None
    alpha: float


@dataclass(frozen=True)
class FrozenClaims:
    """The claims of a sweep.

    Attributes:
        claims: In file order.
        hash: 16 hex digits over claims, thresholds and definitions.
        first: The hash that the sweep's first trial was started under; empty where none is stored.
        exploratory: Whether trials were chosen or stopped by results, or the file says so.
        schedule: How seeds are added look by look; ``None`` for fixed seeds.
    """

    claims: tuple[FrozenClaim, ...] = ()
    hash: str = ""
    first: str = ""
    exploratory: bool = False
    schedule: SeedSchedule | None = None

    @property
    def looks(self) -> int:
        """How many times the claims may be looked at."""
        return len(self.schedule.counts) if self.schedule else 1

    @property
    def changed(self) -> bool:
        """Whether claims or thresholds were changed after there were results."""
        return bool(self.first) and self.first != self.hash

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any]) -> FrozenClaims:
        """Read the claims of a stored plan; a plan without has none."""
        stored = plan.get("claims") or {}
        claims = tuple(
            FrozenClaim(str(one["name"]), one.get("min_effect"), float(one.get("alpha", ALPHA)))
            for one in stored.get("items", ())
        )
        schedule = stored.get("schedule")
        return cls(
            claims,
            str(stored.get("hash", "")),
            str(stored.get("first", "")),
            bool(stored.get("exploratory")),
            SeedSchedule(**schedule) if schedule else None,
        )


def freeze(spec: SweepSpec, before: Mapping[str, Any], has_results: bool) -> dict[str, Any]:
    """Return the claims of a sweep as its plan stores them.

    Args:
        spec: The sweep.
        before: The plan stored so far; empty where there is none.
        has_results: Whether the ledger holds a finished trial.

    Returns:
        ``items``, ``hash``, ``first``, ``exploratory`` and, where there is one, ``schedule``. As long as
        there are no results, claims may change freely; from the first one on ``first`` stays.
    """
    adaptive = spec.method == "optuna" or bool(spec.early_stop)
    items = [
        {
            "name": claim.name,
            "min_effect": claim.min_effect,
            "alpha": ALPHA if claim.alpha is None else claim.alpha,
        }
        for claim in spec.claims
    ]
    schedule = {"schedule": spec.sequential.to_dict()} if spec.sequential else {}
    own = _hash([*items, *([schedule] if schedule else [])])
    first = own
    if has_results and before:
        first = str((before.get("claims") or {}).get("first") or _hash([]))
    exploratory = spec.exploratory or adaptive
    return {"items": items, "hash": own, "first": first, "exploratory": exploratory, **schedule}


def _hash(items: Sequence[Mapping[str, Any]]) -> str:
    said = [
        [item, *( [CATALOGUE[item["name"]].estimand, dict(CATALOGUE[item["name"]].min_effect)]
                  if item.get("name") in CATALOGUE else [] )]
        for item in items
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
