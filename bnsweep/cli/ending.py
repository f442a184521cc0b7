"""Signals that end a verb as Ctrl-C does, so that what it started is stopped too."""

from __future__ import annotations

import signal
from types import FrameType

__all__ = ["end_like_ctrl_c", "heed_interrupts"]


def heed_interrupts() -> None:
    """Let SIGINT, as which a stop that was asked for and a lost lease come, reach this process.

    A script starts what runs in its background with the signal ignored, a Ray job with it blocked.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_like_ctrl_c(*numbers: signal.Signals) -> None:
    """Treat signals, such as SIGTERM, which clusters send before they kill, like Ctrl-C."""
    for number in numbers:
        signal.signal(number, _as_interrupt)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    if callable(signal.getsignal(signal.SIGINT)):
        signal.raise_signal(signal.SIGINT)
    else:  # what a script starts in the background ignores Ctrl-C
        raise KeyboardInterrupt
