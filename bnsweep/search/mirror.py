"""The study's mirror: follows the events of a search and keeps a database of Optuna's equal to them.

It runs in a process of its own, since a locked or silent database blocks whoever talks to it. The ledger
is its queue: whatever goes wrong is tried again after a pause, from the events; nobody waits for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from bnsweep.errors import BnsweepError
from bnsweep.sweep import load_spec
from bnsweep.sweep.ledger import Ledger
from bnsweep.trial import short_hash

from .copies import Picture, StudyCopy
from .databases import closing, first_line, open_storage, sqlite_file, without_secrets
from .samplers import quiet

__all__ = ["StudyMirror", "main"]

POLL_SECONDS = 1.0
LONGEST_PAUSE = 15.0
ORPHANED_SECONDS = 30.0
"""How long a mirror goes on trying whose sweep has ended without a word."""


class StudyMirror:
    """One search and the database that shows it.

    Args:
        ledger: The sweep.
        uri: The database.
        follow: Whether to go on until standard input says how many seconds are left, or ends.
        seconds: How long to try without ``follow``.
    """

    def __init__(self, ledger: Ledger, uri: str, follow: bool, seconds: float = 60.0) -> None:
        self._ledger, self._uri, self._over = ledger, uri, not follow
        self._deadline = float("inf") if follow else time.monotonic() + seconds
        self._spec = load_spec(ledger.sweep_text() or "")
        self._picture, self._read = Picture(self._spec), 0
        self._copy: StudyCopy | None = None
        self._connection = ExitStack()
        self._file: tuple[int, int] | None = None
        self._study, self._error = "", ""

    def run(self) -> dict[str, Any]:
        """Follow the search until it is over and all of it is shown, or the deadline has passed.

        Returns:
            ``study``: its name; ``shown``: trials in it; ``pending``: trials that are not shown as they are;
            ``error``: why.
        """
        failures, dirty = 0, set[int]()
        with self._alone():
            while time.monotonic() < self._deadline:
                over, pause = self._over, POLL_SECONDS
                dirty |= self._take_in()
                try:
                    self._show(dirty)
                    dirty, failures = set(), 0
                    if over:
                        break
                except Exception as error:  # whatever SQLAlchemy, its drivers and Optuna raise
                    failures += 1
                    pause = min(LONGEST_PAUSE, 0.5 * 2.0**failures)
                    self._fail(error)
                self._wait(pause)
        pending = len(self._picture.trials) if self._copy is None else len(dirty)
        shown = len(self._picture.trials) - pending
        self._disconnect()
        return {"study": self._study, "shown": shown, "pending": pending, "error": self._error}

    def _take_in(self) -> set[int]:
        """Read what is new of the events; return the numbers of the trials that they change."""
        events = self._ledger.search_log.read()
        changed = {self._picture.add(event) for event in events[self._read :]}
        self._read = len(events)
        return {number for number in changed if number is not None}

    def _show(self, dirty: set[int]) -> None:
        if not self._picture.token:
            return
        with quiet():
            if self._copy is not None and not self._still_there(bool(dirty)):
                self._disconnect()
            if self._copy is None:
                storage = self._connection.enter_context(closing(open_storage(self._uri)))
                self._copy = StudyCopy(storage, self._spec, self._picture)
                self._study, self._file = self._copy.name, _identity(self._uri)
            else:
                self._copy.update(dirty)
        self._error = ""

    def _still_there(self, look: bool) -> bool:
        """Tell whether what we are connected to is what the URI names, and shows our study."""
        assert self._copy is not None
        if self._file != _identity(self._uri):
            return False  # deleted or replaced: what we hold is a file without a name
        return self._copy.there() if look or self._over else True

    def _disconnect(self) -> None:
        self._copy = None
        with suppress(Exception):
            self._connection.close()

    def _fail(self, error: Exception) -> None:
        """Note an error and forget the connection: what the database holds is looked up anew."""
        self._error = first_line(error)
        self._disconnect()
        print(time.strftime("%Y-%m-%d %H:%M:%S"), self._error, file=sys.stderr, flush=True)

    def _wait(self, seconds: float) -> None:
        """Wait, but not longer than until a word comes."""
        seconds = max(0.0, min(seconds, self._deadline - time.monotonic()))
        if self._over:
            time.sleep(seconds)
        elif select.select([sys.stdin], [], [], seconds)[0]:
            word = os.read(sys.stdin.fileno(), 64).decode(errors="replace").strip()
            self._over = True
            self._deadline = time.monotonic() + (float(word) if word else ORPHANED_SECONDS)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other mirror of this search and database is at work."""
        self._ledger.tracking_dir.mkdir(parents=True, exist_ok=True)
        name = f"study.{short_hash(self._uri)}.lock"
        with (self._ledger.tracking_dir / name).open("w") as lock:
            while time.monotonic() < self._deadline:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._error = "another mirror of this search is at work"
                    self._wait(0.5)
            yield


def _identity(uri: str) -> tuple[int, int] | None:
    """Return what tells a SQLite file from another one that takes its place."""
    file = sqlite_file(uri)
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino


def main(root: str, uri: str, follow: bool, seconds: float, output: int) -> int:
    """Run a mirror and write its summary as one line of JSON to the file descriptor ``output``.

    Returns:
        The exit code: 0, or 4 where something is not shown.
    """
    try:
        summary = StudyMirror(Ledger(root), uri, follow, seconds).run()
    except BnsweepError as error:
        summary = {"study": "", "shown": 0, "pending": 0, "error": without_secrets(str(error))}
    os.write(output, (json.dumps(summary) + "\n").encode())
    return 4 if summary["error"] else 0
