"""Starting the study's mirror as a process of its own, and hearing from it how far it came."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass

from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.places import Place

__all__ = ["Shown", "StudyMirrorProcess", "show_study"]

_GRACE_S = 5.0
_LOG_BYTES = 1_000_000


@dataclass(frozen=True)
class Shown:
    """What of a search a database of Optuna's shows.

    Attributes:
        study: The study's name there; empty where nothing could be written.
        shown: Conditions that it shows as they are, those that a warm start knew included.
        pending: Conditions that it does not.
        error: Why; empty where nothing is pending.
    """

    study: str
    shown: int
    pending: int
    error: str = ""

    def __str__(self) -> str:
        if not self.error:
            return f"study {self.study} shows {self.shown} conditions"
        return f"the study's database lacks {self.pending} conditions ({self.error}); run bnsweep sync"


class StudyMirrorProcess:
    """A running mirror; always end it with :meth:`finish`, or leave it with :meth:`leave`.

    Args:
        root: The ledger's folder.
        uri: The database.
        follow: Whether it goes on until it is told to finish.
        seconds: How long it tries otherwise.
    """

    def __init__(self, root: Place | str, uri: str, follow: bool = True, seconds: float = 60.0) -> None:
        ledger = Ledger(root)
        folder = ledger.tracking_dir
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "study.log"
        big = self.log.exists() and self.log.stat().st_size > _LOG_BYTES
        self._seconds = seconds
        with self.log.open("wb" if big else "ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "bnsweep.search", str(ledger.root.resolve()),
                    "--seconds", str(seconds), *(["--follow"] if follow else []),
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1", "BNSWEEP_STUDY": uri},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The mirror's process id."""
        return self._process.pid

    def leave(self) -> None:
        """Wait for nothing: it shows what is there, and ends by itself within a minute."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        threading.Thread(target=self._process.wait, name="study", daemon=True).start()

    def finish(self, seconds: float | None = None) -> Shown:
        """Tell it that the search is over, and wait until all is shown or the time is up; never raises.

        Args:
            seconds: How long it may go on trying; by default as long as it was given when it started.
        """
        seconds = self._seconds if seconds is None else seconds
        try:
            output, _ = self._process.communicate(f"{seconds}\n".encode(), seconds + _GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, _ = self._process.communicate()
        try:
            return Shown(**json.loads(output.decode().strip().splitlines()[-1]))
        except (ValueError, TypeError, IndexError):
            return Shown("", 0, 0, f"its mirror ended with code {self._process.returncode}; see {self.log}")


def show_study(root: Place | str, uri: str, seconds: float = 60.0) -> Shown:
    """Make a database show the search at ``root``, once; repeating it changes nothing."""
    return StudyMirrorProcess(root, uri, follow=False, seconds=seconds).finish()
