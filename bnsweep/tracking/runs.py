"""Runs in a tracking store: found by their tags, made, written to, closed.

Every call may be repeated: a run is looked up before it is made, MLflow stores equal points once,
artifacts replace each other. Making a run is the one call that may not: where its answer was lost,
the run is looked for by its tag, and at the end once more.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from bnsweep.sweep.files import on_disk
from bnsweep.sweep.places import Place
from bnsweep.tracking.content import DatasetFacts, Reading
from bnsweep.tracking.failures import Failure, kind_of, repeated
from bnsweep.tracking.names import LONGEST_NAME, clipped
from bnsweep.tracking.stores import connect, move_artifacts
from bnsweep.tracking.uris import sqlite_path

__all__ = ["EXPORTED", "OurRun", "RunTable"]

EXPORTED = "bnsweep.exported"
"""Tag that says which version of a trial or condition a run shows, once it is FINISHED."""

_LEDGER = "bnsweep.ledger"
_OPEN = ("RUNNING", "SCHEDULED")
_PAGE = 1000
_PARAM_SETS: dict[frozenset[str], frozenset[str]] = {}


@dataclass
class OurRun:
    """What is known of one of our runs.

    Attributes:
        run_id: MLflow's id.
        artifact_uri: Where its artifacts go.
        status: MLflow's word for how it stands.
        exported: Value of the tag :data:`EXPORTED`.
        params: Names of the parameters that it has.
        end_ms: When it ended, if it did.
        parent: Id of the run it is shown under.
        has_metrics: Whether some reading was sent.
    """

    run_id: str
    artifact_uri: str
    status: str
    exported: str = ""
    params: frozenset[str] = frozenset()
    end_ms: int | None = None
    parent: str = ""
    has_metrics: bool = False

    @classmethod
    def of(cls, run: Run) -> OurRun:
        """Take what we need of MLflow's own object."""
        info, tags = run.info, run.data.tags
        names = frozenset(run.data.params)
        return cls(
            info.run_id,
            info.artifact_uri,
            info.status,
            tags.get(EXPORTED, ""),
            _PARAM_SETS.setdefault(names, names),
            info.end_time,
            tags.get(MLFLOW_PARENT_RUN_ID, ""),
            bool(run.data.metrics),
        )

    @property
    def is_open(self) -> bool:
        """Whether MLflow shows it as going on."""
        return self.status in _OPEN

    def shows(self, version: str) -> bool:
        """Whether it shows a version of a trial or condition in full."""
        return self.exported == version and self.status == "FINISHED"


