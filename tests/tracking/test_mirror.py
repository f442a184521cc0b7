"""The mirror: MLflow shows what the ledger says, however often it is told and whatever dies."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import create_engine, text

from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import Record
from bnsweep.tracking import Summary, check_uri, start_mirror, start_ui, sync
from bnsweep.tracking.content import Reading
from bnsweep.tracking.exporter import Exporter
from bnsweep.tracking.mirror import Mirror
from bnsweep.tracking.orders import Orders
from bnsweep.tracking.runs import RunTable
from bnsweep.tracking.stores import connect
from bnsweep.tracking.ui import free_port
from bnsweep.trial import TrialState
from tests.tracking.dumps import files, rows, shown

Complete = Any

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def mirror_once(ledger: Ledger, uri: str, seconds: float = 30) -> dict[str, Any]:
    orders = Orders(follow=False)
    orders.finish(seconds)
    return Mirror(Ledger(ledger.root), uri, orders).run()


def all_runs(uri: str, kind: str | None = None) -> list[Run]:
    client = connect(uri)
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id], "", ViewType.ACTIVE_ONLY, 1000)
    return [run for run in runs if kind in (None, run.data.tags["bnsweep.kind"])]


def contents(uri: str) -> dict[str, Any]:
    """Everything that MLflow shows of the sweep, without ids and clocks."""
    client, shown = connect(uri), {}
    for run in all_runs(uri):
        points = {
            name: [
                (m.step, repr(m.value), m.timestamp) for m in client.get_metric_history(run.info.run_id, name)
            ]
            for name in run.data.metrics
        }
        files = sorted(item.path for item in client.list_artifacts(run.info.run_id))
        tags = {key: value for key, value in run.data.tags.items() if key.startswith("bnsweep.")}
        key = f"{tags['bnsweep.kind']} {run.info.run_name}"
        assert key not in shown, "two runs for one thing"
        shown[key] = (run.info.status, run.data.params, tags, points, files)
    return shown


def artifact(run: Run, name: str) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://")) / name


def test_a_trial_is_shown_in_full(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete()
    assert mirror_once(ledger, uri) == {"exported": 4, "pending": 0, "error": ""}
    (parent,) = all_runs(uri, "sweep")
    run = next(run for run in all_runs(uri, "trial") if run.info.run_name == "batch lr=0.1 seed=1")
    config = complete.configs[1]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.tags["bnsweep.trial_id"] == config.trial_id
    assert run.data.tags["bnsweep.condition"] == config.condition_id
    assert run.data.tags["bnsweep.state"] == "completed"
    assert (run.info.status, run.info.start_time) == ("FINISHED", complete.start_ms)
    assert run.info.end_time == complete.start_ms + 60_000
    assert run.data.params.keys() == config.parameters.keys()
    assert (run.data.params["lr"], run.data.params["norm"], run.data.params["affine"]) == (
        "0.1",
        "batch",
        "true",
    )
    history = connect(uri).get_metric_history(run.info.run_id, "ics/l2")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (row.step, row.value, row.time_ms)
        for row in complete.rows(config)
        if (row.name, row.layer) == ("ics/l2", 0)
    ]
    assert set(run.data.metrics) == {"train_loss", "test_accuracy", "ics/l2"}
    table = pyarrow.parquet.read_table(artifact(run, "curves.parquet"))
    assert len(table) == len(complete.rows(config)) and set(table["layer"].to_pylist()) == {0, 1, 2}
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, json.loads(used.dataset.profile)["train"]) == ("digits", 1437)
    assert config.fingerprint.startswith(used.dataset.digest) or not config.fingerprint


def test_a_diverged_trial_is_an_outcome_without_infinities(
    ledger: Ledger, uri: str, complete: Complete
) -> None:
    complete(3)
    mirror_once(ledger, uri)
    (run,) = all_runs(uri, "trial")
    assert run.info.status == "FINISHED"
    assert (run.data.tags["bnsweep.state"], run.data.tags["bnsweep.diverged_step"]) == ("diverged", "0")
    assert run.data.tags["bnsweep.infinite_readings_left_out"] == "1"
    assert set(run.data.metrics) == {"ics/l2"} and math.isnan(run.data.metrics["ics/l2"])


def test_the_parent_run_describes_the_sweep(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete()
    report = ledger.report_dir / "figures"
    report.mkdir(parents=True)
    (report / "ics.png").write_bytes(b"png")
    (ledger.report_dir / "index.html").write_text("<html>")
    mirror_once(ledger, uri)
    (parent,) = all_runs(uri, "sweep")
    assert (parent.info.run_name, parent.info.status) == ("demo", "FINISHED")
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("Does normalization help?") and "bnsweep.kind` = 'condition'" in note
    for name in ("plan.json", "sweep.yaml", "report/index.html", "report/figures/ics.png"):
        assert artifact(parent, name).exists(), name


def test_conditions_aggregate_their_seeds(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete()
    mirror_once(ledger, uri)
    runs = {run.info.run_name: run for run in all_runs(uri, "condition")}
    assert set(runs) == {"batch lr=0.1", "none lr=0.1"}
    batch, none = runs["batch lr=0.1"].data, runs["none lr=0.1"].data
    assert batch.metrics == pytest.approx(
        {
            "n": 2, "diverged_fraction": 0, "train_loss_mean": 0.1, "train_loss_sd": 0,
            "test_accuracy_mean": 0.75, "test_accuracy_sd": math.sqrt(0.005),
        }
    )  # fmt: skip
    assert none.metrics["diverged_fraction"] == 0.5
    assert none.metrics["test_accuracy_mean"] == pytest.approx((0.7 + 0.1) / 2)
    assert none.metrics["train_loss_mean"] == pytest.approx((0.1 + math.log(10)) / 2)
    assert "seed" not in batch.params and batch.params["norm"] == "batch"


def test_a_condition_appears_with_its_last_seed(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete(0)
    assert mirror_once(ledger, uri)["exported"] == 1
    assert all_runs(uri, "condition") == []
    assert all_runs(uri, "sweep")[0].info.status == "KILLED"
    complete(1)
    mirror_once(ledger, uri)
    assert [run.info.run_name for run in all_runs(uri, "condition")] == ["batch lr=0.1"]
    assert len(all_runs(uri, "sweep")) == 1


def test_repeating_changes_nothing(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete()
    mirror_once(ledger, uri)
    first = contents(uri)
    for _ in range(2):
        assert mirror_once(ledger, uri)["pending"] == 0
        assert contents(uri) == first
    shutil.rmtree(ledger.tracking_dir)
    mirror_once(ledger, uri)
    assert contents(uri) == first


def test_sending_over_a_half_sent_run_doubles_nothing(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete()
    mirror_once(ledger, uri)
    first = contents(uri)
    client = connect(uri)
    for run in all_runs(uri):
        client.update_run(run.info.run_id, "RUNNING")
    mirror_once(ledger, uri)
    assert contents(uri) == first


def test_a_second_run_of_one_trial_is_removed(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete(0)
    mirror_once(ledger, uri)
    (run,) = all_runs(uri, "trial")
    tags = {name: run.data.tags[name] for name in ("bnsweep.kind", "bnsweep.trial_id", "mlflow.parentRunId")}
    connect(uri).create_run(run.info.experiment_id, None, tags, "again")
    mirror_once(ledger, uri)
    assert [found.info.run_id for found in all_runs(uri, "trial")] == [run.info.run_id]


def test_deleted_runs_and_experiments_come_back(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete()
    mirror_once(ledger, uri)
    first = contents(uri)
    client = connect(uri)
    for run in all_runs(uri, "trial")[:2]:
        client.delete_run(run.info.run_id)
    client.delete_experiment(run.info.experiment_id)
    mirror_once(ledger, uri)
    assert {key: value[0] for key, value in contents(uri).items()} == {key: v[0] for key, v in first.items()}


def test_a_failed_trial_is_failed_until_it_succeeds(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete(1, 2, 3)
    ledger.write_failure(complete.configs[0].trial_id, "ZeroDivisionError: division by zero")
    mirror_once(ledger, uri)
    run = next(run for run in all_runs(uri, "trial") if run.info.run_name == "batch lr=0.1 seed=0")
    assert (run.info.status, run.data.tags["bnsweep.state"]) == ("FAILED", "failed")
    assert "ZeroDivisionError" in artifact(run, "failure.1.json").read_text()
    assert all_runs(uri, "sweep")[0].info.status == "FAILED"
    complete(0)
    mirror_once(ledger, uri)
    (again,) = [found for found in all_runs(uri, "trial") if found.info.run_id == run.info.run_id]
    assert (again.info.status, again.data.tags["bnsweep.state"]) == ("FINISHED", "completed")
    assert all_runs(uri, "sweep")[0].info.status == "FINISHED"


def test_a_damaged_trial_is_left_out(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete()
    path = ledger.curve_file(complete.configs[0].trial_id)
    path.write_bytes(b"x" * path.stat().st_size)
    assert mirror_once(ledger, uri) == {"exported": 3, "pending": 0, "error": ""}
    assert len(all_runs(uri, "trial")) == 3


def test_a_bad_value_never_loses_the_others(ledger: Ledger, uri: str, complete: Complete) -> None:
    config = complete.configs[0]
    names = ["../x", "a" * 300, "b" * 299 + "c", "loss (nats)", "test_accuracy", "/", ""]
    rows: list[Any] = [(0, name, 0, float(index), complete.start_ms) for index, name in enumerate(names)]
    rows += [
        (1, "nan", 0, math.nan, complete.start_ms),
        (1, "inf", 0, 1e400, complete.start_ms),
        (2, "t", 0, 1.0, -5),
    ]
    rows += [(3, f"many/{index}", 0, 1.0, complete.start_ms) for index in range(10_000)]
    record = Record.of(config, TrialState.COMPLETED, 3, {})
    ledger.write_record(record, rows)
    complete(1, 2, 3)
    assert mirror_once(ledger, uri) == {"exported": 4, "pending": 0, "error": ""}
    run = next(r for r in all_runs(uri, "trial") if r.data.tags["bnsweep.trial_id"] == config.trial_id)
    assert len(run.data.metrics) == 10_000 + len(names) + 2
    assert run.data.metrics["test_accuracy"] == 4.0 and math.isnan(run.data.metrics["nan"])
    finite = sorted(value for value in run.data.metrics.values() if not math.isnan(value))
    assert finite[-3:] == [4.0, 5.0, 6.0] and "inf" not in run.data.metrics
    assert run.data.tags["bnsweep.infinite_readings_left_out"] == "1"


def test_what_a_store_refuses_is_left_out_alone(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete(0)
    mirror_once(ledger, uri)
    table = RunTable(uri, "demo", ledger.id, ledger.root)
    (run,) = table.trials.values()
    readings = [Reading("../bad" if step in (3, 77) else "good", 1.0, 5, step) for step in range(100)]
    assert table.write(run, readings, tags={"k" * 300: "refused", "fine": "tag"}) == 3
    (shown,) = all_runs(uri, "trial")
    assert len(connect(uri).get_metric_history(shown.info.run_id, "good")) == 98
    assert shown.data.tags["fine"] == "tag"


def test_ten_syncs_leave_every_table_and_file_as_they_are(
    ledger: Ledger, uri: str, complete: Complete
) -> None:
    complete(1, 2, 3)
    ledger.write_failure(complete.configs[0].trial_id, "ZeroDivisionError: division by zero")
    mirror_once(ledger, uri)
    folder = ledger.root.parent / "mlartifacts"
    before = rows(uri), files(folder)
    assert len(before[0]["metrics"]) > 20 and len(before[1]) > 5
    for _ in range(10):
        assert mirror_once(ledger, uri)["pending"] == 0
        assert (rows(uri), files(folder)) == before


def test_whatever_is_deleted_by_hand_comes_back(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete()
    mirror_once(ledger, uri)
    first = shown(uri, "demo")
    client = connect(uri)
    (parent,) = all_runs(uri, "sweep")
    trials = all_runs(uri, "trial")

    def again() -> dict[str, Any]:
        assert mirror_once(ledger, uri) == {"exported": 4, "pending": 0, "error": ""}
        (under,) = {
            run.data.tags["mlflow.parentRunId"]
            for run in [*all_runs(uri, "trial"), *all_runs(uri, "condition")]
        }
        assert [under] == [run.info.run_id for run in all_runs(uri, "sweep")]
        return shown(uri, "demo")

    client.delete_run(trials[0].info.run_id)
    client.delete_run(parent.info.run_id)
    assert again() == first
    client.delete_experiment(parent.info.experiment_id)
    assert again() == first
    for run in trials[1:]:
        client.delete_run(run.info.run_id)
    store = SqlAlchemyStore(uri, "")
    for run in trials:
        store._hard_delete_run(run.info.run_id)  # as mlflow gc does
    shutil.rmtree(artifact(trials[2], "curves.parquet").parent)
    assert again() == first
    client.delete_experiment(parent.info.experiment_id)
    store._hard_delete_experiment(parent.info.experiment_id)
    assert again() == first


def test_what_a_user_adds_to_a_run_stays_and_does_no_harm(
    ledger: Ledger, uri: str, complete: Complete
) -> None:
    complete(0)
    ledger.write_pack("abc1", {"trials": []})
    config = complete.configs[1]
    ledger.seal_readings("abc1", 1, {config.trial_id: complete.rows(config, until=10)})
    live = Mirror(Ledger(ledger.root), uri, Orders(follow=True))
    live._connect()
    live._cycle()
    client = connect(uri)
    for run in all_runs(uri, "trial"):
        client.log_param(run.info.run_id, "note", "mine")
        client.log_metric(run.info.run_id, "my_metric", 3.0, 1, 1)
        client.set_tag(run.info.run_id, "mine", "too")
        client.update_run(run.info.run_id, name=f"renamed {run.info.run_name}")
    complete(1, 2, 3)
    assert mirror_once(ledger, uri) == {"exported": 4, "pending": 0, "error": ""}
    mine = [run for run in all_runs(uri, "trial") if run.data.tags.get("mine") == "too"]
    assert len(mine) == 2 and len(all_runs(uri, "trial")) == 4
    for run in mine:
        assert run.data.params["note"] == "mine" and run.data.params["lr"] == "0.1"
        assert run.data.metrics["my_metric"] == 3.0 and len(run.data.params) == len(config.parameters) + 1
        assert run.info.run_name.startswith("renamed") and run.info.status == "FINISHED"


def test_readings_of_a_lost_attempt_do_not_stay_beside_the_others(
    ledger: Ledger, uri: str, complete: Complete
) -> None:
    config = complete.configs[1]
    ledger.write_pack("abc1", {"trials": []})
    early = [row._replace(time_ms=row.time_ms - 77_777) for row in complete.rows(config, until=10)]
    ledger.seal_readings("abc1", 1, {config.trial_id: early})
    live = Mirror(Ledger(ledger.root), uri, Orders(follow=True))
    live._connect()
    live._cycle()
    ledger.close_pack("abc1")  # lost, and trained anew
    complete(1)
    mirror_once(ledger, uri)
    (run,) = all_runs(uri, "trial")
    history = connect(uri).get_metric_history(run.info.run_id, "test_accuracy")
    assert [(point.step, point.timestamp) for point in history] == [
        (row.step, row.time_ms) for row in complete.rows(config) if row.name == "test_accuracy"
    ]


def test_two_sweeps_of_one_name_are_two_experiments(full_ledger: Any, uri: str) -> None:
    one, other = full_ledger("twin", "mine"), full_ledger("twin", "yours")
    for ledger in (one, other, one):
        assert mirror_once(ledger, uri)["exported"] == 4
    first = shown(uri, "twin", None)
    second = shown(uri, f"twin ({other.id[:6]})", None)
    assert first == second and len(first) == 7
    assert one.id != other.id


def test_results_that_moved_take_their_artifacts_along(
    ledger: Ledger, uri: str, complete: Complete, tmp_path: Path
) -> None:
    complete(0, 1)
    mirror_once(ledger, uri)
    moved = ledger.root.parent.rename(tmp_path / "elsewhere")
    there = Ledger(moved / "demo")
    type(complete)(there)(2, 3)
    new_uri = f"sqlite:///{moved / 'mlflow.db'}"
    assert mirror_once(there, new_uri)["exported"] == 4
    assert not (tmp_path / "results").exists()
    assert all(artifact(run, "curves.parquet").exists() for run in all_runs(new_uri, "trial"))


def test_a_description_of_any_length_is_shown(ledger: Ledger, uri: str, complete: Complete) -> None:
    ledger.write_sweep("name: demo\n", {**ledger.plan(), "description": "Why? " * 20_000})
    complete()
    assert mirror_once(ledger, uri)["pending"] == 0
    assert all_runs(uri, "sweep")[0].data.tags["mlflow.note.content"].startswith("Why? Why?")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_live_readings_then_a_killed_mirror_then_sync(ledger: Ledger, uri: str, complete: Complete) -> None:
    complete(0)
    ledger.write_pack("abc1", {"trials": []})
    ledger.seal_readings(
        "abc1", 1, {complete.configs[1].trial_id: complete.rows(complete.configs[1], until=10)}
    )
    mirror = start_mirror(ledger.root, uri)
    deadline = time.monotonic() + 200

    def live() -> list[dict[str, float]]:
        return [run.data.metrics for run in open_trials(uri) if run.info.run_name == "batch lr=0.1 seed=1"]

    while time.monotonic() < deadline and mirror.alive() and "test_accuracy" not in (live() or [{}])[0]:
        time.sleep(0.5)
    assert mirror.alive(), mirror.log.read_text()
    (metrics,) = live()
    assert metrics["test_accuracy"] == 0.6
    os.kill(mirror.pid, signal.SIGKILL)
    summary = mirror.finish(200)  # starts it again
    assert (summary.exported, summary.complete) == (1, True), summary
    ledger.close_pack("abc1")
    complete(1, 3)
    summary = sync(ledger.root, uri)
    assert (summary.exported, summary.pending, summary.error) == (3, 0, "")
    shown = contents(uri)
    assert sum(key.startswith("trial") for key in shown) == 3
    assert {value[0] for value in shown.values()} == {"FINISHED", "KILLED"}
    points = shown["trial batch lr=0.1 seed=1"][3]["test_accuracy"]
    assert [step for step, _, _ in points] == [0, 10, 20]


def open_trials(uri: str) -> list[Run]:
    client = connect(uri)
    if client.get_experiment_by_name("demo") is None:
        return []
    return [run for run in all_runs(uri, "trial") if run.info.status == "RUNNING"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_goes_away_costs_nothing_but_time(
    ledger: Ledger, uri: str, tmp_path: Path, complete: Complete
) -> None:
    server = start_ui(uri, tmp_path, free_port(0))
    assert not isinstance(server, str)
    complete(0, 1)
    try:
        server.wait_ready()
        check_uri(server.url)
        assert start_ui(server.url, tmp_path) == server.url
        assert mirror_once(ledger, server.url) == {"exported": 2, "pending": 0, "error": ""}
        names = {run.info.run_name for run in all_runs(server.url)}
        assert names == {"demo", "batch lr=0.1", "batch lr=0.1 seed=0", "batch lr=0.1 seed=1"}
        (run,) = [r for r in all_runs(server.url, "trial") if r.info.run_name.endswith("seed=1")]
        listed = MlflowClient(server.url).list_artifacts(run.info.run_id)
        assert [item.path for item in listed] == ["curves.parquet"]
    finally:
        server.stop()
    complete(2)
    start = time.monotonic()
    summary = mirror_once(ledger, server.url, seconds=3)
    assert time.monotonic() - start < 30
    assert (summary["exported"], summary["pending"]) == (2, 1) and summary["error"]


def test_a_trial_costs_the_store_four_calls(
    ledger: Ledger, uri: str, complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One creation, one data set, one batch, one end; a trial sent again costs none."""
    calls: list[str] = []

    def counted(name: str) -> Any:
        real = getattr(SqlAlchemyStore, name)

        def call(store: SqlAlchemyStore, *arguments: Any, **named: Any) -> Any:
            calls.append(name)
            return real(store, *arguments, **named)

        return call

    public = ("create_run", "get_run", "log_batch", "log_inputs", "log_metric", "log_param", "search_runs")
    for name in (*public, "set_tag", "update_run_info"):
        monkeypatch.setattr(SqlAlchemyStore, name, counted(name))
    exporter = Exporter(ledger, uri)
    complete()
    records = list(ledger.records())
    calls.clear()
    for record in records:
        assert exporter.send_trial(record, "")
    assert Counter(calls) == dict.fromkeys(
        ("create_run", "log_inputs", "log_batch", "update_run_info"), len(records)
    )
    calls.clear()
    assert all(exporter.send_trial(record, "") for record in records) and not calls


