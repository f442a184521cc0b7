"""Sweeps on several hosts, each with its own address, name, processes and folders; see hosts.py.

``make test-cluster`` runs these: starting Ray on three hosts takes a minute or two on two cores.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.errors import ServiceError
from bnsweep.runners import LocalRunner
from bnsweep.sweep import to_yaml
from bnsweep.sweep.ledger import Ledger

spec = importlib.util.spec_from_file_location("hosts", Path(__file__).with_name("hosts.py"))
assert spec is not None
assert spec.loader is not None
hosts: Any = importlib.util.module_from_spec(spec)
sys.modules["hosts"] = hosts
spec.loader.exec_module(hosts)

ASKED = bool(os.environ.get("BNSWEEP_TEST_CLUSTER"))
OBSTACLE = hosts.obstacle() if ASKED else "run make test-cluster"
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(OBSTACLE), reason=f"no hosts: {OBSTACLE}"),
    pytest.mark.filterwarnings("ignore"),
]

SWEEP: dict[str, Any] = {
    "name": "grid",
    "parameters": {
        "model": "mlp",
        "depth": 2,
        "features": 8,
        "norm": ["none", "batch"],
        "lr": [0.1, 0.3, 0.5],
        "steps": 12_000,
        "eval_every": 3_000,
    },
    "seeds": 2,
    "resources": {"cpus": 1, "pack_size": 1, "kernel": "loop"},
    "tracking": {"uri": "none"},
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without trial work, and two hosts with one CPU each."""
    made = hosts.Network(tmp_path_factory.mktemp("network"))
    head, one, two = (made.host(name) for name in ("head", "one", "two"))
    began = time.monotonic()
    try:
        head.ray(cpus=0)
        threads = [threading.Thread(target=host.ray, args=(head,)) for host in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"\nthree hosts run Ray after {time.monotonic() - began:.0f} s")
        yield made
    finally:
        made.close()