class RunTable:
    """The runs of one sweep in one store.

    Args:
        uri: Tracking URI.
        name: The experiment's name; it is made where absent and brought back where deleted.
        ledger_id: Tells apart sweeps of one name: the second to come has a few digits of it in the
            experiment's name. Empty for a ledger that has none: such a one takes what is there.
        artifacts: Folder of artifacts for a store that has none of its own.

    Attributes:
        experiment_id: MLflow's id of the experiment.
        parent: The sweep's run, where there is one.
        trials: Runs of trials by trial id.
        conditions: Runs of conditions by condition id.
        doubted: Whether a run was asked for and the answer got lost, so that there may be two.
    """

    def __init__(self, uri: str, name: str, ledger_id: str, artifacts: Path) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._client = connect(uri)
        location = None if uri.startswith("http") else artifacts.as_uri()
        self.experiment_id = self._find_experiment(name, ledger_id, location)
        self.parent: OurRun | None = None
        self.trials: dict[str, OurRun] = {}
        self.conditions: dict[str, OurRun] = {}
        self.doubted = False
        self.look_up()

    # -- the experiment --------------------------------------------------------------------------

    def _find_experiment(self, name: str, ledger_id: str, location: str | None) -> str:
        """Return the experiment's id; its kind makes the UI open on training, not on language models."""
        tags = {"mlflow.experimentKind": "custom_model_development", _LEDGER: ledger_id}
        for called in (name, f"{name} ({ledger_id[:6]})"):
            experiment = self._client.get_experiment_by_name(called)
            if experiment is None:
                return str(self._client.create_experiment(called, location, tags))
            if not ledger_id or experiment.tags.get(_LEDGER) in (None, "", ledger_id):
                break
        if experiment.lifecycle_stage != "active":
            self._client.restore_experiment(experiment.experiment_id)
        if ledger_id and not experiment.tags.get(_LEDGER):
            self._client.set_experiment_tag(experiment.experiment_id, _LEDGER, ledger_id)
        self._follow_artifacts(experiment, location)
        return str(experiment.experiment_id)

    def _follow_artifacts(self, experiment: Any, location: str | None) -> None:
        """Find artifacts where they lie now, where results and database were moved together."""
        database, old = sqlite_path(self._client.tracking_uri), experiment.artifact_location
        if database is None or location is None or old == location or not old.startswith("file:"):
            return
        if not _local(old).exists():
            move_artifacts(database, experiment.experiment_id, old, location)

    def describe(self, text: str) -> None:
        """Set the experiment's description, Markdown."""
        repeated(lambda: self._client.set_experiment_tag(self.experiment_id, MLFLOW_RUN_NOTE, text))

    # -- finding runs ----------------------------------------------------------------------------

    def look_up(self) -> None:
        """Find our runs by their tags; of several for one thing keep the best, and delete the others."""
        known = {run.run_id for run in (self.parent, *self.trials.values(), *self.conditions.values()) if run}
        found: dict[tuple[str, str], list[OurRun]] = {}
        for run in self._search(""):
            kind, key = _identity(run.data.tags)
            if key:
                found.setdefault((kind, key), []).append(OurRun.of(run))
        shown_under = Counter(run.parent for own in found.values() for run in own)
        self.parent, self.trials, self.conditions = None, {}, {}
        for (kind, key), runs in found.items():
            runs.sort(key=lambda run: _rank(run, known, shown_under))
            for double in runs[1:]:
                self.delete(double)
            self._put(kind, key, runs[0])
        self.doubted = False

    def _search(self, filter_string: str) -> Iterator[Run]:
        """Return the experiment's active runs, oldest first."""
        order, token = ["attributes.start_time ASC", "attributes.run_id ASC"], None
        while True:
            page = repeated(
                lambda token=token: self._client.search_runs(  # type: ignore[misc]
                    [self.experiment_id], filter_string, ViewType.ACTIVE_ONLY, _PAGE, order, token
                )
            )
            yield from page
            token = page.token
            if not token:
                return

    def _put(self, kind: str, key: str, run: OurRun) -> None:
        if kind == "sweep":
            self.parent = run
        else:
            (self.trials if kind == "trial" else self.conditions)[key] = run

    def adopt(self, parent: OurRun) -> None:
        """Show every run under ``parent``, which is new where the one before was deleted."""
        for run in (*self.trials.values(), *self.conditions.values()):
            if run.parent != parent.run_id:
                self.write(run, tags={MLFLOW_PARENT_RUN_ID: parent.run_id})
                run.parent = parent.run_id

    # -- writing ---------------------------------------------------------------------------------

    def create(self, name: str, tags: Mapping[str, str], start_ms: int) -> OurRun:
        """Make a run, with its tags in the same call, unless one was made whose making we did not hear of."""
        kind, key = _identity(tags)
        if self.doubted:
            tag = "bnsweep.kind" if kind == "sweep" else _KEYS[kind]
            value = kind if kind == "sweep" else key
            for found in self._search(f"tags.`bnsweep.kind` = '{kind}' and tags.`{tag}` = '{value}'"):
                run = OurRun.of(found)
                self.write(run, tags=tags)
                self._put(kind, key, run)
                return run
        try:
            run = self._client.create_run(
                self.experiment_id, max(0, start_ms), dict(tags), clipped(name, LONGEST_NAME)
            )
        except Exception:
            self.doubted = True
            raise
        made = OurRun(run.info.run_id, run.info.artifact_uri, "RUNNING", tags.get(EXPORTED, ""))
        made.parent = tags.get(MLFLOW_PARENT_RUN_ID, "")
        self._put(kind, key, made)
        return made

    def delete(self, run: OurRun) -> None:
        """Delete a run, as a user does in the UI."""
        repeated(lambda: self._client.delete_run(run.run_id))

    def write(
        self,
        run: OurRun,
        readings: Iterable[Reading] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> int:
        """Log readings, the parameters that the run lacks and tags, in batches.

        Returns:
            How many of them the store refused; the others are there.
        """
        metrics = [
            Metric(reading.name, reading.value, max(0, reading.time_ms), reading.step) for reading in readings
        ]
        given = [Param(name, value) for name, value in (params or {}).items() if name not in run.params]
        refused = self._log(
            run.run_id, metrics, given, [RunTag(name, value) for name, value in (tags or {}).items()]
        )
        run.params = run.params.union(params or ())
        run.params = _PARAM_SETS.setdefault(run.params, run.params)
        run.has_metrics = run.has_metrics or bool(metrics)
        run.exported = (tags or {}).get(EXPORTED, run.exported)
        return refused

    def _log(
        self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
    ) -> int:
        """Log a batch; where it is refused, by halves, until what is refused stands alone."""
        try:
            repeated(lambda: self._client.log_batch(run_id, metrics, params, tags))
        except Exception as error:
            if kind_of(error) is not Failure.REFUSED:
                raise
            if len(metrics) + len(params) + len(tags) == 1:
                return 1
            return sum(self._log(run_id, *part) for part in _halves(metrics, params, tags))
        return 0

    def points(self, run: OurRun, name: str) -> set[tuple[int, int]]:
        """Return the steps and times of a metric that a run has."""
        history = repeated(lambda: self._client.get_metric_history(run.run_id, name))
        return {(point.step, point.timestamp) for point in history}

    def log_dataset(self, run: OurRun, facts: DatasetFacts) -> None:
        """Log the data set that a run was trained on."""
        dataset = Dataset(facts.name, facts.digest, "bnsweep", facts.source, None, facts.profile)
        inputs = [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])]
        repeated(lambda: self._client.log_inputs(run.run_id, inputs))

    def upload(self, run: OurRun, path: Place, folder: str | None = None) -> None:
        """Upload a file, or all that is in a folder, and see that it is there.

        MLflow takes any answer with status 200 for success, also that of a proxy which asks for a login.
        """
        repository: Any = get_artifact_repository(run.artifact_uri, self._client.tracking_uri)

        def send(copy: Path) -> None:
            (repository.log_artifacts if copy.is_dir() else repository.log_artifact)(str(copy), folder)
            if run.artifact_uri.startswith("mlflow-artifacts:") and not copy.is_dir():
                there = {Path(item.path).name: item.file_size for item in repository.list_artifacts(folder)}
                if there.get(copy.name) != copy.stat().st_size:
                    raise ConnectionError(f"{copy.name} was sent to {run.run_id} and is not there")

        with on_disk(path) as copy:
            repeated(lambda: send(copy))

    def has_file(self, run: OurRun, name: str) -> bool:
        """Tell whether an artifact is there, as far as that costs no call."""
        if self._client.tracking_uri.startswith("http") or not run.artifact_uri.startswith("file:"):
            return True
        return (_local(run.artifact_uri) / name).exists()

    def reopen(self, run: OurRun) -> None:
        """Show a run as going on."""
        if not run.is_open:
            repeated(lambda: self._client.update_run(run.run_id, "RUNNING"))
            run.status = "RUNNING"

    def close(self, run: OurRun, status: str, end_ms: int | None = None) -> None:
        """Show a run as ended: FINISHED, FAILED or KILLED."""
        if run.status != status or end_ms not in (None, run.end_ms):
            repeated(lambda: self._client.set_terminated(run.run_id, status, end_ms))
            run.status, run.end_ms = status, end_ms

    def flush(self) -> None:
        """Move what lies in SQLite's write-ahead log into the file, so that it can be copied alone."""
        path = sqlite_path(self._client.tracking_uri)
        if path is not None:
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


_KEYS = {"trial": "bnsweep.trial_id", "condition": "bnsweep.condition"}


def _identity(tags: Mapping[str, str]) -> tuple[str, str]:
    """Return kind and key of a run of ours; an empty key for one that is not."""
    kind = tags.get("bnsweep.kind", "")
    return (kind, kind) if kind == "sweep" else (kind, tags.get(_KEYS.get(kind, ""), ""))


def _rank(run: OurRun, known: set[str], shown_under: Counter[str]) -> tuple[bool, int, bool]:
    """Return what sorts runs for one thing: complete, most runs under it, known to us."""
    complete = bool(run.exported) and run.status == "FINISHED"
    return not complete, -shown_under[run.run_id], run.run_id not in known


def _halves(*lists: Sequence[Any]) -> Iterator[tuple[Sequence[Any], ...]]:
    """Split the longest of some lists in two, or set them apart where none is longer than one."""
    longest = max(range(len(lists)), key=lambda index: len(lists[index]))
    half = max(1, len(lists[longest]) // 2)
    first = [own[:half] if index == longest else [] for index, own in enumerate(lists)]
    rest = [own[half:] if index == longest else own for index, own in enumerate(lists)]
    yield from (tuple(first), tuple(rest))


def _local(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
