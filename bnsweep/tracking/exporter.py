"""One ledger told to one tracking store: which run shows what, and when it is complete."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from bnsweep.sweep.curves import CurveRow, rows_of
from bnsweep.sweep.files import read_json
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.places import Place, local_folder
from bnsweep.sweep.records import PlannedTrial, Record
from bnsweep.tracking.content import (
    Condition,
    Reading,
    dataset_facts,
    describe,
    headline,
    milliseconds,
    params,
    start_ms,
    trial_tags,
    verdicts,
)
from bnsweep.tracking.runs import EXPORTED, OurRun, RunTable
from bnsweep.trial import TrialState

__all__ = ["Exporter"]


class Exporter:
    """Writes one ledger into one tracking store; every call may be repeated.

    Making one connects, makes the experiment and the parent run where absent, and looks up all runs
    of the sweep.

    Args:
        ledger: The sweep.
        uri: Tracking URI.
    """

    def __init__(self, ledger: Ledger, uri: str) -> None:
        self._ledger = ledger
        self._sent: dict[str, set[tuple[str, int]]] = {}
        artifacts = local_folder(ledger.root.parent).resolve() / "mlartifacts" / ledger.name
        self._runs = RunTable(uri, ledger.name, artifacts)
        plan = ledger.plan()
        description = describe(plan, self._runs.experiment_id)
        self._runs.describe(description)
        tags = {
            "bnsweep.kind": "sweep",
            "bnsweep.trials": str(len(plan["trials"])),
            MLFLOW_RUN_NOTE: description,
        }
        if self._runs.parent is None:
            self._runs.parent = self._runs.create(ledger.name, tags, int(time.time() * 1000))
        else:
            self._runs.write(self._runs.parent, tags=tags)
        self._parent = self._runs.parent
        for name in ("plan.json", "sweep.yaml", "environment.json"):
            if (ledger.root / name).exists():
                self._runs.upload(self._parent, ledger.root / name)
        self._runs.reopen(self._parent)

    def _child(self, key: str, label: str, tags: Mapping[str, str], start: int) -> tuple[OurRun, bool]:
        """Return the run of a trial or condition, and whether it was made now, with ``tags``."""
        table = self._runs.trials if tags["bnsweep.kind"] == "trial" else self._runs.conditions
        if key in table:
            return table[key], False
        run = self._runs.create(label, {**tags, MLFLOW_PARENT_RUN_ID: self._parent.run_id}, start)
        table[key] = run
        return run, True

    def _unsent(self, trial_id: str, readings: Sequence[Reading]) -> list[Reading]:
        """Return the readings that this process has not sent."""
        sent = self._sent.get(trial_id, set())
        return [reading for reading in readings if (reading.name, reading.step) not in sent]

    def send_live(self, trial: PlannedTrial, rows: Sequence[CurveRow]) -> None:
        """Send sealed readings of a trial that is not done yet."""
        if not rows:
            return
        tags = trial_tags(trial.config, trial.trial_id, "running")
        run, new = self._child(trial.trial_id, trial.label, tags, rows[0].time_ms)
        readings = self._unsent(trial.trial_id, headline(rows)[0])
        self._runs.write(run, readings, params(trial.config.parameters), {} if new else tags)
        self._sent.setdefault(trial.trial_id, set()).update((item.name, item.step) for item in readings)
        self._runs.reopen(run)

    def send_trial(self, record: Record, label: str) -> bool:
        """Send a finished trial in full.

        Args:
            record: Its record.
            label: Its name in the plan; the record's own where empty.

        Returns:
            Whether it is exported; ``False`` where its curves turned out to be damaged.
        """
        trial_id = record.trial_id
        known = self._runs.trials.get(trial_id)
        if known and known.exported == record.curves_sha256 and known.status == "FINISHED":
            return True
        table = self._ledger.curves_of(record)
        if table is None:
            return False
        rows = [row for row in rows_of(table) if row.layer == 0]
        readings, infinite = headline(rows)
        tags = trial_tags(record.config, trial_id, record.state) | {EXPORTED: record.curves_sha256}
        if record.continued_from:
            tags["bnsweep.continued_from"] = record.continued_from
        if record.diverged_step is not None:
            tags["bnsweep.diverged_step"] = str(record.diverged_step)
        if infinite:
            tags["bnsweep.infinite_readings_left_out"] = str(infinite)
        start = start_ms(record) if record.attempts or not rows else rows[0].time_ms
        run, new = self._child(trial_id, label or record.label, tags, start)
        self._runs.reopen(run)
        self._runs.upload(run, self._ledger.curve_file(trial_id))
        if record.weights_sha256 and self._ledger.weights_file(trial_id).exists():
            self._runs.upload(run, self._ledger.weights_file(trial_id))
        self._runs.log_dataset(run, dataset_facts(record.config, record.data))
        given = params(record.parameters)
        self._runs.write(run, self._unsent(trial_id, readings), given, {} if new else tags)
        self._runs.close(run, "FINISHED", milliseconds(record.written_at))
        self._sent.pop(trial_id, None)
        return True

    def send_condition(self, condition: Condition) -> None:
        """Send the means over the seeds of a condition that is done."""
        tags = {
            "bnsweep.kind": "condition",
            "bnsweep.condition": condition.condition_id,
            EXPORTED: condition.version,
        }
        run, new = self._child(condition.condition_id, condition.label, tags, condition.start_ms)
        if new or run.exported != condition.version or run.status != "FINISHED":
            given = params(condition.parameters)
            self._runs.write(run, condition.readings, given, {} if new else tags)
        self._runs.close(run, "FINISHED", condition.end_ms)

    def send_failure(self, trial: PlannedTrial, failures: Sequence[Mapping[str, Any]]) -> None:
        """Send a trial whose last attempt failed, with the tracebacks."""
        times = [milliseconds(str(item["written_at"])) for item in failures if item.get("written_at")]
        times = times or [int(time.time() * 1000)]
        tags = trial_tags(trial.config, trial.trial_id, TrialState.FAILED)
        run, _ = self._child(trial.trial_id, trial.label, tags, times[0])
        tags["bnsweep.failures"] = str(len(failures))
        self._runs.write(run, (), params(trial.config.parameters), tags)
        paths: list[Place] = [*self._ledger.curve_file(trial.trial_id).parent.glob("failure.*.json")]
        for path in sorted(paths, key=str):
            self._runs.upload(run, path)
        self._runs.close(run, "FAILED", times[-1])

    def send_report(self) -> None:
        """Upload the report's folder, where there is one, into the parent run."""
        folder = self._ledger.report_dir
        if folder.is_dir():
            self._runs.upload(self._parent, folder, "report")
        if (folder / "verdicts.json").is_file():
            tags, readings = verdicts(read_json(folder / "verdicts.json"))
            self._runs.write(self._parent, readings, tags=tags)

    def end(self, done: int, failed: int, planned: int) -> None:
        """Close the parent run and every run left open: nothing stays RUNNING.

        Args:
            done: Planned trials with a record.
            failed: Trials that failed.
            planned: Trials of the plan.
        """
        for run in (*self._runs.trials.values(), *self._runs.conditions.values()):
            if run.is_open:
                self._runs.close(run, "KILLED")
        status = "FINISHED" if done >= planned else "FAILED" if done + failed >= planned else "KILLED"
        counts = {"bnsweep.trials_done": str(done), "bnsweep.trials_failed": str(failed)}
        self._runs.write(self._parent, tags=counts)
        self._runs.close(self._parent, status)
        self._runs.flush()

    def mapping(self) -> dict[str, Any]:
        """Return which run is which trial, as plain data."""
        return {
            "experiment_id": self._runs.experiment_id,
            "parent_run_id": self._parent.run_id,
            "trials": {
                trial_id: {
                    "run_id": run.run_id,
                    "exported": run.exported if run.status == "FINISHED" else "",
                }
                for trial_id, run in self._runs.trials.items()
            },
            "conditions": {key: {"run_id": run.run_id} for key, run in self._runs.conditions.items()},
        }
