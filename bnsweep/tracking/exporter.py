"""One ledger told to one tracking store: which run shows what, and when it is complete."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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

_CURVES = "curves.parquet"


class _Sent(NamedTuple):
    """What of one metric was sent while its trial was not done: so many points, the last at a step."""

    points: int
    step: int


class Exporter:
    """Writes one ledger into one tracking store; every call may be repeated.

    Making one connects, makes the experiment and the parent run where absent, and looks up all runs
    of the sweep.

    Args:
        ledger: The sweep.
        uri: Tracking URI.
        live: Whether the sweep is being run, so that its run is shown as going on.
    """

    def __init__(self, ledger: Ledger, uri: str, live: bool = False) -> None:
        self._ledger = ledger
        self._sent: dict[str, dict[str, _Sent]] = {}
        self._latest = 0
        artifacts = local_folder(ledger.root.parent).resolve() / "mlartifacts" / ledger.name
        self._runs = RunTable(uri, ledger.name, ledger.id, artifacts)
        plan = ledger.plan()
        description = describe(plan, self._runs.experiment_id)
        self._runs.describe(description)
        tags = {
            "bnsweep.kind": "sweep",
            "bnsweep.trials": str(len(plan["trials"])),
            MLFLOW_RUN_NOTE: description,
        }
        if self._runs.parent is None:
            began = min(map(start_ms, ledger.records()), default=int(time.time() * 1000))
            self._runs.create(ledger.name, tags, began)
        else:
            self._runs.write(self._parent, tags=tags)
        self._runs.adopt(self._parent)
        for name in ("plan.json", "sweep.yaml", "environment.json"):
            if (ledger.root / name).exists():
                self._runs.upload(self._parent, ledger.root / name)
        if live:
            self._runs.reopen(self._parent)

    @property
    def _parent(self) -> OurRun:
        if self._runs.parent is None:
            raise RuntimeError("the sweep's run was not made")
        return self._runs.parent

    def _child(self, key: str, label: str, tags: Mapping[str, str], start: int) -> tuple[OurRun, bool]:
        """Return the run of a trial or condition, and whether it was made now, with ``tags``."""
        table = self._runs.trials if tags["bnsweep.kind"] == "trial" else self._runs.conditions
        if key in table:
            return table[key], False
        self._runs.reopen(self._parent)
        return self._runs.create(label, {**tags, MLFLOW_PARENT_RUN_ID: self._parent.run_id}, start), True

    def _unsent(self, trial_id: str, readings: Sequence[Reading]) -> list[Reading]:
        """Return the readings that this process has not sent."""
        sent = self._sent.get(trial_id, {})
        old = [one for one in readings if one.name in sent and one.step <= sent[one.name].step]
        counts = Counter(one.name for one in old)
        whole = {name for name, before in sent.items() if counts[name] == before.points}
        return [one for one in readings if one.name not in whole or one.step > sent[one.name].step]

    def send_live(self, trial: PlannedTrial, rows: Sequence[CurveRow]) -> None:
        """Send sealed readings of a trial that is not done yet."""
        if not rows:
            return
        tags = trial_tags(trial.config, trial.trial_id, "running")
        run, new = self._child(trial.trial_id, trial.label, tags, rows[0].time_ms)
        sent = self._sent.setdefault(trial.trial_id, {})
        readings = [
            one for one in headline(rows)[0] if one.name not in sent or one.step > sent[one.name].step
        ]
        self._runs.write(run, readings, params(trial.config.parameters), {} if new else tags)
        for one in readings:
            before = sent.get(one.name, _Sent(0, -1))
            sent[one.name] = _Sent(before.points + 1, max(before.step, one.step))
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
        self._latest = max(self._latest, milliseconds(record.written_at))
        known = self._runs.trials.get(trial_id)
        if known and known.shows(record.curves_sha256) and self._runs.has_file(known, _CURVES):
            return True
        table = self._ledger.curves_of(record)
        if table is None:
            return False
        rows = [row for row in rows_of(table) if row.layer == 0]
        readings, infinite = headline(rows)
        if known and self._is_another(known, record, readings):
            self._replace(trial_id, known)
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
        given = params(record.parameters)
        refused = self._runs.write(run, self._unsent(trial_id, readings), given, {} if new else tags)
        if refused:
            self._runs.write(run, tags={"bnsweep.refused_values_left_out": str(refused)})
        self._runs.log_dataset(run, dataset_facts(record.config, record.data))
        self._runs.upload(run, self._ledger.curve_file(trial_id))
        if record.weights_sha256 and self._ledger.weights_file(trial_id).exists():
            self._runs.upload(run, self._ledger.weights_file(trial_id))
        self._runs.close(run, "FINISHED", milliseconds(record.written_at))
        self._sent.pop(trial_id, None)
        return True

    def _is_another(self, run: OurRun, record: Record, readings: Sequence[Reading]) -> bool:
        """Tell whether a run shows readings that the ledger does not hold: those of a lost attempt."""
        if run.exported or not run.has_metrics or not readings:
            return run.exported not in ("", record.curves_sha256)
        name = readings[0].name
        ours = {(one.step, max(0, one.time_ms)) for one in readings if one.name == name}
        return not self._runs.points(run, name) <= ours

    def _replace(self, key: str, run: OurRun) -> None:
        """Delete a run that shows something else, to make it anew: points cannot be taken back."""
        self._runs.delete(run)
        self._sent.pop(key, None)
        self._runs.trials.pop(key, None)
        self._runs.conditions.pop(key, None)

    def send_condition(self, condition: Condition) -> None:
        """Send the means over the seeds of a condition that is done."""
        key = condition.condition_id
        known = self._runs.conditions.get(key)
        if known and known.shows(condition.version):
            return
        if known and known.exported != condition.version:
            self._replace(key, known)
        tags = {"bnsweep.kind": "condition", "bnsweep.condition": key, EXPORTED: condition.version}
        run, new = self._child(key, condition.label, tags, condition.start_ms)
        self._runs.write(run, condition.readings, params(condition.parameters), {} if new else tags)
        self._runs.close(run, "FINISHED", condition.end_ms)

    def send_failure(self, trial: PlannedTrial, failures: Sequence[Mapping[str, Any]]) -> None:
        """Send a trial whose last attempt failed, with the tracebacks."""
        times = [milliseconds(str(item["written_at"])) for item in failures if item.get("written_at")]
        times = times or [int(time.time() * 1000)]
        self._latest = max(self._latest, times[-1])
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
        """Close the parent run and every run left open: nothing stays RUNNING, nothing is double.

        Args:
            done: Planned trials with a record.
            failed: Trials that failed.
            planned: Trials of the plan.
        """
        if self._runs.doubted:
            self._runs.look_up()
        for run in (*self._runs.trials.values(), *self._runs.conditions.values()):
            if run.is_open:
                self._runs.close(run, "KILLED")
        status = "FINISHED" if done >= planned else "FAILED" if done + failed >= planned else "KILLED"
        counts = {"bnsweep.trials_done": str(done), "bnsweep.trials_failed": str(failed)}
        self._runs.write(self._parent, tags=counts)
        self._runs.close(self._parent, status, self._latest or None)
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
