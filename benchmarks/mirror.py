"""The mirror under load: many trials that report often, on an MLflow server, while its UI is being read.

``python -m benchmarks.mirror`` starts an MLflow server on SQLite on 127.0.0.1 with an experiment of 5 000
runs, and a mirror. For a minute 16 trials seal 50 reports a second of 12 readings each, as workers do, while
the experiment is searched as the UI does it. Then the trials are recorded, and the mirror is told to finish.
The database is the judge: every reading once, none lost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
import urllib.request
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.platform import cpu_of, line, memory_of
from bnsweep.sweep.curves import CurveRow
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import Record
from bnsweep.tracking import MirrorProcess, start_mirror
from bnsweep.tracking.process import quiet_environment
from bnsweep.tracking.stores import connect
from bnsweep.tracking.ui import free_port, start_ui
from bnsweep.trial import TrialConfig

__all__ = ["Drained", "Reader", "Writer", "drain", "fill_experiment", "judge", "write_ledger"]

PACK = "0" * 16


def write_ledger(storage: Path, trials: int, steps: int) -> Ledger:
    """Make a ledger with one open pack of so many trials."""
    made = [TrialConfig.create({"lr": 0.1, "seed": seed, "steps": steps}) for seed in range(trials)]
    ledger = Ledger.open(storage, "load", create=True)
    entries = [{"trial_id": one.trial_id, "label": one.label(), **one.to_dict()} for one in made]
    ledger.write_sweep("name: load\n", {"name": "load", "description": "load", "trials": entries})
    ledger.write_pack(PACK, {"members": [one.trial_id for one in made], "trials": []})
    return ledger


class Writer(threading.Thread):
    """Seals readings of all trials at their rate; then commits the trials.

    Args:
        ledger: The ledger.
        rate: Reports a second of a trial.
        metrics: Readings of a report.
        seconds: How long.
        every: Seconds between two seals.
    """

    def __init__(self, ledger: Ledger, rate: int, metrics: int, seconds: int, every: int) -> None:
        super().__init__(name="writer")
        self.ledger, self.rate, self.metrics = ledger, rate, metrics
        self.seconds, self.every = seconds, every
        self.configs = [trial.config for trial in ledger.planned()]
        self.rows: dict[str, list[CurveRow]] = {one.trial_id: [] for one in self.configs}
        self.sealed = 0
        self.longest = 0.0

    def run(self) -> None:
        """Write for as long as asked, on time."""
        began = time.monotonic()
        for turn in range(self.seconds // self.every):
            first = turn * self.every * self.rate
            fresh = {trial: self._report(first) for trial in self.rows}
            time.sleep(max(0.0, began + (turn + 1) * self.every - time.monotonic()))
            start = time.monotonic()
            self.ledger.seal_readings(PACK, turn + 1, fresh)
            self.longest = max(self.longest, time.monotonic() - start)
            for trial, rows in fresh.items():
                self.rows[trial] += rows
            self.sealed += sum(map(len, fresh.values()))
        for config in self.configs:
            last = {f"load/m{number}": 1.0 for number in range(self.metrics)}
            steps = self.seconds * self.rate
            self.ledger.write_record(Record.of(config, "completed", steps, last), self.rows[config.trial_id])
        self.ledger.close_pack(PACK)

    def _report(self, first: int) -> list[CurveRow]:
        stamp = time.time_ns() // 1_000_000
        return [
            CurveRow(step, f"load/m{number}", 0, float((step * 7919 + number) % 1000), stamp + step)
            for step in range(first, first + self.every * self.rate)
            for number in range(self.metrics)
        ]


class Reader(threading.Thread):
    """Searches an experiment as the UI's table of runs does, again and again."""

    def __init__(self, url: str, experiment: str) -> None:
        super().__init__(name="reader", daemon=True)
        self.url, self.experiment = url, experiment
        self.over = threading.Event()
        self.times: list[float] = []
        self.errors: list[str] = []

    def run(self) -> None:
        """Search until it is over."""
        request = {
            "experiment_ids": [self.experiment], "max_results": 100, "run_view_type": "ACTIVE_ONLY",
            "filter": "params.norm = 'batch'", "order_by": ["metrics.test_accuracy DESC"],
        }  # fmt: skip
        while not self.over.wait(0.2):
            began = time.monotonic()
            try:
                asked = urllib.request.Request(
                    f"{self.url}/ajax-api/2.0/mlflow/runs/search", json.dumps(request).encode(),
                    {"Content-Type": "application/json"},
                )  # fmt: skip
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    found = json.load(answer)["runs"]
                assert found
                self.times.append(time.monotonic() - began)
            except (OSError, ValueError, KeyError, AssertionError) as error:
                self.errors.append(f"{type(error).__name__}: {error}")

    def at(self, share: float) -> float:
        """Return a quantile of the times in seconds."""
        return sorted(self.times)[min(len(self.times) - 1, int(share * len(self.times)))]


