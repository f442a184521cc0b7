"""Trials that need not begin at step 0: they are equal in all but ``steps`` to some that are done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bnsweep.sweep.curves import CurveRow
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState

__all__ = ["Start", "find_starts", "group_starts", "on_schedule", "prune_states", "without_files"]


@dataclass(frozen=True)
class Start:
    """A finished trial that another, longer one may go on from.

    Attributes:
        trial_id: The finished one.
        step: Its steps.
        ready: Whether all is there to go on from: a kept state, or the divergence that ended it.
        pack_id: The pack that it was trained in.
        member: Its place there.
        kernel: How that pack was computed; empty where that is not on record.
    """

    trial_id: str
    step: int
    ready: bool
    pack_id: str
    member: int
    kernel: str


def find_starts(ledger: Ledger, trials: Sequence[TrialConfig]) -> dict[str, Start]:
    """Return where trials may go on from, by their ids: the longest that is ready, else the longest.

    Args:
        ledger: The sweep's.
        trials: Trials that are to be trained.
    """
    done = ledger.done()
    if not done or not trials:
        return {}
    wanted: dict[str, list[TrialConfig]] = {}
    for trial in trials:
        wanted.setdefault(trial.lineage_id, []).append(trial)
    found: dict[str, Start] = {}
    kept = ledger.kept_steps()
    for record in ledger.records(sorted(done)):
        config = record.config
        alike = wanted.get(config.lineage_id)
        if not alike or record.state is TrialState.STOPPED or config.trial_id != record.trial_id:
            continue
        start = _start(record, kept.get(record.trial_id))
        for trial in alike:
            best = found.get(trial.trial_id)
            if start.step < int(trial.parameters["steps"]) and (best is None or _rank(start) > _rank(best)):
                found[trial.trial_id] = start
    return found


def _rank(start: Start) -> tuple[bool, int]:
    return start.ready, start.step


def _start(record: Record, kept: int | None) -> Start:
    step = int(record.parameters["steps"])
    ready = ended_early(record) or kept == step
    last = record.attempts[-1] if record.attempts else {}
    pack_id, kernel = str(last.get("pack_id", "")), str(last.get("kernel", ""))
    return Start(record.trial_id, step, ready, pack_id, int(last.get("member", 0)), kernel)


def ended_early(record: Record) -> bool:
    """Tell whether a trial diverged while it was trained, so that more steps change nothing.

    One whose last evaluation alone was not finite would have been trained on.
    """
    return record.diverged_step is not None and record.diverged_step < int(record.parameters["steps"])


def group_starts(
    trials: Sequence[TrialConfig], starts: Mapping[str, Start], most: int | None = None
) -> list[list[TrialConfig]]:
    """Group trials that go on as their predecessors were packed, in the same order.

    Args:
        trials: Trials to train.
        starts: Where they go on from; those without one, or without one that is ready, are left out.
        most: Most members of a pack, where the user says so.

    Returns:
        The members of each pack.
    """
    groups: dict[tuple[str, int, str], list[TrialConfig]] = {}
    for trial in trials:
        start = starts.get(trial.trial_id)
        if start is not None and start.ready:
            groups.setdefault((start.pack_id, start.step, trial.signature), []).append(trial)
    packs = []
    for group in groups.values():
        group.sort(key=lambda trial: starts[trial.trial_id].member)
        size = most or len(group)
        packs += [group[at : at + size] for at in range(0, len(group), size)]
    return packs


def on_schedule(rows: Iterable[CurveRow], trial: TrialConfig) -> list[CurveRow]:
    """Return the readings of a shorter trial that ``trial`` takes too: all but those of the last step alone.

    Example:
        >>> trial = TrialConfig.create({"steps": 200, "eval_every": 40, "log_every": 10})
        >>> rows = [CurveRow(step, "test_loss", 0, 1.0, 0) for step in (0, 40, 80, 100)]
        >>> [row.step for row in on_schedule(rows, trial)]
        [0, 40, 80]
    """
    every = dict.fromkeys(("train_loss", "train_accuracy"), int(trial.parameters["log_every"]))
    every |= dict.fromkeys(("test_loss", "test_accuracy"), int(trial.parameters["eval_every"]))
    return [row for row in rows if row.step % every.get(row.name, 1) == 0]


def prune_states(ledger: Ledger) -> int:
    """Drop every kept state that a longer trial, equal in all but ``steps``, has made needless.

    Returns:
        How many were dropped.
    """
    kept = ledger.kept_steps().keys()
    alike: dict[str, list[Record]] = {}
    for record in ledger.records() if kept else ():
        if record.trial_id in kept or ended_early(record):
            alike.setdefault(record.config.lineage_id, []).append(record)
    needless = {
        record.trial_id
        for records in alike.values()
        for record in sorted(records, key=lambda record: int(record.parameters["steps"]))[:-1]
    }
    for trial_id in needless & kept:
        ledger.drop_state(trial_id)
    return len(needless & kept)


def without_files(ledger: Ledger, trial_ids: Sequence[str], states: bool, weights: bool) -> tuple[int, int]:
    """Count finished trials that lack what a sweep's file wants kept, since it did not when they ran.

    Args:
        ledger: The sweep's.
        trial_ids: Trials of the plan.
        states: Whether it wants states.
        weights: Whether it wants weights.

    Returns:
        Trials without a state, and trials without weights.
    """
    no_state = no_weights = 0
    kept = ledger.kept_steps() if states else {}
    if states or weights:
        for record in ledger.records(trial_ids):
            if record.state is TrialState.DIVERGED:
                continue
            no_state += states and record.trial_id not in kept
            no_weights += weights and not record.weights_sha256
    return no_state, no_weights
