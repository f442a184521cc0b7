"""Starting the mirror as a process of its own, and hearing from it how far it came."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from bnsweep.errors import LedgerError
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.places import Place
from bnsweep.tracking.mapping import exported_before
from bnsweep.tracking.uris import absolute_uri, redacted

__all__ = ["MirrorProcess", "Summary", "log_report", "quiet_environment", "start_mirror", "sync"]

_GRACE_S = 10.0
_LOG_BYTES = 1_000_000


@dataclass(frozen=True)
class Summary:
    """What of a sweep MLflow shows.

    Attributes:
        exported: Finished trials that are in MLflow in full.
        pending: Finished trials that are not.
        uri: The store, without a password.
        error: Why something is pending; empty where nothing is.
    """

    exported: int
    pending: int
    uri: str
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether MLflow equals the ledger."""
        return not self.pending and not self.error

    def __str__(self) -> str:
        if self.complete:
            return f"{self.exported} trials are in MLflow at {self.uri}"
        reason = f" ({self.error})" if self.error else ""
        return f"{self.pending} trials not exported to {self.uri}{reason}; run bnsweep sync"


def quiet_environment() -> dict[str, str]:
    """Return the environment variables under which MLflow keeps to itself and gives up early.

    No telemetry, no chatter; one retry of 20 s at most, since the mirror has its own pauses.
    """
    return {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "OMP_NUM_THREADS": "1",
    }


class MirrorProcess:
    """A running mirror; always end it with :meth:`finish`.

    Args:
        root: The ledger's folder.
        uri: Tracking URI.
        options: Further words of its command line.
    """

    def __init__(self, root: Place | str, uri: str, options: tuple[str, ...] = ("--follow",)) -> None:
        self._ledger = Ledger(root)
        self._uri = absolute_uri(uri)
        folder = self._ledger.tracking_dir
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "mirror.log"
        big = self.log.exists() and self.log.stat().st_size > _LOG_BYTES
        with self.log.open("wb" if big else "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bnsweep.tracking", str(self._ledger.root.resolve()), *options],
                env={**os.environ, **quiet_environment(), "MLFLOW_TRACKING_URI": self._uri},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The mirror's process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Tell whether it is still at work."""
        return self._process.poll() is None

    def finish(self, timeout: float | None = 60.0) -> Summary:
        """Tell it that the sweep is over, and wait until it has sent everything.

        Never raises for what is wrong with MLflow: the summary says it.

        Args:
            timeout: Seconds to go on trying; ``None`` is as long as it takes, unless the store
                fails for a minute.
        """
        order = f"finish {float('inf') if timeout is None else timeout}\n".encode()
        try:
            wait = None if timeout is None else timeout + _GRACE_S
            output, _ = self._process.communicate(order, wait)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, _ = self._process.communicate()
        try:
            content = json.loads(output.decode().strip().splitlines()[-1])
            return Summary(content["exported"], content["pending"], redacted(self._uri), content["error"])
        except (ValueError, KeyError, IndexError):
            return self._count(f"the mirror ended with code {self._process.returncode}; see {self.log}")

    def _count(self, error: str) -> Summary:
        """Count from the stored mapping what a mirror that cannot answer has sent."""
        sent = exported_before(self._ledger, self._uri)
        done = self._ledger.done()
        return Summary(len(done & sent), len(done - sent), redacted(self._uri), error)


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
    return MirrorProcess(root, uri).finish(timeout)


def log_report(root: Place | str, uri: str, timeout: float | None = 60.0) -> Summary:
    """Upload the report's folder into the sweep's MLflow run, and nothing else.

    Args:
        root: The ledger's folder.
        uri: Tracking URI.
        timeout: Seconds to go on trying.
    """
    return MirrorProcess(root, uri, ("--follow", "--report-only")).finish(timeout)
