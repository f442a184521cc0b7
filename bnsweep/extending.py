"""What a run takes over from trials that are done, and what it says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from bnsweep.sweep import Plan, SweepSpec
from bnsweep.trial import TrialConfig

if TYPE_CHECKING:
    from bnsweep.sweep.continuing import Start
    from bnsweep.sweep.ledger import Ledger

__all__ = ["describe_starts", "starts_of", "tell_what_is_not_kept"]


def starts_of(wanted: Plan, before: Ledger | None, left: Sequence[TrialConfig]) -> Mapping[str, Start]:
    """Return where trials that are left go on from, or could have, had it been kept.

    Args:
        wanted: A sweep's plan.
        before: Its ledger; ``None`` where nothing was run.
        left: Trials to run.
    """
    from bnsweep.sweep.continuing import find_starts

    if before is None or not left:
        return {}
    several = len({trial.parameters["steps"] for trial in wanted.trials}) > 1
    if not several and before.done() <= wanted.by_id.keys():
        return {}  # nothing is done that is equal in all but steps
    return find_starts(before, left)


def describe_starts(spec: SweepSpec, starts: Mapping[str, Start]) -> list[str]:
    """Say in one sentence each how many trials go on, and how many begin again, and why.

    Args:
        spec: The sweep.
        starts: As :func:`starts_of` returns them.
    """
    ready = [start for start in starts.values() if start.ready]
    lines = []
    if ready and spec.keep_checkpoints:
        at = sorted({start.step for start in ready})
        steps = f"step {at[0]}" if len(at) == 1 else f"steps {at[0]} to {at[-1]}"
        lines.append(f"{len(ready)} trials go on from {steps}, where trials equal in all but steps ended")
    again = len(starts) - len(ready) if spec.keep_checkpoints else len(starts)
    if again:
        why = "of these no checkpoint was kept" if spec.keep_checkpoints else "keep_checkpoints is false"
        do = (
            "what is run now is kept"
            if spec.keep_checkpoints
            else "set keep_checkpoints: true to go on from what was kept, and to keep what is run from now on"
        )
        lines.append(
            f"{again} trials start at step 0 although trials equal in all but steps are done: {why}; {do}"
        )
    return lines


def tell_what_is_not_kept(
    spec: SweepSpec, wanted: Plan, before: Ledger | None, tell: Callable[[str], None]
) -> None:
    """Say of how many finished trials nothing was kept, since the sweep's file did not ask for it."""
    from bnsweep.sweep.continuing import without_files

    if before is None or not (spec.keep_checkpoints or spec.save_weights == "final"):
        return
    states, weights = without_files(
        before, wanted.trial_ids, spec.keep_checkpoints, spec.save_weights == "final"
    )
    for count, what, key in (
        (states, "checkpoint was kept", "keep_checkpoints: true"),
        (weights, "weights were stored", "save_weights: final"),
    ):
        if count:
            tell(f"note: of {count} finished trials no {what}: they were run without {key}")
