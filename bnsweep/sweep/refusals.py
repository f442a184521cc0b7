"""What the grammar has and the package has not: refused, each with the reason, until it is built.

Building one of these takes its line away here; the loader reads and checks all of them already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bnsweep.sweep.nodes import Mistakes, Table

__all__ = ["NOT_BUILT", "Refusal", "refuse"]


@dataclass(frozen=True)
class Refusal:
    """One thing that is parsed and refused.

    Attributes:
        key: Top-level key.
        concerns: Whether a value of that key is refused.
        must: What must hold until then.
        reason: Why, and what to do in its place.
    """

    key: str
    concerns: Callable[[Any], bool]
    must: str
    reason: str


NOT_BUILT: tuple[Refusal, ...] = (
    Refusal(
        "search", lambda value: "storage" in value, "must be without storage",
        "showing the study in a database is not built yet: the report shows the search",
    ),
    Refusal(
        "search", lambda value: "warm_start" in value, "must be without warm_start",
        "starting from another search is not built yet: give both the same name and raise num_trials",
    ),
)  # fmt: skip
"""Every refusal."""


def refuse(root: Table, values: Mapping[str, Any], mistakes: Mistakes) -> None:
    """Note everything in the file that is not built.

    Args:
        root: The file.
        values: What was read from it, by top-level key.
        mistakes: Receives the refusals.
    """
    for refusal in NOT_BUILT:
        value = values.get(refusal.key)
        if value is not None and refusal.concerns(value):
            mistakes.add(root.entries[refusal.key], refusal.key, refusal.must, hint=refusal.reason)
