"""Runs packs in this process, one after another: the first tool for finding out what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .work import PackWorker, Progress, WorkerContext

__all__ = ["LocalRunner"]

Report = Callable[[Progress], None]


class LocalRunner:
    """Trains every pack here; the same results as Ray's workers, bit for bit, on the same device.

    Args:
        step_seconds: Wall time between two calls of ``report``.
    """

    def __init__(self, step_seconds: float = 2.0) -> None:
        self.step_seconds = step_seconds

    def run(self, packs: Sequence[str], context: WorkerContext, report: Report) -> bool:
        """Train every pack.

        Args:
            packs: Ids of packs that stand in the ledger.
            context: What the worker has to know.
            report: Called with every progress.

        Returns:
            Whether all packs were tried; ``False`` after Ctrl-C, with the open pack checkpointed.
        """
        worker = PackWorker(context)
        try:
            for pack in packs:
                worker.open(pack)
                while worker.busy:
                    report(worker.advance(time.monotonic() + self.step_seconds))
        except KeyboardInterrupt:
            worker.suspend()
            return False
        return True