def test_sqlite_is_flushed_at_checkpoints_only_in_wal_mode(tmp_path: Path, uri: str) -> None:
    connect(uri)
    for mode, level in (("wal", 1), ("delete", 2)):
        engine = create_engine(f"sqlite:///{tmp_path}/{mode}.db")
        with closing(sqlite3.connect(tmp_path / f"{mode}.db")) as database:
            database.execute(f"PRAGMA journal_mode={mode}")
        with engine.connect() as connection:
            assert connection.execute(text("PRAGMA synchronous")).scalar() == level
        engine.dispose()


def test_the_mapping_is_written_the_less_often_the_longer_it_takes(
    ledger: Ledger, uri: str, complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr("bnsweep.tracking.mirror._SAVE_SHARE", 1e9)
    monkeypatch.setattr(
        "bnsweep.tracking.mirror.write_mapping",
        lambda ledger, uri, runs: written.append(len(runs["trials"])) or time.sleep(1e-3),
    )
    mirror = Mirror(Ledger(ledger.root), uri, Orders(follow=False))
    mirror._connect()
    for index in range(len(complete.configs)):
        complete(index)
        mirror._cycle()
    assert written == [1]
    mirror._end(False)
    assert written == [1, len(complete.configs)]


def test_the_driver_does_not_import_mlflow(ledger: Ledger) -> None:
    code = (
        "import sys; from bnsweep.tracking import start_mirror, sync, check_uri, start_ui\n"
        "from bnsweep.tracking import default_uri\n"
        f"check_uri(default_uri({str(ledger.root.parent)!r}))\n"
        "print(sorted({'mlflow', 'pyarrow', 'pandas', 'torch', 'ray'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (Summary(4, 0, "sqlite:///x"), "4 trials are in MLflow at sqlite:///x"),
        (Summary(1, 3, "http://h", "gone"), "3 trials not exported to http://h (gone); run bnsweep sync"),
    ],
    ids=["complete", "pending"],
)
def test_a_summary_is_one_line(summary: Summary, text: str) -> None:
    assert str(summary) == text


