"""The mirror: follows a ledger and keeps MLflow equal to it, at its own pace, in its own process.

Whatever goes wrong with MLflow is logged and tried again after a growing pause; the sweep never
notices. The ledger is the queue: nothing waits in memory. After an outage, or where a run is gone, all
runs are looked up anew, so that a run whose creation was not acknowledged is found and not made twice.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import random
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError, LedgerBusyError, LedgerError
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import PlannedTrial
from bnsweep.tracking.content import conditions
from bnsweep.tracking.credentials import hide
from bnsweep.tracking.failures import Failure, kind_of
from bnsweep.tracking.mapping import exported_before, write_mapping, write_state
from bnsweep.tracking.orders import Orders
from bnsweep.tracking.uris import sqlite_path, uri_digest

if TYPE_CHECKING:
    from bnsweep.tracking.exporter import Exporter

__all__ = ["Mirror"]

_POLL_S = 1.0
_ANOTHER = "another mirror of this sweep is at work"
_SAVE_SHARE = 100.0  # time between two writings of the mapping, in times that one takes
_STATE_S = 5.0
_LONGEST_PAUSE_S = 30.0
_PATIENCE_S = 60.0
_PATIENCE_LIVE_S = 20.0
_OUTAGE = 3  # failures in a row after which all is looked up anew
_LONGEST_REQUEST_S = 120
_LOG_BYTES = 1_000_000


class Mirror:
    """One ledger and the store that shows it.

    Args:
        ledger: The sweep.
        uri: Tracking URI.
        orders: When to stop.
        tell: Called with ``failing`` or ``well`` and an error, when the store begins and ceases to fail.

    A mirror that is to finish gives up after a minute of failures in a row, one that followed a sweep after
    20 s: the user waits for it, and what is missing is sent by the next run.
    """

    def __init__(
        self,
        ledger: Ledger,
        uri: str,
        orders: Orders,
        tell: Callable[[str, str], None] = lambda event, error: None,
    ) -> None:
        self._ledger = ledger
        self._uri = uri
        self._orders = orders
        self._tell = tell
        self._live = not orders.finishing
        self._patience = _PATIENCE_LIVE_S if self._live else _PATIENCE_S
        self._exporter: Exporter | None = None
        self._connected = False
        self._exported: set[str] = set()
        self._refused: set[str] = set()
        self._sealed: dict[str, int] = {}
        self._planned: dict[str, PlannedTrial] = {}
        self._members: dict[str, list[PlannedTrial]] = {}
        self._plan_time = (0, 0)
        self._next_save = 0.0
        self._next_state = 0.0
        self._error = ""
        self._failures = 0
        self._failing_since = 0.0
        self._last_logged = ""
        self._told = False
        self._told_state = (-1, "")
        self._odd: set[str] = set()

    def run(self, report_only: bool = False) -> dict[str, Any]:
        """Follow the ledger until told to finish and all is sent, or the deadline has passed.

        Args:
            report_only: Only upload the report.

        Returns:
            ``exported``, ``pending``, and the last ``error`` where something is pending.
        """
        self._live = self._live and not report_only
        with self._alone():
            while not self._orders.late:
                pause = 0.0 if self._orders.finishing else _POLL_S
                try:
                    self._connect()
                    over = report_only or self._cycle()
                    if over:
                        self._end(report_only)
                    self._recovered()
                    if over:
                        break
                except Exception as error:
                    pause = self._failed(error)
                    if self._orders.finishing and self._hopeless(error):
                        break
                self._orders.wait(pause)
        self._save_state()
        return self.summary(report_only)

    def summary(self, report_only: bool = False) -> dict[str, Any]:
        """Return what :meth:`run` returns, as it stands; also while that is at work in another thread."""
        ledger = Ledger(self._ledger.root)
        done = ledger.done()
        shown = set(self._exported) if self._connected else exported_before(ledger, self._uri)
        pending = 0 if report_only else len(done - shown)
        return {"exported": len(done & shown), "pending": pending, "error": self._error}

    # -- failures --------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> float:
        """Take note of a failure; return how long to pause."""
        self._error = self._hidden(f"{type(error).__name__}: {error}").splitlines()[0][:500]
        self._log(traceback.format_exc())
        self._failures += 1
        if self._failures == 1:
            self._failing_since = time.monotonic()
        kind = kind_of(error)
        if not self._told and (kind is Failure.DENIED or self._failures >= _OUTAGE):
            self._told = True
            self._tell("failing", self._error)
        if "timed out" in str(error):
            _ask_for_more_time()
        if kind is Failure.LOST or self._failures >= _OUTAGE:
            self._exporter = None
            self._sealed.clear()
        self._save_state()
        pause = (
            _LONGEST_PAUSE_S if kind is Failure.DENIED else min(_LONGEST_PAUSE_S, 2.0 ** (self._failures - 1))
        )
        return pause * random.uniform(0.5, 1.0)

    def _hopeless(self, error: Exception) -> bool:
        """Tell whether a mirror that is to finish should give up."""
        denied = kind_of(error) is Failure.DENIED and self._failures > 1
        return denied or time.monotonic() - self._failing_since > self._patience

    def _recovered(self) -> None:
        """Take note that the store took what it was sent."""
        self._failures = 0
        if self._told:
            self._told = False
            self._tell("well", "")
        if not self._refused:
            self._error = ""
        if self._told_state != (len(self._exported), self._error) and time.monotonic() > self._next_state:
            self._save_state()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other mirror of this ledger and store is at work."""
        self._ledger.tracking_dir.mkdir(parents=True, exist_ok=True)
        with (self._ledger.tracking_dir / f"{uri_digest(self._uri)}.lock").open("w") as lock:
            while not self._orders.late:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._error = _ANOTHER
                    self._orders.wait(0.5)
            with self._alone_on_all_machines():
                yield

    @contextmanager
    def _alone_on_all_machines(self) -> Iterator[None]:
        """Hold a lease in the ledger's store, where a file lock of this machine says nothing of others."""
        lease = self._ledger.mirror_lease(uri_digest(self._uri))
        if lease is None or sqlite_path(self._uri) is not None:
            yield
            return
        taken = False
        while not taken and not self._orders.late:
            try:
                lease.take()
                taken = True
            except LedgerError as error:
                self._error = _ANOTHER if isinstance(error, LedgerBusyError) else str(error)
                self._orders.wait(1.0)
        try:
            yield
        finally:
            if taken:
                lease.release()

    # -- sending ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._exporter is None:
            from bnsweep.tracking.exporter import Exporter

            self._exporter = Exporter(self._ledger, self._uri, self._live)
            gc.freeze()  # MLflow's modules are a million objects that need no second look
            self._exported.clear()
            self._connected = True
        self._read_plan()

    def _read_plan(self) -> None:
        changed = self._ledger.plan_version()
        if changed == self._plan_time:
            return
        self._planned = {trial.trial_id: trial for trial in self._ledger.planned()}
        self._members = {}
        for trial in self._planned.values():
            self._members.setdefault(trial.config.condition_id, []).append(trial)
        self._plan_time = changed

    def _cycle(self) -> bool:
        """Send what is new; tell whether all was sent and the sweep is over."""
        over = self._orders.finishing
        new = sorted(self._ledger.done() - self._exported - self._refused)
        for trial_id in new:
            self._send(trial_id)
            if time.monotonic() > self._next_state:
                self._save_state()
            if self._orders.late:
                return False
        if not over:
            self._send_sealed()
        if new and time.monotonic() > self._next_save:
            self._save()
        return over

    def _send(self, trial_id: str) -> None:
        """Send one finished trial, and its condition where that is now done."""
        exporter = self._exporter
        record = self._ledger.record(trial_id)
        if exporter is None or record is None:
            return
        trial = self._planned.get(trial_id)
        try:
            if not exporter.send_trial(record, trial.label if trial else ""):
                return
        except Exception as error:
            if not self._is_refused(trial_id, error):
                raise
            self._error = self._hidden(f"{trial_id} was refused: {error}").splitlines()[0][:500]
            self._log(traceback.format_exc())
            self._refused.add(trial_id)
            return
        if self._failures:  # it answers now and then: no outage
            self._failures, self._failing_since = 1, time.monotonic()
        members = self._members.get(trial.config.condition_id, []) if trial else []
        others = (member.trial_id for member in members if member.trial_id != trial_id)
        if members and all(other in self._exported for other in others):
            records = {
                found.trial_id: found for found in self._ledger.records(item.trial_id for item in members)
            }
            for condition in conditions(members, records):
                exporter.send_condition(condition)
        self._exported.add(trial_id)

    def _is_refused(self, trial_id: str, error: Exception) -> bool:
        """Tell whether a trial is to be left out: it will not be taken, or was odd twice."""
        kind = kind_of(error)
        odd_again = kind is Failure.ODD and trial_id in self._odd
        if kind is Failure.ODD:
            self._odd.add(trial_id)
        return kind is Failure.REFUSED or odd_again

    def _send_sealed(self) -> None:
        """Send what packs have sealed since the last look."""
        for pack_id in self._ledger.pack_ids():
            files = self._ledger.sealed_files(pack_id)
            last = self._sealed.get(pack_id, -1)
            if not files or files[-1][0] <= last or self._exporter is None:
                continue
            for trial_id, rows in self._ledger.sealed(pack_id, after=last).items():
                if trial_id in self._planned and trial_id not in self._exported:
                    self._exporter.send_live(self._planned[trial_id], rows)
            self._sealed[pack_id] = files[-1][0]

    def _end(self, report_only: bool) -> None:
        """Close what is open, send failures unless only the report was asked for, upload the report."""
        if self._exporter is None:
            return
        failed = {trial_id for trial_id in self._ledger.failed() if trial_id in self._planned}
        if not report_only:
            for trial_id in sorted(failed):
                self._exporter.send_failure(self._planned[trial_id], self._ledger.failures(trial_id))
        done = len(self._ledger.done() & self._planned.keys())
        self._exporter.end(done, len(failed), len(self._planned))
        self._save()
        self._exporter.send_report()

    # -- what is remembered ----------------------------------------------------------------------

    def _save(self) -> None:
        """Write the mapping; the larger it is, the longer until the next time."""
        if self._exporter is not None:
            began = time.monotonic()
            write_mapping(self._ledger, self._uri, self._exporter.mapping())
            self._next_save = time.monotonic() + _SAVE_SHARE * (time.monotonic() - began)

    def _save_state(self) -> None:
        """Write how far we came; a ledger that cannot be written now is no reason to stop."""
        self._next_state = time.monotonic() + _STATE_S
        try:
            shown = self._exported if self._connected else exported_before(self._ledger, self._uri)
            write_state(self._ledger, self._uri, len(shown), self._error)
            self._told_state = len(shown), self._error
        except BnsweepError as error:
            self._log(str(error))

    def _hidden(self, text: str) -> str:
        return hide(text, self._uri)

    def _log(self, text: str) -> None:
        """Write to the log, whose size is bounded; an error that comes again is one line."""
        if text == self._last_logged:
            text = "the same again"
        else:
            self._last_logged = text
        _bound_log()
        print(time.strftime("%Y-%m-%d %H:%M:%S"), self._hidden(text), file=sys.stderr, flush=True)


