"""A sweep whose results lie in an S3 bucket ends as one in a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.processes import MARK, kill, marked
from bnsweep import api
from bnsweep.cli import main
from bnsweep.runners import LocalRunner
from bnsweep.sweep.ledger import Ledger


def outcomes(ledger: Ledger) -> dict[str, str]:
    """Return what each trial's record and curves say, without times and places."""
    found = {}
    for record in ledger.records():
        table = ledger.curves_of(record)
        assert table is not None
        rows = table.drop_columns(["time_ms"]).to_pydict()
        kept = [record.state, record.steps, record.diverged_step, dict(record.readings), repr(rows)]
        found[record.trial_id] = json.dumps(kept, default=repr)
    assert ledger.warnings == []
    return found


def test_a_search_with_early_stopping_is_the_same_on_s3(
    tiny: dict[str, Any], s3: Any, tmp_path: Path
) -> None:
    tiny["parameters"]["lr"] = {"min": 0.01, "max": 1.0, "distribution": "log_uniform_values"}
    tiny |= {
        "method": "random",
        "search": {"num_trials": 4},
        "early_stop": {"type": "asha", "min_steps": 10, "eta": 2},
    }
    found = [api.run(tiny, runner=LocalRunner(), storage=place) for place in (s3.storage, str(tmp_path))]
    assert found[0].states == found[1].states and "stopped" in found[0].states
    remote, local = (Ledger(one.root) for one in found)
    assert outcomes(remote) == outcomes(local)
    seen = [[event["event"] for event in ledger.search_log.read()] for ledger in (remote, local)]
    assert seen[0] == seen[1] and "rung" in seen[0]
    assert not list((remote.root / "packs").iterdir())


def test_a_store_that_goes_away_is_waited_for_and_fails_no_trial(
    tiny: dict[str, Any], s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep.sweep import object_store

    tiny["resources"] = {"pack_size": 2, "kernel": "grouped"}
    monkeypatch.setattr(object_store, "PATIENCE_SECONDS", 0.5)
    real, tries, said = Ledger.write_records, [], []

    def away(self: Ledger, finished: Any) -> None:
        tries.append(finished)
        s3.faults(*[{"kind": "drop", "key": "record.json", "method": "PUT"}] * (len(tries) <= 4))
        real(self, finished)

    monkeypatch.setattr(Ledger, "write_records", away)
    outcome = api.run(tiny, runner=LocalRunner(), storage=s3.storage, say=said.append)
    assert outcome.exit_code == 0 and not outcome.errors
    assert len(tries) == 4 + 3  # three packs
    assert [line for line in said if line.startswith("paused: ") and "must answer" in line]
    assert "the storage takes what is written again: going on" in said
    ledger = Ledger(outcome.root)
    assert ledger.failed() == {} and ledger.pack_ids() == [] and len(ledger.done()) == 6


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_bucket_from_run_to_compare_with_a_driver_on_ray_killed_in_between(
    tiny: dict[str, Any], s3: Any, write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """run on Ray, SIGKILL, resume, status, report, sync, confirm, compare: as in a folder, not killed."""
    tiny["parameters"] |= {
        "norm": "batch", "lr": {"min": 0.01, "max": 1.0, "distribution": "log_uniform_values"}, "steps": 200,
    }  # fmt: skip
    tiny |= {"method": "random", "search": {"num_trials": 4}, "storage": s3.storage}
    tiny["resources"] = {"pack_size": 2, "kernel": "grouped", "max_concurrent": 2}
    tiny["tracking"] = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}
    mark = uuid.uuid4().hex
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), MARK: mark}
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "bnsweep", "run", str(write_sweep(tiny))], stdout=log, stderr=log,
            env=environment,
        )  # fmt: skip
    try:
        end = time.monotonic() + 400
        while not s3.seen(beginning=f"PUT /{s3.bucket}/some/prefix/tiny/trials/"):
            assert driver.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.02)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        kill(marked(mark))  # the workers and the mirror: a machine that went down
    url = f"{s3.storage}/tiny"
    ledger = Ledger(url)
    assert ledger.pack_ids() and len(ledger.done()) < 8, "it was killed too late"
    before = {record.trial_id: record.written_at for record in ledger.records()}
    assert main(["resume", url, "--in-process"]) == 0
    capsys.readouterr()
    found = Ledger(url)
    assert before.items() <= {one.trial_id: one.written_at for one in found.records()}.items()
    whole = api.run({**tiny, "tracking": {"uri": "none"}}, runner=LocalRunner(), storage=str(tmp_path / "f"))
    assert outcomes(found) == outcomes(Ledger(whole.root))

    assert main(["status", url, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], sum(status["states"].values())) == ("done", 8)
    assert main(["status", "--storage", s3.storage]) == 0
    assert main(["report", "tiny", "--storage", s3.storage]) == 0
    assert (found.root / "report" / "report.html").read_text().startswith("<!DOCTYPE html>")
    capsys.readouterr()
    assert main(["sync", url]) == 0
    assert "8 trials" in capsys.readouterr().out
    assert main(["confirm", url, "--top", "1", "--seeds", "2", "--in-process"]) == 0
    capsys.readouterr()
    assert main(["compare", url, "tiny-confirm", "--storage", s3.storage]) in (0, 2)
    assert main(["compare", f"{url}:batch", f"{url}:batch"]) == 0
    assert "paired by seed" in capsys.readouterr().out
    assert not list((found.root / "packs").iterdir())