def test_verdicts_are_tags_and_metrics_of_the_sweeps_run(
    ledger: Ledger, uri: str, complete: Complete
) -> None:
    complete()
    ledger.report_dir.mkdir(parents=True, exist_ok=True)
    made = {"verdict": "supported", "reason": "", "numbers": {"effect": 1.5, "p_supported": 0.004}}
    content = {
        "hash": "a1", "last_record": "2026-01-31T12:00:00.000Z",
        "verdicts": {"lr_robustness width=0.5": made},
    }  # fmt: skip
    (ledger.report_dir / "verdicts.json").write_text(json.dumps(content))
    for _ in range(2):
        mirror_once(ledger, uri)
    (parent,) = all_runs(uri, "sweep")
    assert parent.data.tags["bnsweep.verdict.lr_robustness_width_0.5"] == "supported"
    assert parent.data.tags["bnsweep.claims_hash"] == "a1"
    assert parent.data.metrics["claim/lr_robustness_width_0.5/effect"] == 1.5
    # what somebody types into the search box of MLflow
    client = MlflowClient(uri)
    everywhere = [one.experiment_id for one in client.search_experiments()]
    for query, count in (
        ("tags.`bnsweep.verdict.lr_robustness_width_0.5` = 'supported'", 1),
        ("tags.`bnsweep.verdict.lr_robustness_width_0.5` = 'refuted'", 0),
        ("metrics.`claim/lr_robustness_width_0.5/effect` > 1", 1),
        ("metrics.`claim/lr_robustness_width_0.5/effect` > 2", 0),
    ):
        assert len(client.search_runs(everywhere, query)) == count
