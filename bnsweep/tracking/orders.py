"""What a mirror is told by the process that started it, and how it is kept to its time."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

__all__ = ["Orders"]

_ORPHANED_S = 60.0
_TERMINATED_S = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Orders:
    """Whether to go on, or to finish before a deadline.

    The starting process writes ``finish <seconds>`` to our standard input; its end, the end of that
    file, or a signal also mean that the sweep is over. Orders are heard by threads of their own, while
    the mirror waits for a store.

    Args:
        follow: Whether to go on until told otherwise.

    Attributes:
        finishing: Whether the sweep is over.
        deadline: Monotonic time by which to stop trying; infinite where there is none.
    """

    def __init__(self, follow: bool) -> None:
        self.finishing = not follow
        self.deadline = float("inf")
        self._stir = threading.Event()
        self._too_late: Callable[[], None] | None = None

    def heed(self, too_late: Callable[[], None]) -> None:
        """Listen to standard input, SIGTERM and SIGINT.

        Args:
            too_late: Called in another thread where the deadline has passed and this process is still
                there, because a call to the store does not return.
        """
        self._too_late = too_late
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for listener in (self._heed_signals, self._heed_input):
            threading.Thread(target=listener, daemon=True).start()

    def _heed_signals(self) -> None:
        while True:
            signal.sigwait(_SIGNALS)
            self.finish(_TERMINATED_S)

    def _heed_input(self) -> None:
        heard = b""
        while b"\n" not in heard and (more := os.read(sys.stdin.fileno(), 4096)):
            heard += more
        word, _, seconds = heard.decode(errors="replace").strip().partition(" ")
        if word == "finish":
            self.finish(float(seconds))
        elif not self.finishing:
            self.finish(_ORPHANED_S)

    def finish(self, seconds: float) -> None:
        """Say that the sweep is over, and how long to go on trying."""
        self.deadline = min(self.deadline, time.monotonic() + seconds)
        self.finishing = True
        self._stir.set()
        if self._too_late is not None and seconds < threading.TIMEOUT_MAX:
            timer = threading.Timer(seconds + 0.5, self._too_late)
            timer.daemon = True
            timer.start()

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def wait(self, seconds: float) -> None:
        """Wait for an order, at most ``seconds`` and not past the deadline."""
        if self._stir.wait(max(0.0, min(seconds, self.deadline - time.monotonic()))):
            self._stir.clear()
