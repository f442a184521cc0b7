"""The mirror: follows a ledger and keeps MLflow equal to it, at its own pace, in its own process.

Whatever goes wrong with MLflow is logged and tried again after a growing pause; the sweep never
notices. After any error all runs are looked up anew, so that a run whose creation was not
acknowledged is found and not made twice.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import PlannedTrial
from bnsweep.tracking.content import conditions
from bnsweep.tracking.mapping import exported_before, write_mapping
from bnsweep.tracking.uris import redacted, uri_digest

if TYPE_CHECKING:
    from bnsweep.tracking.exporter import Exporter

__all__ = ["Mirror", "Orders"]

_POLL_S = 1.0
_SAVE_SHARE = 100.0  # time between two writings of the mapping, in times that one takes
_LONGEST_PAUSE_S = 30.0
_TRIES = 7
_ORPHANED_S = 60.0
_TERMINATED_S = 5.0
_PERMANENT = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


class Orders:
    """What the mirror is told: to go on, or to finish before a deadline.

    The starting process writes ``finish <seconds>`` to our standard input; its end, the end of that
    file, or a signal also mean that the sweep is over.

    Attributes:
        finishing: Whether the sweep is over.
        deadline: Monotonic time by which to stop trying; infinite where there is none.
    """

    def __init__(self, follow: bool) -> None:
        self.finishing = not follow
        self.deadline = float("inf")
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        if follow:
            self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)

    def heed_signals(self) -> None:
        """Take SIGTERM and SIGINT as an order to finish soon."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.finish(_TERMINATED_S))

    def finish(self, seconds: float) -> None:
        """Say that the sweep is over, and how long to go on trying."""
        self.finishing = True
        self.deadline = min(self.deadline, time.monotonic() + seconds)

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def wait(self, seconds: float) -> None:
        """Wait for an order, at most ``seconds``."""
        if not self._selector.get_map():
            time.sleep(max(0.0, min(seconds, self.deadline - time.monotonic())))
        elif self._selector.select(seconds):
            self._listen()

    def _listen(self) -> None:
        content = os.read(sys.stdin.fileno(), 4096)
        self._buffer += content
        if b"\n" not in self._buffer and content:
            return
        self._selector.unregister(sys.stdin.fileno())
        word, _, seconds = self._buffer.decode(errors="replace").strip().partition(" ")
        self.finish(float(seconds) if word == "finish" else _ORPHANED_S)


class Mirror:
    """One ledger and the store that shows it.

    Args:
        ledger: The sweep.
        uri: Tracking URI.
        orders: When to stop.
    """

    def __init__(self, ledger: Ledger, uri: str, orders: Orders) -> None:
        self._ledger = ledger
        self._uri = uri
        self._orders = orders
        self._exporter: Exporter | None = None
        self._connected = False
        self._exported: set[str] = set()
        self._refused: set[str] = set()
        self._sealed: dict[str, int] = {}
        self._planned: dict[str, PlannedTrial] = {}
        self._members: dict[str, list[PlannedTrial]] = {}
        self._plan_time = (0, 0)
        self._next_save = 0.0
        self._error = ""

    def run(self, report_only: bool = False) -> dict[str, Any]:
        """Follow the ledger until told to finish and all is sent, or the deadline has passed.

        Args:
            report_only: Only upload the report.

        Returns:
            ``exported``, ``pending``, and the last ``error`` where something is pending.
        """
        failures = 0
        with self._alone():
            while not self._orders.late:
                self._orders.wait(0.0)
                pause = 0.0 if self._orders.finishing else _POLL_S
                try:
                    self._connect()
                    if report_only or self._cycle():
                        self._end(report_only)
                        break
                    failures = 0
                except Exception as error:
                    failures += 1
                    pause = min(_LONGEST_PAUSE_S, 2.0 ** (failures - 1))
                    self._give_up_connection(error)
                    if self._orders.finishing and failures >= _TRIES:
                        break
                self._orders.wait(pause)
        done = self._ledger.done()
        shown = self._exported if self._connected else exported_before(self._ledger, self._uri)
        pending = 0 if report_only else len(done - shown)
        return {"exported": len(done & shown), "pending": pending, "error": self._error}

    def _give_up_connection(self, error: Exception) -> None:
        """Log an error and forget what was known of the store."""
        self._error = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        self._log(traceback.format_exc())
        self._exporter = None
        self._sealed.clear()

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
                    self._error = "another mirror of this sweep is at work"
                    self._orders.wait(0.5)
            yield

    def _connect(self) -> None:
        if self._exporter is None:
            from bnsweep.tracking.exporter import Exporter

            self._exporter = Exporter(self._ledger, self._uri)
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
            self._orders.wait(0.0)
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
            if getattr(error, "error_code", "") not in _PERMANENT:
                raise
            self._error = f"{trial_id} was refused: {error}".splitlines()[0][:500]
            self._log(traceback.format_exc())
            self._refused.add(trial_id)
            return
        self._exported.add(trial_id)
        members = self._members.get(trial.config.condition_id, []) if trial else []
        if members and all(member.trial_id in self._exported for member in members):
            records = {
                found.trial_id: found for found in self._ledger.records(item.trial_id for item in members)
            }
            for condition in conditions(members, records):
                exporter.send_condition(condition)

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
        """Upload the report; close what is open; send failures unless only the report was asked for."""
        if self._exporter is None:
            return
        self._exporter.send_report()
        failed = {trial_id for trial_id in self._ledger.failed() if trial_id in self._planned}
        if not report_only:
            for trial_id in sorted(failed):
                self._exporter.send_failure(self._planned[trial_id], self._ledger.failures(trial_id))
        done = len(self._ledger.done() & self._planned.keys())
        self._exporter.end(done, len(failed), len(self._planned))
        self._save()
        if not self._refused:
            self._error = ""

    def _save(self) -> None:
        """Write the mapping; the larger it is, the longer until the next time."""
        if self._exporter is not None:
            began = time.monotonic()
            write_mapping(self._ledger, self._uri, self._exporter.mapping())
            self._next_save = time.monotonic() + _SAVE_SHARE * (time.monotonic() - began)

    def _log(self, text: str) -> None:
        print(time.strftime("%Y-%m-%d %H:%M:%S"), redacted(text), file=sys.stderr, flush=True)


def main(root: str, uri: str, follow: bool, report_only: bool, output: int) -> int:
    """Run a mirror and write its summary as one line of JSON to the file descriptor ``output``.

    Args:
        root: The ledger's folder.
        uri: Tracking URI.
        follow: Whether to go on until told to finish.
        report_only: Only upload the report.
        output: Where the summary goes.

    Returns:
        The exit code: 0, or 4 where something is pending.
    """
    orders = Orders(follow)
    orders.heed_signals()
    try:
        summary = Mirror(Ledger(root), uri, orders).run(report_only)
    except BnsweepError as error:
        summary = {"exported": 0, "pending": 0, "error": str(error)}
    os.write(output, (json.dumps(summary) + "\n").encode())
    return 4 if summary["error"] else 0
