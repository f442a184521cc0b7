"""Sweeps on several hosts, each with its own address, name, processes and folders; see hosts.py.

``make test-cluster`` runs these: starting Ray on three hosts takes a minute or two on two cores.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
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
from bnsweep.errors import BnsweepError, ServiceError
from bnsweep.runners import LocalRunner
from bnsweep.sweep import to_yaml
from bnsweep.sweep.ledger import Ledger
from tests.cluster import hosts
from tests.tracking import databases

ASKED = bool(os.environ.get("BNSWEEP_TEST_CLUSTER"))
OBSTACLE = hosts.obstacle() if ASKED else "run make test-cluster"
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(OBSTACLE), reason=f"no hosts: {OBSTACLE}"),
    pytest.mark.filterwarnings("ignore"),
]

SECRET = "wJalrXUtnFEMI-secret-key-of-the-cluster"

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
    """A head without trial work, two hosts with one CPU each, and a store that speaks S3."""
    made = hosts.Network(tmp_path_factory.mktemp("network"))
    head, one, two = (made.host(name) for name in ("head", "one", "two"))
    server = Path(__file__).parents[1] / "s3_server.py"
    store = subprocess.Popen(
        [sys.executable, str(server), made.gateway], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert store.stdout is not None
    made.variables = {
        "AWS_ENDPOINT_URL": f"http://{made.gateway}:{int(store.stdout.readline())}",
        "AWS_ACCESS_KEY_ID": "AKIA-of-the-cluster", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
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
        store.kill()
        store.communicate()


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


def records(root: Any) -> dict[str, str]:
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
    listed = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {hosts.TOKEN}"})
    with urllib.request.urlopen(listed, timeout=30) as answer:
        kept = [answer.read(), jobs.logs(first.job.job_id).encode()]
    assert first.job.job_id.encode() in kept[0]
    kept += [path.read_bytes() for path in results.rglob("*") if path.is_file()]
    for secret in (hosts.TOKEN, SECRET):
        assert not [content for content in kept if secret.encode() in content]


def states(found: list[Any]) -> dict[str, str]:
    return {finding.what: finding.state for finding in found}


def test_doctor_looks_from_afar(network: Any, url: str, tmp_path: Path) -> None:
    from bnsweep import remote

    file = write(tmp_path, SWEEP)
    found = remote.examine(file, url, storage=str(tmp_path / "results"))
    assert set(states(found).values()) == {"ok"}, found
    assert list(states(found)) == [
        "cluster", "file", "ray", "room", "machines", "versions", "clocks", "disk", "storage", "data",
        "tracking",
    ]  # fmt: skip
    alone = network.folder / "local" / "results"
    found = remote.examine(file, url, storage=str(alone))
    (bad,) = [finding for finding in found if finding.state == "problem"]
    assert bad.what == "storage"
    assert "must be shared by all machines" in bad.text
    big = write(tmp_path, SWEEP, name="big", resources={"cpus": 1, "gpus": 8})
    with pytest.raises(BnsweepError, match=r"(?s)Nothing was started.*room: One worker must fit") as refused:
        remote.submit(big, url, storage=str(tmp_path / "results"))
    assert refused.value.exit_code == 2
    assert not [job for job in remote.jobs_at(url).all("big") if job.verb == "run"]
    assert not (tmp_path / "results").exists()


def test_results_in_s3_and_runs_in_a_server_with_a_login_on_postgresql(
    network: Any, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep import remote

    where = databases.programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    for name, value in network.variables.items():
        monkeypatch.setenv(name, value)
    endpoint = network.variables["AWS_ENDPOINT_URL"]
    with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/lab", method="PUT"), timeout=30):
        pass
    head = network.hosts[0]
    scripts = Path(__file__).parents[2] / "deploy" / "mlflow"
    with databases.postgres(where, network.gateway) as cluster:
        variables = {
            "MLFLOW_FOLDER": str(tmp_path / "mlflow"), "MLFLOW_ADMIN_PASSWORD": "the-admins-password",
            "MLFLOW_SECRET_KEY": "0123456789abcdef" * 3, "PYTHON": sys.executable,
            "MLFLOW_BACKEND_STORE_URI": cluster.database(),
        }  # fmt: skip
        server = head.start(
            "sh",
            str(scripts / "start.sh"),
            log="mlflow.log",
            env=head.environment(more=variables),
            start_new_session=True,
        )
        try:
            ask = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=9).read())"
            health = "http://127.0.0.1:5000/health"
            hosts.wait_for(
                lambda: "OK" in head.run(sys.executable, "-c", ask, health, check=False).stdout, "MLflow", 240
            )
            small = {**SWEEP["parameters"], "steps": 300, "eval_every": 300}
            tracked = {"uri": "http://127.0.0.1:5000"}
            file = write(tmp_path, SWEEP, name="small", parameters=small, tracking=tracked)
            found = remote.examine(file, url, storage="s3://lab/sweeps")
            bad = [finding for finding in found if finding.state != "ok"]
            assert [finding.what for finding in bad] == ["tracking"], "nobody has logged in"
            assert bad[0].exit_code == 4
            with pytest.raises(ServiceError, match=r"(?s)Nothing was started.*tracking"):
                remote.submit(file, url, storage="s3://lab/sweeps")
            login = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "the-admins-password"}
            done = head.run(
                sys.executable, "-m", "bnsweep", "run", str(file), "--address", "auto", "--storage",
                "s3://lab/sweeps", check=False, env=head.environment(more=login), timeout=600,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "MLflow:  http://127.0.0.1:5000\n" in done.stdout, "all of it was mirrored"
            counted = head.run(
                sys.executable,
                "-c",
                COUNT,
                env=head.environment(more={**login, "GIT_PYTHON_REFRESH": "quiet"}),
            )
            assert counted.stdout.split()[-1] == "12", counted.stdout
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    api.run(
        {**SWEEP, "name": "small", "parameters": small}, runner=LocalRunner(), storage=str(tmp_path / "alone")
    )
    from bnsweep.sweep.places import place

    assert records(place("s3://lab/sweeps/small")) == records(tmp_path / "alone" / "small")


COUNT = """
from mlflow import MlflowClient
client = MlflowClient("http://127.0.0.1:5000")
experiment = client.get_experiment_by_name("small")
print(len(client.search_runs([experiment.experiment_id], "tags.`bnsweep.kind` = 'trial'")))
"""


def test_a_host_that_is_cut_off_is_done_without_and_taken_back(
    network: Any, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bnsweep import remote

    results = tmp_path / "results"
    file = write(tmp_path, SWEEP, name="cut")
    sent = remote.submit(file, url, storage=str(results), look=False)
    jobs = remote.jobs_at(url)
    hosts.wait_for(lambda: "2 workers" in jobs.logs(sent.job.job_id), "both hosts at work")
    live = [host for host in network.hosts[1:] if host.outer.poll() is None]
    live[-1].cut()
    cut = time.monotonic()
    job = jobs.wait(sent.job.job_id, 900)
    assert job.state == "SUCCEEDED", jobs.logs(sent.job.job_id)
    alone = {**SWEEP, "name": "cut"}
    api.run(alone, runner=LocalRunner(), storage=str(tmp_path / "alone"))
    assert records(results / "cut") == records(tmp_path / "alone" / "cut")
    attempts = [attempt for record in Ledger(results / "cut").records() for attempt in record.attempts]
    with capsys.disabled():
        print(f"\nended {time.monotonic() - cut:.0f} s after a host was cut off; {len(attempts)} attempts")
    live[-1].kill()
    network.host("four").ray(network.hosts[0])


ELSEWHERE = """
import time
from torch import nn


