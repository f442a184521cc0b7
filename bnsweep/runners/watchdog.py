"""Ends a step that takes too long: by an error at the place where it hangs, else with the process.

Three stages, each for what the one before cannot reach. Python code that waits is interrupted by a signal
and raises :class:`HangError`, whose traceback says where. Code that does not return to Python is
left to a thread, which writes every stack down and ends the process. Code that does not even let
other threads run is ended by :mod:`faulthandler`, which needs nothing of Python.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["STEP_LIMIT", "HangError", "Watchdog"]

STEP_LIMIT = 600.0
"""Seconds that one step may take where the sweep file does not say."""

SLOWEST = 20.0
"""Nor does a step hang that takes up to this many times the slowest one of its pack so far."""

_SIGNAL = signal.SIGVTALRM  # nobody else's: not pytest's, Ray's or torch's
_CODE = 75


class HangError(TimeoutError):
    """A step took longer than it may."""


class Watchdog:
    """Watches the steps of one worker.

    Args:
        limit: Seconds that a step may take; ``None`` derives it, see :data:`SLOWEST`.
        note: Called, in another thread, with the stacks of a process that is about to be ended.
    """

    def __init__(self, limit: float | None, note: Callable[[str], None]) -> None:
        self._given, self._note = limit, note
        self._since: float | None = None
        self._slowest = 0.0

    @property
    def limit(self) -> float:
        """Seconds that the step under way may take."""
        return max(STEP_LIMIT, SLOWEST * self._slowest) if self._given is None else self._given

    def forget(self) -> None:
        """Begin with another pack, whose steps may be quicker."""
        self._slowest = 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the steps made meanwhile; only the main thread of a process can be watched."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        over = threading.Event()
        guard = threading.Thread(target=self._guard, args=(over,), name="watchdog", daemon=True)
        before = signal.signal(_SIGNAL, self._interrupt)
        self._arm()  # a step may keep the guard from ever running
        guard.start()
        try:
            yield
        finally:
            over.set()
            guard.join()
            signal.signal(_SIGNAL, before)
            with suppress(RuntimeError, OSError, ValueError):
                faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step, which must end in time."""
        began = self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None
            self._slowest = max(self._slowest, time.monotonic() - began)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._since is not None:
            self._since = None
            raise HangError(f"a step took longer than {self.limit:g} s, its limit, and was ended here")

    def _arm(self) -> None:
        """End the process unless this is called again in time."""
        with suppress(RuntimeError, OSError, ValueError):
            faulthandler.dump_traceback_later(2 * self.limit + 5, exit=True, file=2)

    def _guard(self, over: threading.Event) -> None:
        main = threading.main_thread().ident
        assert main is not None
        asked: float | None = None
        while not over.wait(min(1.0, self.limit / 8)):
            since, limit = self._since, self.limit
            self._arm()
            if since is None or time.monotonic() - since <= limit:
                asked = None
            elif asked is None:
                asked = time.monotonic()
                signal.pthread_kill(main, _SIGNAL)
            elif time.monotonic() - asked > limit / 2:
                frame = sys._current_frames().get(main)
                stack = "".join(traceback.format_stack(frame)) if frame else ""
                with suppress(Exception):
                    self._note(
                        f"{stack}HangError: a step took longer than {limit:g} s and could not be ended"
                    )
                os._exit(_CODE)
