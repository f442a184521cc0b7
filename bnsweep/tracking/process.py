"""Starting the mirror as a process of its own, and hearing from it how far it came."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnsweep.errors import LedgerError
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.places import Place
from bnsweep.tracking.credentials import redacted, split_login, with_login
from bnsweep.tracking.mapping import exported_before
from bnsweep.tracking.uris import absolute_uri

__all__ = ["MirrorProcess", "Summary", "log_report", "quiet_environment", "start_mirror", "sync", "unsent"]

_GRACE_S = 3.0
_RESTART_S = 60.0
_LOG_BYTES = 1_000_000


@dataclass(frozen=True)
class Summary:
    """What of a sweep MLflow shows.

    Attributes:
        exported: Finished trials that are in MLflow in full.
        pending: Finished trials that are not.
        uri: The store, without a password.
        error: Why something is pending; empty where nothing is.
        command: What to type to send what is pending.
    """

    exported: int
    pending: int
    uri: str
    error: str = ""
    command: str = "bnsweep sync"

    @property
    def complete(self) -> bool:
        """Whether MLflow equals the ledger."""
        return not self.pending and not self.error

    def __str__(self) -> str:
        if self.complete:
            return f"{self.exported} trials are in MLflow at {self.uri}"
        reason = f" ({self.error})" if self.error else ""
        what = f"{self.pending} trials" if self.pending else "the last words of the sweep"
        return f"{what} not exported to {self.uri}{reason}; run {self.command}"


def quiet_environment() -> dict[str, str]:
    """Return the environment variables under which MLflow keeps to itself and gives up early.

    No telemetry, no chatter; no retries of MLflow's own: it would make a run twice whose making was not
    acknowledged. The mirror has its own.
    """
    return {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "OMP_NUM_THREADS": "1",
    }


class MirrorProcess:
    """A running mirror; always end it with :meth:`finish`, or leave it with :meth:`leave`.

    Args:
        root: The ledger's folder.
        uri: Tracking URI.
        options: Further words of its command line.
    """

    def __init__(self, root: Place | str, uri: str, options: tuple[str, ...] = ("--follow",)) -> None:
        self._ledger = Ledger(root)
        self._uri, self._login = split_login(with_login(absolute_uri(uri)))
        self._options = options
        folder = self._ledger.tracking_dir
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "mirror.log"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._heard, self._began = b"", time.monotonic()
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.unlink()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "bnsweep.tracking", str(self._ledger.root.resolve()), *self._options],
                env={**os.environ, **quiet_environment(), **self._login, "MLFLOW_TRACKING_URI": self._uri},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
        return process

    @property
    def pid(self) -> int:
        """The mirror's process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Tell whether it is still at work."""
        return self._process.poll() is None

    def news(self) -> list[str]:
        """Return sentences on what happened since the last call; start the mirror again if it died.

        Costs a system call or two, so that a driver may ask whenever it hears from a worker.
        """
        said = [sentence for line in self._listen() if (sentence := self._sentence(line))]
        if not self.alive() and time.monotonic() - self._began > _RESTART_S:
            said.append(f"the mirror into MLflow died with code {self._process.returncode}: started again")
            self._drop()
            self._process = self._start()
        return said

    def _listen(self) -> list[dict[str, Any]]:
        """Return the lines that the mirror wrote since the last call."""
        stream = self._process.stdout
        with contextlib.suppress(BlockingIOError, ValueError):
            while stream is not None and (more := os.read(stream.fileno(), 65536)):
                self._heard += more
        *lines, self._heard = self._heard.split(b"\n")
        return [content for line in lines if (content := _decoded(line))]

    def _sentence(self, line: Mapping[str, Any]) -> str:
        where = redacted(self._uri)
        if line.get("event") == "failing":
            return (
                f"MLflow at {where} does not take what it is sent ({line['error']}); training goes on, and "
                "what is missing is sent later"
            )
        return f"MLflow at {where} answers again" if line.get("event") == "well" else ""

    def _drop(self) -> None:
        """Close the pipes of a mirror that is gone."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def leave(self) -> None:
        """Wait for nothing: it sends what is there, closes all runs, and ends by itself within a minute."""
        self._drop()
        threading.Thread(target=self._process.wait, name="mirror", daemon=True).start()

    def finish(self, timeout: float | None = 60.0, wait: float | None = None) -> Summary:
        """Tell it that the sweep is over, and wait until it has sent everything.

        Never raises for what is wrong with MLflow: the summary says it. A mirror that died is started
        once more.

        Args:
            timeout: Seconds to go on trying; ``None`` is as long as it takes, unless the store
                fails for a minute.
            wait: Seconds to wait for that; then it is left to end by itself. By default until it has ended.
        """
        order = f"finish {float('inf') if timeout is None else timeout}\n".encode()
        patience = wait if wait is not None else None if timeout is None else timeout + _GRACE_S
        for _ in range(2):
            if not self.alive():
                self._drop()
                self._process = self._start()
            killed = False
            try:
                output, _errors = self._process.communicate(order, patience)
            except subprocess.TimeoutExpired:
                if wait is not None:
                    self.leave()
                    return unsent(self._ledger, self._uri, "being sent still")
                self._process.kill()
                output, _errors = self._process.communicate()
                killed = True
            lines = [content for line in (self._heard + output).split(b"\n") if (content := _decoded(line))]
            if lines and "pending" in lines[-1]:
                last = lines[-1]
                return self._summary(last["exported"], last["pending"], last["error"])
            if killed or self._process.returncode >= 0:
                break  # it had its time, or will end so again; else it died while it was told
        sent, done = exported_before(self._ledger, self._uri), self._ledger.done()
        reason = f"the mirror ended with code {self._process.returncode}; see {self.log}"
        return self._summary(len(done & sent), len(done - sent), reason)

    def _summary(self, exported: int, pending: int, error: str) -> Summary:
        return Summary(exported, pending, redacted(self._uri), error, sync_command(self._ledger))


def _decoded(line: bytes) -> dict[str, Any] | None:
    """Return what the mirror said in a line; ``None`` for one that is none of its own."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def sync_command(ledger: Ledger) -> str:
    """Return what to type to send what is missing of a sweep."""
    return f"bnsweep sync {shlex.quote(str(ledger.root))}"


