"""``deploy/slurm.sh`` under a real Slurm: the allocation is taken away, the job is queued again, and ends.

``make test-cluster`` runs these.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.runners import LocalRunner
from bnsweep.sweep import to_yaml
from bnsweep.sweep.ledger import Ledger
from tests.cluster import hosts, slurm
from tests.cluster.outcomes import outcomes

ASKED = bool(os.environ.get("BNSWEEP_TEST_CLUSTER"))
OBSTACLE = slurm.obstacle() if ASKED else "run make test-cluster"
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(OBSTACLE), reason=f"no Slurm: {OBSTACLE}"),
    pytest.mark.filterwarnings("ignore"),
]

SWEEP: dict[str, Any] = {
    "name": "grid",
    "parameters": {
        "model": "mlp",
        "depth": 2,
        "features": 8,
        "norm": ["none", "batch"],
        "lr": [0.1, 0.3],
        "steps": 30_000,
        "eval_every": 10_000,
    },
    "resources": {"cpus": 1, "pack_size": 1, "kernel": "loop"},
    "tracking": {"uri": "none"},
}

UNDERWAY = {"PENDING", "RUNNING", "COMPLETING"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[slurm.Slurm]:
    network = hosts.Network(tmp_path)
    try:
        for name in ("one", "two"):
            network.host(name)
        yield slurm.Slurm(network, cpus=1)
    finally:
        network.close()
        slurm.TEMPORARY.rmdir()


def submit(cluster: slurm.Slurm, *arguments: str) -> str:
    """Submit the script for two machines without GPUs, and return the job's number."""
    options = ["--nodes=2", "--cpus-per-task=1", "--gpus-per-task=0", f"--output={cluster.folder}/job.out"]
    venv = str(Path(sys.executable).parents[1])
    words = ["sbatch", "--parsable", *options, "deploy/slurm.sh", *arguments]
    return cluster.ask(*words, BNSWEEP_VENV=venv).strip()


def told(cluster: slurm.Slurm, job: str) -> dict[str, str]:
    """What Slurm says of a job."""
    return dict(re.findall(r"(\w+)=(\S*)", cluster.ask("scontrol", "show", "job", job)))


def left_over(cluster: slurm.Slurm, killed: bool = False) -> list[str]:
    """What runs Ray on any host, what a job keeps there unless it was killed, and what in the user's home."""
    running = [
        line
        for host in cluster.network.hosts
        for line in host.run("ps", "-eo", "args").stdout.splitlines()
        if line.partition(" ")[0].endswith(hosts.RAY) or "bnsweep" in line
    ]
    places = cluster.network.hosts[: 1 if killed else None]
    kept = [path for host in places for path in (host.own / "temporary").iterdir()]
    kept += (cluster.folder / "home").glob(".bnsweep-job-*")
    return running + [str(path) for path in kept]


def begin(cluster: slurm.Slurm, folder: Path) -> str:
    """Submit the sweep and wait until both machines train; returns the job's number."""
    file, log = folder / "grid.yaml", cluster.folder / "job.out"
    file.write_text(to_yaml(SWEEP))
    job = submit(cluster, str(file), str(folder / "r"))

    def trains() -> bool:
        state = told(cluster, job)["JobState"]
        assert state in {"PENDING", "RUNNING"}, log.read_text()
        return log.exists() and "2 workers" in log.read_text()

    hosts.wait_for(trains, "two workers", 300)
    assert "2 of 2 machines have joined" in log.read_text()
    return job


def test_a_job_whose_time_is_over_is_queued_again_and_goes_on(
    cluster: slurm.Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    job, log = begin(cluster, tmp_path), cluster.folder / "job.out"
    trained = time.monotonic()
    cluster.ask("scancel", "--batch", "--signal=TERM", job)
    hosts.wait_for(lambda: told(cluster, job)["Restarts"] == "1", "the job to be queued again", 120)
    requeued = time.monotonic()
    ledger = Ledger(tmp_path / "r" / "grid")
    assert len(ledger.done()) < 4, "the time was over before the sweep was"
    assert "interrupted: bnsweep resume" in log.read_text(), "packs are checkpointed"
    hosts.wait_for(lambda: told(cluster, job)["JobState"] not in UNDERWAY, "the end", 900)
    last = told(cluster, job)
    assert (last["JobState"], last["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
    hosts.wait_for(lambda: not left_over(cluster), "the end of all that ran", 60)
    whole = api.run(SWEEP, runner=LocalRunner(), storage=str(tmp_path / "whole"))
    assert outcomes(ledger.root) == outcomes(whole.root)
    attempts = [attempt for record in ledger.records() for attempt in record.attempts]
    assert {attempt["host"] for attempt in attempts} == {"one", "two"}
    with capsys.disabled():
        print(f"\nSlurm: two workers after {trained - began:.0f} s, queued again {requeued - trained:.0f} s")
        print(f"after its time was over, ended {time.monotonic() - requeued:.0f} s later")


def test_a_job_that_is_cancelled_does_not_come_back(cluster: slurm.Slurm, tmp_path: Path) -> None:
    job = begin(cluster, tmp_path)
    cluster.ask("scancel", job)
    hosts.wait_for(lambda: not left_over(cluster, killed=True), "the end of all that ran", 120)
    time.sleep(20)  # longer than Slurm lets a job wait that was queued again
    last = told(cluster, job)
    assert (last["JobState"], last["Restarts"]) == ("CANCELLED", "0")
    assert left_over(cluster, killed=True) == []


def test_a_sweep_that_cannot_run_is_a_job_that_failed_and_leaves_nothing(
    cluster: slurm.Slurm, tmp_path: Path
) -> None:
    file, log = tmp_path / "grid.yaml", cluster.folder / "job.out"
    file.write_text(to_yaml({**SWEEP, "resources": {"cpus": 2}}))
    job = submit(cluster, str(file), str(tmp_path / "r"))
    hosts.wait_for(lambda: told(cluster, job)["JobState"] == "FAILED", "the end", 300)
    assert told(cluster, job)["ExitCode"] == "2:0"
    assert "no machine has that" in log.read_text()
    hosts.wait_for(lambda: not left_over(cluster), "the end of all that ran", 60)
    assert not (tmp_path / "r").exists()