def fill_experiment(database: Path, runs: int) -> str:
    """Write an experiment with so many runs straight into a database; return its id."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    experiment = str(client.create_experiment("many"))
    sample = client.create_run(experiment, run_name="sample")
    client.log_param(sample.info.run_id, "norm", "batch")
    client.log_metric(sample.info.run_id, "test_accuracy", 0.5)
    connection = sqlite3.connect(database)
    try:
        for number in range(runs - 1):
            made = uuid.UUID(int=number + 1).hex
            for table in ("runs", "params", "metrics", "latest_metrics", "tags"):
                names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                values = {"run_uuid": f"'{made}'", "name": "name"}
                if table in ("metrics", "latest_metrics"):
                    values["value"] = str(number % 997 / 997)
                if table == "params":
                    values["value"] = f"'{('none', 'batch', 'l1', 'l2')[number % 4]}'"
                chosen = ", ".join(values.get(name, f'"{name}"') for name in names)
                connection.execute(
                    f"INSERT INTO {table} SELECT {chosen} FROM {table} WHERE run_uuid = ?",
                    (sample.info.run_id,),
                )
        connection.commit()
    finally:
        connection.close()
    return experiment


def judge(database: Path, rows: dict[str, list[CurveRow]]) -> tuple[int, int]:
    """Return how many readings the database lacks, and how many it holds too often."""
    connection = sqlite3.connect(database)
    lost = double = 0
    try:
        query = "SELECT value, run_uuid FROM tags WHERE key = 'bnsweep.trial_id'"
        found = dict(connection.execute(query))
        for trial, expected in rows.items():
            held = [
                tuple(row)
                for row in connection.execute(
                    "SELECT step, key, value, timestamp FROM metrics WHERE run_uuid = ?", (found.get(trial),)
                )
            ]
            wanted = {(row.step, row.name, row.value, row.time_ms) for row in expected}
            lost += len(wanted - set(held))
            double += len(held) - len(wanted & set(held))
    finally:
        connection.close()
    return lost, double


@dataclass
class Drained:
    """How a mirror came to its end: seconds, its peak memory in kB, its CPU seconds, what it said."""

    seconds: float
    peak: int = 0
    cpu: float = 0.0
    summary: Any = None


def drain(mirror: MirrorProcess) -> Drained:
    """Tell a mirror to finish, and watch it until it has."""
    began = time.monotonic()
    found = Drained(0.0)

    def finish() -> None:
        found.summary = mirror.finish(1200.0)

    finishing = threading.Thread(target=finish)
    finishing.start()
    while finishing.is_alive():
        with suppress(OSError, IndexError, ValueError, StopIteration):  # it has ended
            found.peak = max(found.peak, memory_of(mirror.pid, "VmHWM"))
            found.cpu = cpu_of(mirror.pid)
        time.sleep(0.2)
    found.seconds = time.monotonic() - began
    return found


def measure(options: argparse.Namespace, folder: Path) -> bool:
    """Run it, print a line a figure, and tell whether nothing is lost or double."""
    os.environ.update(quiet_environment())
    database = folder / "mlflow.db"
    connect(f"sqlite:///{database}")
    experiment = fill_experiment(database, options.runs)
    server: Any = start_ui(f"sqlite:///{database}", folder, free_port(0))
    try:
        server.wait_ready(300.0)
        ledger = write_ledger(folder / "results", options.trials, options.seconds * options.rate)
        mirror = start_mirror(ledger.root, server.url)
        writer = Writer(ledger, options.rate, options.metrics, options.seconds, options.every)
        reader = Reader(server.url, experiment)
        reader.start()
        writer.start()
        writer.join()
        behind, meanwhile = writer.sealed - _held(database), len(reader.times)
        found = drain(mirror)
        reader.over.set()
        reader.join()
    finally:
        server.stop()
    lost, double = judge(database, writer.rows)
    what = f"{options.trials} trials x {options.rate} reports/s x {options.metrics}"
    line(f"{what}: readings", str(writer.sealed))
    line("  longest wait of a worker for its seal (s)", f"{writer.longest:.2f}")
    line("  not yet in MLflow when the last trial was recorded", str(behind))
    line("  until all was there (s)", f"{found.seconds:.0f}", "goal < 120")
    line("  readings a second, over all", f"{writer.sealed / (options.seconds + found.seconds):.0f}")
    line("  the mirror's peak memory (MB), CPU (s)", f"{found.peak / 1024:.0f}, {found.cpu:.0f}")
    line("  lost, double", f"{lost}, {double}", "goal 0, 0")
    searches = f"{len(reader.times)}, {len(reader.errors)}"
    line(f"searches of {options.runs} runs, errors", searches, "goal 0 errors")
    times = f"{reader.at(0.5):.2f}, {reader.at(0.95):.2f}, {max(reader.times):.2f}"
    line("  p50, p95, longest (s)", times, "goal p95 < 2")
    line("  of them while trials reported", str(meanwhile))
    print("mirror:", found.summary)
    for text in reader.errors[:3]:
        print("error:", text)
    return not (lost or double or found.summary.error)


def _held(database: Path) -> int:
    """Return how many readings of the load the database holds."""
    connection = sqlite3.connect(database, timeout=60)
    try:
        return int(connection.execute("SELECT count(*) FROM metrics WHERE key LIKE 'load/%'").fetchone()[0])
    finally:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--rate", type=int, default=50, help="reports a second of a trial")
    parser.add_argument("--metrics", type=int, default=12, help="readings of a report")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--every", type=int, default=10, help="seconds between two seals; a worker takes 30")
    parser.add_argument("--runs", type=int, default=5000, help="runs of the experiment that is searched")
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before, {time.strftime('%Y-%m-%d')}",
        flush=True,
    )
    folder = Path(tempfile.mkdtemp(prefix="bnsweep-mirror-"))
    try:
        good = measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