def unsent(ledger: Ledger, uri: str, reason: str) -> Summary:
    """Say what of a sweep a store lacks that is not asked now, because of ``reason``."""
    sent, done = exported_before(ledger, uri), ledger.done()
    pending = len(done - sent)
    return Summary(
        len(done) - pending, pending, redacted(uri), reason if pending else "", sync_command(ledger)
    )


def start_mirror(root: Place | str, uri: str) -> MirrorProcess:
    """Start a mirror that follows the ledger at ``root`` into the store at ``uri``; returns at once.

    Should this process die, the mirror sends what is there, closes all runs, and ends.
    """
    return MirrorProcess(root, uri)


def sync(root: Place | str, uri: str, timeout: float | None = None) -> Summary:
    """Make MLflow equal to the ledger, once; repeating it changes nothing.

    Args:
        root: The ledger's folder.
        uri: Tracking URI.
        timeout: Seconds to go on trying; by default a store that does not answer is tried for
            a minute.

    Returns:
        What is in MLflow, and what is not.

    Raises:
        LedgerError: If there is no plan at ``root``.
    """
    ledger = Ledger(root)
    if not (ledger.root / "plan.json").exists():
        raise LedgerError(f"The ledger must hold a plan, but {ledger.root} has none. Run the sweep first.")
    return MirrorProcess(root, uri, ()).finish(timeout)


def log_report(root: Place | str, uri: str, timeout: float | None = 60.0) -> Summary:
    """Upload the report's folder into the sweep's MLflow run, and nothing else.

    Args:
        root: The ledger's folder.
        uri: Tracking URI.
        timeout: Seconds to go on trying.
    """
    return MirrorProcess(root, uri, ("--follow", "--report-only")).finish(timeout)
