"""Runs packs in this process, one after another: the first tool for finding out what is wrong."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .messages import Progress, WorkerContext
from .source import Source
from .work import PackWorker

__all__ = ["LocalRunner"]

Report = Callable[[Progress], None]


class LocalRunner:
    """Trains every pack here; the same results as Ray's workers, bit for bit, on the same device.

    Args:
        step_seconds: Wall time between two calls of ``report``, and until Ctrl-C is heeded.
    """

    def __init__(self, step_seconds: float = 2.0) -> None:
        self.step_seconds = step_seconds

    def run(self, source: Source, context: WorkerContext, report: Report) -> bool:
        """Do everything that ``source`` has.

        Args:
            source: What is to be done; its packs stand in the ledger.
            context: What the worker has to know.
            report: Called with every progress.

        Returns:
            Whether all was tried; ``False`` after Ctrl-C, with the open pack checkpointed.
        """
        worker = PackWorker(context)
        with _stop_flag() as stop:
            while units := source.ready(1):
                for unit in units:
                    progress = worker.take(unit)
                    while progress is None or not progress.finished:
                        progress = worker.advance(time.monotonic() + self.step_seconds)
                        report(progress)
                        if stop.is_set() and worker.busy:
                            break
                    if progress.finished:
                        source.finished(unit, progress)
                    if stop.is_set():
                        worker.suspend()
                        return False
                    if source.given_up:
                        return True
        return True


@contextmanager
def _stop_flag() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that no step is cut in half; the second one raises."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
