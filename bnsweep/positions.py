"""Where the workers of a run stand, told through the ledger, so that others can see it from anywhere.

The driver hears of a worker every two to thirty seconds and writes one small file at most every few seconds.
It is a message to people: a lost one costs nothing, and no decision is made by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bnsweep.errors import LedgerError
from bnsweep.sweep.records import now

if TYPE_CHECKING:
    from bnsweep.runners import Progress
    from bnsweep.sweep.ledger import Ledger

__all__ = ["WRITE_SECONDS", "Positions"]

WRITE_SECONDS = 3.0
"""Shortest time between two writings."""

MOST_PACKS = 2000
"""Packs that are told one by one."""


class Positions:
    """Collects what workers report in one run.

    Args:
        ledger: Where it is written.
        total: Trials that the run has to do.
        clock: Seconds that never go back.
    """

    def __init__(self, ledger: Ledger, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._clock = ledger, clock
        self._packs: dict[str, dict[str, Any]] = {}
        self._finished: dict[str, int] = {}
        self._trained = 0.0
        self._began: float | None = None
        self._written = self._clock()
        self._content = {"epoch": ledger.epoch, "began": now(), "total": total, "ended": ""}
        self._write()

    def update(self, progress: Progress) -> None:
        """Take note of one worker; write when it is time to."""
        if progress.error:
            error = {"text": progress.error[:2000], "at": now(), "trials": progress.members}
            self._content["last_error"] = error
        if progress.members and not progress.too_large and not progress.retry:
            self._began = self._clock() if self._began is None else self._began
            self._note(progress)
        else:
            self._packs.pop(progress.pack_id, None)
        if self._clock() - self._written >= WRITE_SECONDS:
            self._write()

    def _note(self, progress: Progress) -> None:
        if progress.finished:
            self._packs.pop(progress.pack_id, None)
            for state, count in progress.states.items():
                self._finished[state] = self._finished.get(state, 0) + count
            self._trained += progress.members * (1 - progress.from_step / max(1, progress.steps))
            return
        since = self._packs.get(progress.pack_id, {}).get("since") or now()
        self._packs[progress.pack_id] = {
            "since": since,
            "members": progress.members,
            "from_step": progress.from_step,
            "step": progress.step,
            "steps": progress.steps,
            "host": progress.host,
            "pid": progress.pid,
        }

    def end(self, how: str) -> None:
        """Say how the run ended: ``done`` or ``interrupted``."""
        self._content["ended"] = how
        self._write()

    def _write(self) -> None:
        self._written = self._clock()
        packs = [{"pack_id": pack_id, **own} for pack_id, own in self._packs.items()]
        seconds = 0.0 if self._began is None else self._clock() - self._began
        content = {
            **self._content,
            "updated": now(),
            "seconds": round(seconds, 3),
            "trained": round(self._trained, 6),
            "finished": dict(self._finished),
            "packs": packs[:MOST_PACKS],
            "packs_left_out": max(0, len(packs) - MOST_PACKS),
        }
        with suppress(LedgerError):  # a full disk: the run ends by itself, or goes on
            self._ledger.write_progress(content)