@pytest.fixture
def url(network: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The dashboard of the head, with the token at hand."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(network.token))
    return f"http://{network.hosts[0].address}:8265"


def bnsweep(host: Any, *words: str) -> Any:
    return host.run(sys.executable, "-m", "bnsweep", *words, check=False)


def write(folder: Path, content: dict[str, Any], **changes: Any) -> Path:
    made = {**content, **changes}
    path = folder / f"{made['name']}.yaml"
    path.write_text(to_yaml(made))
    return path


def records(root: Path) -> dict[str, str]:
    return {
        record.trial_id: json.dumps([record.state, record.steps, repr(sorted(record.readings.items()))])
        for record in Ledger(root).records()
    }


def test_without_the_token_nothing_is_answered(
    network: Any, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep import remote
    from bnsweep.runners.jobs import connect

    for headers, code in (({}, 401), ({"Authorization": "Bearer " + "0" * 64}, 403)):
        request = urllib.request.Request(f"{url}/api/jobs/", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        assert caught.value.code == code
    assert connect(url).all() == []
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("f" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    with pytest.raises(ServiceError, match="refuses it") as refused:
        remote.submit(write(tmp_path, SWEEP), url, storage=str(tmp_path))
    assert "f" * 64 not in str(refused.value)
    denied = network.hosts[1].run(
        sys.executable, "-m", "bnsweep", "run", str(tmp_path / "grid.yaml"), "--address", "auto",
        "--storage", str(tmp_path), check=False,
        env=network.hosts[1].environment(more={"RAY_AUTH_TOKEN_PATH": str(wrong)}),
    )  # fmt: skip
    assert denied.returncode == 4, denied.stderr
    assert "must accept the token" in denied.stderr


def test_what_no_host_can_hold_and_what_hosts_do_not_share_is_refused_in_seconds(
    network: Any, tmp_path: Path
) -> None:
    one = network.hosts[1]
    big = write(tmp_path, SWEEP, name="big", resources={"cpus": 2})
    refused = bnsweep(one, "run", str(big), "--address", "auto", "--storage", str(tmp_path / "r"))
    assert refused.returncode == 2, refused.stderr
    assert "no machine has that" in refused.stderr, "two hosts of one CPU are no host of two"
    assert not (tmp_path / "r").exists()
    local = network.folder / "local" / "results"
    refused = bnsweep(one, "run", str(write(tmp_path, SWEEP)), "--address", "auto", "--storage", str(local))
    assert refused.returncode == 2, refused.stderr
    assert "must be shared by all machines" in refused.stderr
    assert "two says No such file" in refused.stderr
    refused = bnsweep(one, "run", str(write(tmp_path, SWEEP)), "--address", "auto", "--storage", "results")
    assert refused.returncode == 2
    assert "must be an absolute folder" in refused.stderr


def test_a_submitted_sweep_survives_the_death_of_a_host_and_uses_its_replacement(
    network: Any, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bnsweep import remote

    file, results = write(tmp_path, SWEEP), tmp_path / "results"
    api.run(SWEEP, runner=LocalRunner(), storage=str(tmp_path / "alone"))
    sent = time.monotonic()
    first = remote.submit(file, url, storage=str(results))
    again = remote.submit(file, url, storage=str(results))
    assert first.new
    assert not again.new, "the same sweep is one job"
    assert first.job.job_id == again.job.job_id
    jobs = remote.jobs_at(url)
    hosts.wait_for(lambda: (results / "grid" / "trials").is_dir(), "the ledger")
    hosts.wait_for(lambda: "workers" in jobs.logs(first.job.job_id), "the first reading")
    reading = time.monotonic() - sent
    hosts.wait_for(lambda: "2 workers" in jobs.logs(first.job.job_id), "both hosts at work")
    network.hosts[2].kill()
    killed = time.monotonic()
    network.host("three").ray(network.hosts[0])
    joined = time.monotonic() - killed
    job = jobs.wait(first.job.job_id, 900)
    assert job.state == "SUCCEEDED", jobs.logs(first.job.job_id)
    assert records(results / "grid") == records(tmp_path / "alone" / "grid")
    attempts = [attempt for record in Ledger(results / "grid").records() for attempt in record.attempts]
    assert {attempt["host"] for attempt in attempts} >= {"one", "three"}
    with capsys.disabled():
        print(f"\nfirst reading {reading:.0f} s after submit; replacement joined after {joined:.0f} s")

    made = json.loads((results / "grid" / "environment.json").read_text())
    assert made["submission"]["job"] == first.job.job_id
    assert made["commit"] == made["submission"]["code"]["commit"]
    held = [
        path for path in results.rglob("*") if path.is_file() and hosts.TOKEN.encode() in path.read_bytes()
    ]
    assert held == []
    assert hosts.TOKEN not in jobs.logs(first.job.job_id)


def test_a_stopped_job_checkpoints_and_is_resumed_and_asked_about_from_afar(
    url: str, tmp_path: Path, network: Any
) -> None:
    from bnsweep import remote

    longer = {**SWEEP["parameters"], "lr": 0.1, "norm": "none", "steps": 200_000}
    file = write(tmp_path, SWEEP, name="longer", parameters=longer)
    sent = remote.submit(file, url, storage=str(tmp_path))
    jobs = remote.jobs_at(url)
    hosts.wait_for(lambda: "workers" in jobs.logs(sent.job.job_id), "the first reading")
    assert jobs.stop(sent.job.job_id)
    assert jobs.wait(sent.job.job_id, 130).state == "STOPPED"
    assert "interrupted" in jobs.logs(sent.job.job_id)
    ledger = Ledger(tmp_path / "longer")
    steps = [found[0] for pack in ledger.open_packs() if (found := ledger.load_checkpoint(pack))]
    assert steps
    assert max(steps) > 0
    said: list[str] = []
    code = remote.ask(["status", "longer", "--storage", str(tmp_path)], "longer", url, write=said.append)
    assert code == 0
    assert "2 pending" in "".join(said)
    resumed = remote.resume("longer", url, storage=str(tmp_path))
    assert resumed.new
    hosts.wait_for(lambda: "workers" in jobs.logs(resumed.job.job_id), "a reading of the resumed sweep")
    jobs.stop(resumed.job.job_id)
    assert jobs.wait(resumed.job.job_id, 130).ended
