"""Signals that end a verb as Ctrl-C does, so that what it started is stopped too."""

from __future__ import annotations

import signal
from types import FrameType

__all__ = ["end_like_ctrl_c"]


def end_like_ctrl_c(*numbers: signal.Signals) -> None:
    """Treat signals, such as SIGTERM, which clusters send before they kill, like Ctrl-C."""
    for number in numbers:
        signal.signal(number, _as_interrupt)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    if callable(signal.getsignal(signal.SIGINT)):
        signal.raise_signal(signal.SIGINT)
    else:  # what a script starts in the background ignores Ctrl-C
        raise KeyboardInterrupt
