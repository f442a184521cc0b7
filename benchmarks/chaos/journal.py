"""What was trained, written down by the training code itself: a line for every step of every pack.

The judge of a run that was killed must not be the run's own ledger. Each process that trains appends
here, with one ``write`` a step, what it has just done; a step stands here before any checkpoint can
hold it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["VARIABLE", "Entry", "Repeated", "install", "losses_of", "read", "repeats"]

VARIABLE = "BNSWEEP_JOURNAL"
"""Environment variable that names the journal."""


class Entry(NamedTuple):
    """A step that was made: when, by whom, of which trials, and the last finite loss of each."""

    time: float
    pid: int
    attempt: str
    trials: tuple[str, ...]
    step: int
    losses: tuple[float | None, ...]


def install(path: str | None = None) -> None:
    """Write a line for every step that this process makes from now on.

    Args:
        path: The journal; by default what :data:`VARIABLE` names.
    """
    from bnsweep.training import PackTrainer

    if hasattr(PackTrainer.step, "journal"):
        return
    file = os.open(path or os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    step = PackTrainer.step

    def noted(self: Any) -> None:
        began = self.step_index
        step(self)
        if self.step_index == began:
            return  # all have diverged: no step was made
        if not hasattr(self, "journal_attempt"):
            self.journal_attempt = uuid.uuid4().hex[:12]
        losses = [outcome.last_finite_loss for outcome in self.standings()]
        ids = [trial.trial_id for trial in self.trials]
        line = json.dumps([time.monotonic(), os.getpid(), self.journal_attempt, ids, began, losses])
        os.write(file, line.encode() + b"\n")

    noted.journal = True  # type: ignore[attr-defined]
    PackTrainer.step = noted  # type: ignore[method-assign]


def read(path: Path) -> list[Entry]:
    """Return all whole lines; a last one that a killed process has begun is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [Entry(when, pid, attempt, tuple(ids), step, tuple(losses)) for
            when, pid, attempt, ids, step, losses in map(json.loads, lines)]  # fmt: skip


def losses_of(entries: Sequence[Entry]) -> tuple[dict[str, dict[int, float | None]], int]:
    """Return each trial's losses by step, and how many steps done twice had another loss the second time."""
    found: dict[str, dict[int, float | None]] = defaultdict(dict)
    differing = 0
    for entry in entries:
        for trial, loss in zip(entry.trials, entry.losses, strict=True):
            differing += found[trial].setdefault(entry.step, loss) != loss
    return found, differing


@dataclass(frozen=True)
class Repeated:
    """Work that a pack lost between two attempts.

    Attributes:
        steps: Steps that were made again.
        seconds: Time from the first of them to the last, when they were made first.
        overdue: Time from the first to the last but one: after any step that ends later than a
            checkpoint interval after the last checkpoint, another checkpoint is made, so that
            this can never pass the interval.
        backwards: Whether the later attempt began before the first step of the earlier one, that is
            from an older checkpoint than that had.
    """

    steps: int
    seconds: float
    overdue: float
    backwards: bool


def repeats(entries: Sequence[Entry]) -> Iterator[Repeated]:
    """Compare every attempt at a pack with the one before it."""
    packs: dict[tuple[str, ...], dict[str, list[Entry]]] = {}
    for entry in entries:
        packs.setdefault(entry.trials, {}).setdefault(entry.attempt, []).append(entry)
    for attempts in packs.values():
        ordered = sorted(attempts.values(), key=lambda own: own[0].time)
        for before, after in pairwise(ordered):
            first = after[0].step
            lost = [entry for entry in before if entry.step >= first]
            if lost:
                ends = [entry.time for entry in lost]
                yield Repeated(
                    len(lost), ends[-1] - ends[0], ends[max(0, len(ends) - 2)] - ends[0],
                    before[0].step > first,
                )  # fmt: skip
