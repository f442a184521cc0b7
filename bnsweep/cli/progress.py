"""Live progress of a run: trials done, rate, time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from bnsweep.runners import Progress

__all__ = ["ProgressLine"]

_LINE_SECONDS = 10.0


class ProgressLine:
    """One line that is rewritten on a terminal, and printed every ten seconds elsewhere.

    Args:
        stream: Where to write.
        quiet: Show nothing but what :meth:`say` is given.
        clock: Seconds that never go back.
    """

    def __init__(
        self, stream: TextIO, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream, self.quiet, self.clock = stream, quiet, clock
        self.total = 0
        self.states: dict[str, int] = {}
        self.parts: dict[str, float] = {}
        self.workers: set[int] = set()
        self.began: float | None = None
        self.shown = -_LINE_SECONDS
        self.width = 0

    def begin(self, total: int) -> None:
        """Say how many trials this run has to do."""
        self.total = total

    def say(self, text: str) -> None:
        """Print a sentence above the line."""
        self._clear()
        print(text, file=self.stream, flush=True)

    def update(self, progress: Progress) -> None:
        """Take note of a worker's progress, and show it when it is time to."""
        if not progress.members:
            return  # a calibration
        if self.began is None:
            self.began = self.clock()
        self.workers.add(progress.pid)
        if progress.finished:
            self.parts.pop(progress.pack_id, None)
            for state, count in progress.states.items():
                self.states[state] = self.states.get(state, 0) + count
        elif progress.steps:
            self.parts[progress.pack_id] = progress.members * progress.step / progress.steps
        wait = 0.2 if self.stream.isatty() else _LINE_SECONDS
        if not self.quiet and self.clock() - self.shown >= wait:
            self.shown = self.clock()
            self._show(self.line())

    def line(self) -> str:
        """Return what is shown: counts by state, workers, rate, time left."""
        done = sum(self.states.values())
        counts = [f"{done}/{self.total} trials"]
        counts += [f"{count} {state}" for state, count in sorted(self.states.items()) if state != "completed"]
        counts.append(f"{len(self.workers)} workers")
        seconds = self.clock() - (self.began if self.began is not None else self.clock())
        worth = done + sum(self.parts.values())
        if seconds > 1 and worth > 0:
            rate = worth / seconds
            left = max(0.0, self.total - worth) / rate
            counts.append(f"{60 * rate:.1f} trials/min")
            counts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        return "  ".join(counts)

    def _show(self, text: str) -> None:
        if self.stream.isatty():
            self.stream.write("\r" + text.ljust(self.width))
            self.width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def _clear(self) -> None:
        if self.stream.isatty() and self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.width = 0

    def close(self) -> None:
        """Show the last state and end the line."""
        if not self.quiet and self.began is not None:
            self._show(self.line())
            if self.stream.isatty():
                self.stream.write("\n")
                self.stream.flush()