class Elsewhere(nn.Module):
    def forward(self, x):
        if self.training:
            time.sleep(0.02)
        return x


def elsewhere(n):
    return Elsewhere()
"""


def test_trials_a_second_with_one_two_and_four_hosts(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hosts share this machine's cores, so their training waits, as for a GPU: 6 s a trial."""
    (tmp_path / "normsofmine.py").write_text(ELSEWHERE)
    monkeypatch.chdir(tmp_path)
    parameters = {
        **SWEEP["parameters"], "norm": "normsofmine:elsewhere", "steps": 150, "eval_every": 150,
        "lr": [round(0.01 * number, 2) for number in range(1, 41)],
    }  # fmt: skip
    more, rates = [network.host(name) for name in ("five", "six")], {}
    for count in (1, 2, 4):
        if count == 4:
            for host in more:
                host.ray(network.hosts[0])
        resources = {**SWEEP["resources"], "max_concurrent": count}
        file = write(
            tmp_path, SWEEP, name=f"pace{count}", parameters=parameters, resources=resources, seeds=1
        )
        began = time.monotonic()
        done = network.hosts[0].run(
            sys.executable, "-m", "bnsweep", "run", str(file), "--address", "auto", "--storage",
            str(tmp_path), timeout=900,
        )  # fmt: skip
        wall, ended = time.monotonic() - began, re.search(r"(\d+) s, 40 trials run", done.stdout)
        assert ended is not None, done.stdout
        used = {
            attempt["host"]
            for record in Ledger(tmp_path / f"pace{count}").records()
            for attempt in record.attempts
        }
        assert len(used) == count
        rates[count] = 40 / wall
        with capsys.disabled():
            print(f"\n{count} hosts: 40 trials in {wall:.0f} s from the command on, {40 / wall:.2f} a second")
    for host in more:
        host.kill()
    assert rates[2] > 1.3 * rates[1] and rates[4] > 1.3 * rates[2]


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
