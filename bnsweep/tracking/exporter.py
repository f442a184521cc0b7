"""Writing to MLflow: the one module that imports it.

Every call here may be repeated: a run is looked up by its tag before it is made, readings carry the
time that the ledger recorded (MLflow stores equal points once), artifacts replace each other, and the
tag ``bnsweep.exported`` says which version of a trial or condition a run shows in full.
"""

from __future__ import annotations

import fcntl
import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from bnsweep.sweep.curves import CurveRow, rows_of
from bnsweep.sweep.ledger import Ledger
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
)
from bnsweep.tracking.uris import absolute_uri, sqlite_path
from bnsweep.trial import TrialConfig, TrialState

__all__ = ["Exporter"]

_OPEN = ("RUNNING", "SCHEDULED")
_PAGE = 1000
_EXPORTED = "bnsweep.exported"


@dataclass
class _Run:
    """What is known of one of our runs."""

    run_id: str
    artifact_uri: str
    status: str
    exported: str = ""
    has_params: bool = False

    @classmethod
    def of(cls, run: Run) -> _Run:
        info, tags = run.info, run.data.tags
        return cls(
            info.run_id, info.artifact_uri, info.status, tags.get(_EXPORTED, ""), bool(run.data.params)
        )


class Exporter:
    """Writes one ledger into one tracking store.

    Attributes:
        runs: Runs of trials by trial id.
    """

    def __init__(self, ledger: Ledger, uri: str) -> None:
        """Connect, make the experiment and the parent run where absent, and look up all our runs.

        Args:
            ledger: The sweep.
            uri: Tracking URI.
        """
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._ledger = ledger
        self._plan = ledger.plan()
        self._client = _connect(uri)
        self._artifacts: dict[str, Any] = {}
        self._sent: dict[str, set[tuple[str, int]]] = {}
        self.experiment_id = self._find_experiment(uri)
        self.runs: dict[str, _Run] = {}
        self._conditions: dict[str, _Run] = {}
        parent = self._look_up()
        self._parent = parent or self._create(
            self._ledger.name, {"bnsweep.kind": "sweep"}, int(time.time() * 1000)
        )
        self._begin()

    # -- finding ---------------------------------------------------------------------------------

    def _find_experiment(self, uri: str) -> str:
        """Return the experiment's id; make it, or bring it back where it was deleted."""
        name = self._ledger.name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = None
            if not uri.startswith("http"):
                folder = self._ledger.root.parent.resolve() / "mlartifacts" / name
                location = folder.as_uri()
            return str(self._client.create_experiment(name, location, {"bnsweep.kind": "sweep"}))
        if experiment.lifecycle_stage != "active":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _look_up(self) -> _Run | None:
        """Find our runs by their tags, delete the later of two for one trial, return the parent."""
        parent: _Run | None = None
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], "", ViewType.ACTIVE_ONLY, _PAGE, ["attributes.start_time ASC"], token
            )
            for run in page:
                parent = self._sort_in(run, parent)
            token = page.token
            if not token:
                return parent

    def _sort_in(self, run: Run, parent: _Run | None) -> _Run | None:
        tags, found = run.data.tags, _Run.of(run)
        kind = tags.get("bnsweep.kind")
        if kind == "sweep":
            return parent or found
        table = {"trial": self.runs, "condition": self._conditions}.get(kind or "")
        key = tags.get("bnsweep.trial_id" if kind == "trial" else "bnsweep.condition")
        if table is None or key is None:
            return parent
        if key in table:
            self._client.delete_run(found.run_id)
        else:
            table[key] = found
        return parent

    def _create(self, name: str, tags: Mapping[str, str], start: int) -> _Run:
        run = self._client.create_run(self.experiment_id, start, dict(tags), name)
        return _Run(run.info.run_id, run.info.artifact_uri, "RUNNING")

    def _begin(self) -> None:
        """Describe the sweep in the parent run, and open it again where it was closed."""
        text = describe(self._plan, self.experiment_id)
        count = str(len(self._plan["trials"]))
        self._write(self._parent, tags={MLFLOW_RUN_NOTE: text, "bnsweep.trials": count})
        for name in ("plan.json", "sweep.yaml", "environment.json"):
            if (self._ledger.root / name).exists():
                self._upload(self._parent, self._ledger.root / name)
        self._reopen(self._parent)

    # -- writing ---------------------------------------------------------------------------------

    def _write(
        self,
        run: _Run,
        readings: Iterable[Reading] = (),
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._client.log_batch(
            run.run_id,
            [Metric(reading.name, reading.value, reading.time_ms, reading.step) for reading in readings],
            [Param(name, value) for name, value in (parameters or {}).items()],
            [RunTag(name, value) for name, value in (tags or {}).items()],
        )

    def _upload(self, run: _Run, path: Path, folder: str | None = None) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        place: Any = get_artifact_repository(run.artifact_uri, self._client.tracking_uri)
        if path.is_dir():
            place.log_artifacts(str(path), folder)
        else:
            place.log_artifact(str(path), folder)

    def _reopen(self, run: _Run) -> None:
        if run.status not in _OPEN:
            self._client.update_run(run.run_id, "RUNNING")
            run.status = "RUNNING"

    def _close(self, run: _Run, status: str, end: int | None = None) -> None:
        if run.status != status:
            self._client.set_terminated(run.run_id, status, end)
            run.status = status

    def _child(self, trial_id: str, label: str, config: TrialConfig, state: str, start: int) -> _Run:
        """Return a trial's run, made where absent."""
        run = self.runs.get(trial_id)
        if run is None:
            tags = trial_tags(config, trial_id, state) | {MLFLOW_PARENT_RUN_ID: self._parent.run_id}
            run = self.runs[trial_id] = self._create(label, tags, start)
        return run

    def _unsent(self, trial_id: str, readings: Sequence[Reading]) -> list[Reading]:
        """Return the readings that this process has not sent."""
        sent = self._sent.get(trial_id, set())
        return [reading for reading in readings if (reading.name, reading.step) not in sent]

    def send_live(self, trial: PlannedTrial, rows: Sequence[CurveRow]) -> None:
        """Send sealed readings of a trial that is not done yet."""
        if not rows:
            return
        run = self._child(trial.trial_id, trial.label, trial.config, "running", rows[0].time_ms)
        readings = self._unsent(trial.trial_id, headline(rows)[0])
        self._write(run, readings, None if run.has_params else params(trial.config.parameters))
        run.has_params = True
        self._sent.setdefault(trial.trial_id, set()).update((item.name, item.step) for item in readings)
        self._reopen(run)

    def send_trial(self, record: Record, label: str) -> bool:
        """Send a finished trial in full.

        Args:
            record: Its record.
            label: Its name in the plan.

        Returns:
            Whether it is exported; ``False`` where its curves turned out to be damaged.
        """
        config, trial_id = record.config, record.trial_id
        known = self.runs.get(trial_id)
        if known and known.exported == record.curves_sha256 and known.status == "FINISHED":
            return True
        table = self._ledger.curves(trial_id)
        if table is None:
            return False
        rows = [row for row in rows_of(table) if row.layer == 0]
        start = start_ms(record) if record.attempts or not rows else rows[0].time_ms
        run = self._child(trial_id, label or record.label, config, record.state, start)
        self._upload(run, self._ledger.curve_file(trial_id))
        self._log_dataset(run, record)
        readings, infinite = headline(rows)
        tags = {"bnsweep.state": record.state.value, _EXPORTED: record.curves_sha256}
        if record.diverged_step is not None:
            tags["bnsweep.diverged_step"] = str(record.diverged_step)
        if infinite:
            tags["bnsweep.infinite_readings_left_out"] = str(infinite)
        given = None if run.has_params else params(config.parameters)
        self._write(run, self._unsent(trial_id, readings), given, tags)
        self._sent.pop(trial_id, None)
        run.exported, run.has_params = record.curves_sha256, True
        self._close(run, "FINISHED", milliseconds(record.written_at))
        return True

    def _log_dataset(self, run: _Run, record: Record) -> None:
        facts = dataset_facts(record.config, record.data)
        source = json.dumps({"name": facts.name, "fingerprint": record.fingerprint})
        dataset = Dataset(facts.name, facts.digest, "bnsweep", source, None, facts.profile)
        tag = InputTag(MLFLOW_DATASET_CONTEXT, "training")
        self._client.log_inputs(run.run_id, [DatasetInput(dataset, [tag])])

    def send_condition(self, condition: Condition) -> None:
        """Send the means over the seeds of a condition that is done."""
        run = self._conditions.get(condition.condition_id)
        if run is None:
            tags = {
                "bnsweep.kind": "condition",
                "bnsweep.condition": condition.condition_id,
                MLFLOW_PARENT_RUN_ID: self._parent.run_id,
            }
            run = self._create(condition.label, tags, condition.start_ms)
            self._conditions[condition.condition_id] = run
        if run.exported != condition.version:
            given = None if run.has_params else params(condition.parameters)
            self._write(run, condition.readings, given, {_EXPORTED: condition.version})
            run.exported, run.has_params = condition.version, True
        self._close(run, "FINISHED", condition.end_ms)

    def send_failure(self, trial: PlannedTrial, failures: Sequence[Mapping[str, Any]]) -> None:
        """Send a trial whose last attempt failed, with the tracebacks."""
        now = int(time.time() * 1000)
        times = [milliseconds(str(item["written_at"])) for item in failures if item.get("written_at")] or [
            now
        ]
        run = self._child(trial.trial_id, trial.label, trial.config, TrialState.FAILED, times[0])
        self._write(
            run,
            (),
            None if run.has_params else params(trial.config.parameters),
            {"bnsweep.state": TrialState.FAILED.value, "bnsweep.failures": str(len(failures))},
        )
        run.has_params = True
        for path in sorted(self._ledger.curve_file(trial.trial_id).parent.glob("failure.*.json")):
            self._upload(run, path)
        self._close(run, "FAILED", times[-1])

    # -- ending ----------------------------------------------------------------------------------

    def send_report(self) -> bool:
        """Upload the report's folder into the parent run.

        Returns:
            Whether there is a report.
        """
        folder = self._ledger.report_dir
        if not folder.is_dir():
            return False
        self._upload(self._parent, folder, "report")
        return True

    def end(self, done: int, failed: int, planned: int) -> None:
        """Close the parent run and every run left open: nothing stays RUNNING.

        Args:
            done: Planned trials with a record.
            failed: Trials that failed.
            planned: Trials of the plan.
        """
        for run in (*self.runs.values(), *self._conditions.values()):
            if run.status in _OPEN:
                self._close(run, "KILLED")
        status = (
            "FINISHED" if done >= planned else "FAILED" if failed and done + failed >= planned else "KILLED"
        )
        self._write(
            self._parent, tags={"bnsweep.trials_done": str(done), "bnsweep.trials_failed": str(failed)}
        )
        self._close(self._parent, status)

    def mapping(self) -> dict[str, Any]:
        """Return which run is which trial, as plain data."""
        return {
            "experiment_id": self.experiment_id,
            "parent_run_id": self._parent.run_id,
            "trials": {
                trial_id: {"run_id": run.run_id, "exported": run.exported}
                for trial_id, run in self.runs.items()
            },
            "conditions": {key: {"run_id": run.run_id} for key, run in self._conditions.items()},
        }


def _connect(uri: str) -> MlflowClient:
    """Return a client; for SQLite make the file once, in WAL mode, without racing another sweep."""
    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    if path is None:
        return MlflowClient(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with closing(sqlite3.connect(path, timeout=60)) as database:
            database.execute("PRAGMA journal_mode=WAL")
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client
