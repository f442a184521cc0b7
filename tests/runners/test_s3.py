"""A sweep whose results lie in an S3 bucket: every verb, and the same table as in a folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
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
    return found


def bnsweep(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bnsweep", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=cwd)


def test_every_verb_works_on_a_url(tiny: dict[str, Any], write_sweep: Any, s3: Any, tmp_path: Path) -> None:
    tiny |= {"storage": s3.storage}
    del tiny["tracking"]
    file, url = write_sweep(tiny), f"{s3.storage}/tiny"

    def said(*words: str) -> str:
        done = bnsweep(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "test-secret-key" not in done.stdout + done.stderr
        return done.stdout

    assert f"0 done, 6 to run; results in {url}" in said("plan", str(file))
    ran = said("run", str(file), "--in-process")
    assert f"report:  {url}/report/report.html" in ran
    assert f"MLflow:  sqlite:///{tmp_path}/results/mlflow.db" in ran and "not exported" not in ran
    assert "4 completed, 2 diverged" in said("status", url)
    assert "4 completed, 2 diverged" in said("status", "--storage", s3.storage)
    assert "4 completed, 2 diverged" in said("status", "tiny", "--storage", s3.storage)
    assert "6 done, 0 to run" in said("plan", str(file))
    assert f"report:  {tmp_path}/here/report.html" in said("report", url, "--out", str(tmp_path / "here"))
    stored = (Ledger(url).report_dir / "report.html").read_bytes()
    assert (tmp_path / "here" / "report.html").read_bytes() == stored
    assert "lr_robustness" in said("claims", url)
    assert "6 trials are in MLflow" in said("sync", url)
    everything = b"".join(path.read_bytes() for path in Ledger(url).root.rglob("*"))
    assert b"test-secret-key" not in everything and b"test-key-id" not in everything
    local = api.run(tiny, runner=LocalRunner(), storage=str(tmp_path / "folder"))
    assert outcomes(Ledger(url)) == outcomes(Ledger(local.root))


KILLED = {"resources": {"max_concurrent": 2, "pack_size": 2, "kernel": "grouped"}}


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_on_ray_killed_with_its_results_on_s3_ends_as_one_in_a_folder(
    tiny: dict[str, Any], write_sweep: Any, s3: Any, tmp_path: Path
) -> None:
    tiny["parameters"] |= {"norm": ["none", "batch"], "steps": 4000, "eval_every": 1000}
    tiny["probes"] = {"ics": {"every": 2000}}
    tiny |= KILLED
    whole = api.run(tiny, runner=LocalRunner(), storage=str(tmp_path / "folder"))
    command = [sys.executable, "-m", "bnsweep", "run", str(write_sweep(tiny)), "--storage", s3.storage]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    url = f"{s3.storage}/tiny"
    while not s3.seen(beginning="PUT") or not any("record.json" in line for line in s3.seen(beginning="PUT")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ledger = Ledger(url)
    before = ledger.done()
    assert before and len(before) < 12, "killed too late to show anything: make the sweep longer"
    done = subprocess.run([*command[:3], "resume", url], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert outcomes(Ledger(url)) == outcomes(Ledger(whole.root))
    assert Ledger(url).pack_ids() == []
