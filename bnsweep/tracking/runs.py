"""Runs in a tracking store: found by their tags, made, written to, closed.

Every call may be repeated: a run is looked up before it is made, MLflow stores equal points once,
artifacts replace each other.
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_RUN_NOTE
from sqlalchemy import event
from sqlalchemy.engine import Engine

from bnsweep.sweep.files import on_disk
from bnsweep.sweep.places import Place
from bnsweep.tracking.content import DatasetFacts, Reading
from bnsweep.tracking.uris import absolute_uri, sqlite_path

__all__ = ["EXPORTED", "OurRun", "RunTable", "connect"]

EXPORTED = "bnsweep.exported"
"""Tag that says which version of a trial or condition a run shows, once it is FINISHED."""

_OPEN = ("RUNNING", "SCHEDULED")
_PAGE = 1000


@dataclass
class OurRun:
    """What is known of one of our runs.

    Attributes:
        run_id: MLflow's id.
        artifact_uri: Where its artifacts go.
        status: MLflow's word for how it stands.
        exported: Value of the tag :data:`EXPORTED`.
        has_params: Whether its parameters were logged.
    """

    run_id: str
    artifact_uri: str
    status: str
    exported: str = ""
    has_params: bool = False

    @classmethod
    def of(cls, run: Run) -> OurRun:
        """Take what we need of MLflow's own object."""
        info, tags = run.info, run.data.tags
        return cls(info.run_id, info.artifact_uri, info.status, tags.get(EXPORTED, ""), bool(run.data.params))

    @property
    def is_open(self) -> bool:
        """Whether MLflow shows it as going on."""
        return self.status in _OPEN


class RunTable:
    """The runs of one sweep in one store.

    Args:
        uri: Tracking URI.
        name: The experiment's name; it is made where absent and brought back where deleted.
        artifacts: Folder of artifacts for a store that has none of its own.

    Attributes:
        experiment_id: MLflow's id of the experiment.
        parent: The sweep's run, where there is one.
        trials: Runs of trials by trial id.
        conditions: Runs of conditions by condition id.
    """

    def __init__(self, uri: str, name: str, artifacts: Path) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._client = connect(uri)
        location = None if uri.startswith("http") else artifacts.as_uri()
        self.experiment_id = self._find_experiment(name, location)
        self.parent: OurRun | None = None
        self.trials: dict[str, OurRun] = {}
        self.conditions: dict[str, OurRun] = {}
        self._look_up()

    def _find_experiment(self, name: str, location: str | None) -> str:
        """Return the experiment's id; its kind makes the UI open on training, not on language models."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(name, location, tags))
        if experiment.lifecycle_stage != "active":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def describe(self, text: str) -> None:
        """Set the experiment's description, Markdown."""
        self._client.set_experiment_tag(self.experiment_id, MLFLOW_RUN_NOTE, text)

    def _look_up(self) -> None:
        """Find our runs by their tags, oldest first; delete the later of two for one thing."""
        order, token = ["attributes.start_time ASC"], None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], "", ViewType.ACTIVE_ONLY, _PAGE, order, token
            )
            for run in page:
                self._sort_in(run.data.tags, OurRun.of(run))
            token = page.token
            if not token:
                return

    def _sort_in(self, tags: Mapping[str, str], run: OurRun) -> None:
        kind = tags.get("bnsweep.kind")
        if kind == "sweep":
            self.parent = self.parent or run
            return
        table = {"trial": self.trials, "condition": self.conditions}.get(kind or "")
        key = tags.get("bnsweep.trial_id" if kind == "trial" else "bnsweep.condition")
        if table is None or key is None:
            return
        if key in table:
            self._client.delete_run(run.run_id)
        else:
            table[key] = run

    def create(self, name: str, tags: Mapping[str, str], start_ms: int) -> OurRun:
        """Make a run, with its tags in the same call."""
        run = self._client.create_run(self.experiment_id, start_ms, dict(tags), name)
        return OurRun(run.info.run_id, run.info.artifact_uri, "RUNNING", tags.get(EXPORTED, ""))

    def write(
        self,
        run: OurRun,
        readings: Iterable[Reading] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log readings, parameters (unless the run has some) and tags, in batches."""
        self._client.log_batch(
            run.run_id,
            [Metric(reading.name, reading.value, reading.time_ms, reading.step) for reading in readings],
            [Param(name, value) for name, value in (params or {}).items() if not run.has_params],
            [RunTag(name, value) for name, value in (tags or {}).items()],
        )
        run.has_params = run.has_params or bool(params)
        run.exported = (tags or {}).get(EXPORTED, run.exported)

    def log_dataset(self, run: OurRun, facts: DatasetFacts) -> None:
        """Log the data set that a run was trained on."""
        dataset = Dataset(facts.name, facts.digest, "bnsweep", facts.source, None, facts.profile)
        inputs = [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])]
        self._client.log_inputs(run.run_id, inputs)

    def upload(self, run: OurRun, path: Place, folder: str | None = None) -> None:
        """Upload a file, or all that is in a folder."""
        repository: Any = get_artifact_repository(run.artifact_uri, self._client.tracking_uri)
        with on_disk(path) as copy:
            if copy.is_dir():
                repository.log_artifacts(str(copy), folder)
            else:
                repository.log_artifact(str(copy), folder)

    def reopen(self, run: OurRun) -> None:
        """Show a run as going on."""
        if not run.is_open:
            self._client.update_run(run.run_id, "RUNNING")
            run.status = "RUNNING"

    def close(self, run: OurRun, status: str, end_ms: int | None = None) -> None:
        """Show a run as ended: FINISHED, FAILED or KILLED."""
        if run.status != status:
            self._client.set_terminated(run.run_id, status, end_ms)
            run.status = status

    def flush(self) -> None:
        """Move what lies in SQLite's write-ahead log into the file, so that it can be copied alone."""
        path = sqlite_path(self._client.tracking_uri)
        if path is not None:
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def connect(uri: str) -> MlflowClient:
    """Return a client; a SQLite file that is absent is made first, one sweep at a time.

    Args:
        uri: Tracking URI.
    """
    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or not path.stat().st_size:
                _make_database(path)
        if not event.contains(Engine, "connect", _flush_seldom):
            event.listen(Engine, "connect", _flush_seldom)
    return MlflowClient(uri)


def _flush_seldom(connection: Any, _: Any) -> None:
    """Let SQLite flush at its own checkpoints, not at each of the eight commits that a run costs.

    In WAL mode a crash of the machine may then take back the last commits, never damage the file, and
    the next look-up finds what is missing. A file that is not in WAL mode flushes as before.
    """
    if isinstance(connection, sqlite3.Connection):
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            connection.execute("PRAGMA synchronous=NORMAL")


def _make_database(path: Path) -> None:
    """Make MLflow's tables under another name, so that one that is killed leaves no half of them.

    MLflow refuses a database whose tables are not all there. The file is left in WAL mode, which
    lets the UI read while the mirror writes.
    """
    new = path.with_name(f".{path.name}.new")
    for old in path.parent.glob(f"{new.name}*"):
        old.unlink()
    store = SqlAlchemyStore(f"sqlite:///{new}", (path.parent / "mlartifacts").as_uri())
    store.engine.dispose()
    with closing(sqlite3.connect(new)) as database:
        database.execute("PRAGMA journal_mode=WAL")
    new.replace(path)
