"""What becomes of a pack that cannot be trained as it is: it is divided, or its trials fail."""

from __future__ import annotations

from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.packs import divide
from bnsweep.trial import TrialState

from .messages import Progress
from .origin import hide_secrets

__all__ = ["abandon_pack", "divide_pack", "may_be_divided", "out_of_memory"]


def out_of_memory(error: Exception) -> bool:
    """Tell whether the host's or the device's memory was too small, as Python, torch or CUDA say it."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def divide_pack(ledger: Ledger, pack_id: str, *, alone: bool) -> list[tuple[str, set[str]]]:
    """Open the parts of a pack in its place; see :func:`bnsweep.sweep.packs.divide`.

    Each part names the pack that it is ``of``: after a kill in between, the next driver closes that one.

    Returns:
        Id and members of each part.
    """
    parts = divide(ledger.read_pack(pack_id), alone=alone)
    if parts[0][0].pack_id == pack_id:
        ledger.close_pack(pack_id)  # the same pack from its start: what it was at made it fail
    ledger.write_packs({pack.pack_id: {**content, "of": pack_id} for pack, content in parts})
    if parts[0][0].pack_id != pack_id:
        ledger.close_pack(pack_id)
    return [(pack.pack_id, set(pack.members)) for pack, _ in parts]


def may_be_divided(ledger: Ledger, pack_id: str, cause: str) -> bool | None:
    """Tell how a pack whose workers ended again and again is divided.

    Returns:
        ``False`` to halve it, since memory was too small; ``True`` to try each member alone; ``None``
        if there is nothing left to try.
    """
    if not ledger.has_pack(pack_id):
        return None
    content = ledger.read_pack(pack_id)
    if "memory" in cause.lower() and len(content["members"]) > 1 and not content.get("rungs"):
        return False
    return None if content.get("alone") else True


def abandon_pack(ledger: Ledger, pack_id: str, reason: str, cause: str = "lost") -> Progress:
    """Write a failure for every member of a pack that has no record, and close the pack.

    Args:
        ledger: Where the pack stands.
        pack_id: The pack.
        reason: A traceback, or a sentence; secrets of the environment in it are not kept.
        cause: ``error`` of the code, ``timeout``, ``memory``, or ``lost`` where workers ended without a word.

    Returns:
        A finished progress whose ``error`` is the last line of ``reason``.
    """
    reason = hide_secrets(reason)
    members = ledger.read_pack(pack_id)["members"] if ledger.has_pack(pack_id) else []
    failed = [trial_id for trial_id in members if ledger.record(trial_id) is None]
    for trial_id in failed:
        ledger.write_failure(trial_id, reason, pack_id=pack_id, cause=cause)
    ledger.close_pack(pack_id)
    states = {TrialState.FAILED.value: len(failed)} if failed else {}
    last = reason.strip().splitlines()[-1]
    return Progress(pack_id, len(failed), 0, 0, finished=True, states=states, error=last)