def _bound_log() -> None:
    """Empty the file that standard error goes to where it has grown too large."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return
    if stat.S_ISREG(found.st_mode) and found.st_size > _LOG_BYTES:
        os.ftruncate(sys.stderr.fileno(), 0)


def _ask_for_more_time() -> None:
    """Wait twice as long for the next answers: a server may be slow and yet do its work."""
    seconds = int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", _LONGEST_REQUEST_S))
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(min(_LONGEST_REQUEST_S, 2 * seconds))


def main(root: str, uri: str, follow: bool, report_only: bool, output: int) -> int:
    """Run a mirror; write events and, last, its summary as lines of JSON to the file descriptor ``output``.

    Args:
        root: The ledger's folder.
        uri: Tracking URI.
        follow: Whether to go on until told to finish.
        report_only: Only upload the report.
        output: Where the summary goes.

    Returns:
        The exit code: 0, or 4 where something is pending.
    """

    def say(content: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # who started us has gone: what is there is sent all the same
            os.write(output, (json.dumps(content) + "\n").encode())

    orders = Orders(follow)
    try:
        mirror = Mirror(Ledger(root), uri, orders, lambda event, error: say({"event": event, "error": error}))

        def leave() -> None:
            summary = mirror.summary(report_only)
            say(summary | {"error": summary["error"] or "the store does not answer in time"})
            os._exit(4)

        orders.heed(leave)
        summary = mirror.run(report_only)
    except BnsweepError as error:
        summary = {"exported": 0, "pending": 0, "error": hide(str(error), uri)}
    say(summary)
    return 4 if summary["error"] or summary["pending"] else 0
