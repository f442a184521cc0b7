"""What doctor finds on a real Ray of two nodes: each kind of trouble in its line, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnsweep import doctor
from bnsweep.cli import main
from bnsweep.errors import BnsweepError, ServiceError
from bnsweep.runners import access
from bnsweep.runners.machine import Node
from bnsweep.tracking.process import quiet_environment
from bnsweep.tracking.ui import free_port
from bnsweep.trial import TrialConfig
from bnsweep.where import Where

TOKEN = "7" * 64
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray and its dependencies are not free of these.


def start_node(words: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    command += ["--num-gpus=0", "--object-store-memory=100000000", *words]
    with log.open("ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Iterator[str]:
    """A head without trial work and a node with one CPU, both on 127.0.0.1, with a token."""
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    port = free_port(0)
    store = {
        "AWS_ENDPOINT_URL": s3_endpoint, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    shared = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), **store}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | shared
    log = folder / "log"
    head = ["--head", "--num-cpus=0", f"--port={port}", "--include-dashboard=false"]
    short = f"/tmp/bnsweep-d{os.getpid()}"  # a socket's path has 107 characters at most
    nodes = [start_node([*head, "--node-ip-address=127.0.0.1", f"--temp-dir={short}"], environment, log)]
    address = f"127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shared.items():
            patch.setenv(name, value)
        patch.setattr(access, "_private", None)
        try:
            wait_for_head(address, log)
            nodes.append(start_node([f"--address={address}", "--num-cpus=1"], environment, log))
            wait_for_places(address)
            yield address
        finally:
            for node in reversed(nodes):
                node.send_signal(signal.SIGTERM)
            for node in nodes:
                node.wait(60)
            subprocess.run(["rm", "-rf", short], check=False)


def wait_for_head(address: str, log: Path) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            assert access.asks_for_token(address, timeout=2)
        except BnsweepError:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        else:
            return


def wait_for_places(address: str) -> None:
    from bnsweep.runners.joining import attach

    until = time.monotonic() + 120
    with attach(address) as joined:
        while not joined.slots(1, 0):
            assert time.monotonic() < until
            time.sleep(0.5)


def findings(source: Any, address: str, storage: object) -> dict[str, doctor.Finding]:
    found = doctor.examine(source, where=Where(address), storage=str(storage))
    return {finding.what: finding for finding in found}


def states(found: dict[str, doctor.Finding]) -> dict[str, str]:
    return {what: finding.state for what, finding in found.items()}


LOOKS = ["file", "ray", "room", "machines", "versions", "clocks", "disk", "storage", "data", "tracking"]


@pytest.mark.ray
@pytest.mark.slow
def test_all_is_well_and_nothing_is_left(
    cluster: str, tiny: dict[str, Any], tmp_path: Path, empty_database: Path, s3_endpoint: str
) -> None:
    shared = tmp_path / "shared" / "results"
    tiny["tracking"] = {"uri": f"sqlite:///{empty_database}"}
    found = findings(tiny, cluster, shared)
    assert states(found) == dict.fromkeys(LOOKS, "ok"), found
    assert doctor.exit_code_of(list(found.values())) == 0
    assert "2 machines" in found["ray"].text
    assert "places now: 1" in found["room"].text
    assert not shared.parent.exists()
    with sqlite3.connect(empty_database) as database:
        stages = database.execute(
            "SELECT name, lifecycle_stage FROM experiments WHERE name != 'Default'"
        ).fetchall()
    database.close()
    assert [stage for name, stage in stages if name.startswith("bnsweep-doctor-")] == ["deleted"]
    assert len(stages) == 1
    assert not list((empty_database.parent / "mlartifacts").rglob("canary.txt"))

    bucket = f"doctor-{os.getpid()}"
    with urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT"), timeout=30):
        pass
    tiny["tracking"] = {"uri": "none"}
    found = findings(tiny, cluster, f"s3://{bucket}/some/prefix")
    assert states(found) == dict.fromkeys(LOOKS, "ok"), found
    with urllib.request.urlopen(f"{s3_endpoint}/_seen", timeout=30) as answer:
        assert [line for line in json.load(answer) if "probe" in line and line.startswith("PUT")]
    from bnsweep.sweep.places import place

    assert not place(f"s3://{bucket}").exists(), "the probe's files are gone"


@pytest.fixture
def empty_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from bnsweep.tracking.stores import connect

    for name, value in quiet_environment().items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "tracking" / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.mark.ray
@pytest.mark.slow
def test_each_trouble_is_in_its_line(
    cluster: str,
    tiny: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write_sweep: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 240.0)  # a busy machine may need a minute to start a worker
    tiny["tracking"] = {"uri": f"http://127.0.0.1:{free_port(0)}"}
    tiny["parameters"]["dataset"] = "cifar10"
    tiny["data_root"] = str(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    words = ["doctor", str(write_sweep(tiny)), "--address", cluster, "--storage"]
    assert main([*words, str(tmp_path / "file" / "results"), "--json"]) == 4
    answer = json.loads(capsys.readouterr().out)
    found = {content["what"]: doctor.Finding.of(content) for content in answer["findings"]}
    troubles = {what: one.text for what, one in found.items() if one.state != "ok"}
    assert list(troubles) == ["storage", "data", "tracking"], troubles
    assert found["storage"].exit_code == 2
    assert "cifar" in found["data"].text
    assert found["tracking"].exit_code == answer["exit_code"] == 4

    tiny["resources"] = {"cpus": 2}
    began = time.monotonic()
    assert main(["doctor", str(write_sweep(tiny)), "--address", cluster, "--storage", str(tmp_path)]) == 4
    out = capsys.readouterr().out
    assert "problem  room      One worker must fit on one machine" in out
    assert "skipped  storage" in out
    assert "skipped  data" in out
    assert "problem  tracking" in out, "what needs no worker is looked at all the same"
    assert time.monotonic() - began < 60, "what can never be is not waited for"


@pytest.mark.ray
@pytest.mark.slow
def test_a_busy_cluster_is_not_waited_for_long(
    cluster: str, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, cluster], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(doctor, "PATIENCE", 3.0)
        found = findings(tiny, cluster, tmp_path)
    finally:
        holder.communicate("end\n", timeout=60)
    assert states(found) == dict.fromkeys(LOOKS, "ok") | {"data": "skipped"}, found
    assert "no place was free" in found["data"].text
    assert doctor.exit_code_of(list(found.values())) == 0


HOLD = """
import sys, time, ray, logging
ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)

@ray.remote(num_cpus=1)
class Holder:
    def here(self):
        return True

holder = Holder.remote()
ray.get(holder.here.remote())
print("held", flush=True)
sys.stdin.readline()
"""


def test_without_ray_the_rest_is_still_looked_at(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setattr(access, "_private", None)
    found = findings(tiny, f"127.0.0.1:{free_port(0)}", tmp_path)
    assert states(found) == {"file": "ok", "ray": "problem", "machines": "skipped", "tracking": "ok"}
    assert doctor.exit_code_of(list(found.values())) == 4
    wrong = tiny | {"seeds": 0}
    found = findings(wrong, "127.0.0.1:1", tmp_path)
    assert list(found) == ["file"]
    assert found["file"].exit_code == 2


class FakeCluster:
    address, nodes, grows = "h:1", [Node("h", 1)], False

    def __init__(self, **answer: Any) -> None:
        self.answer = {"host": "far", "time": time.time(), "free": 2**40, "packages": {}} | answer

    def look(self) -> dict[str, Any]:
        return {"1": self.answer}


def test_clocks_that_differ_and_disks_that_are_full(tmp_path: Path) -> None:
    visit = doctor._Visit(None, FakeCluster(time=time.time() + 400, free=10**8), True)  # type: ignore[arg-type]
    visit.machines()
    with pytest.raises(BnsweepError, match="far by 400 s"):
        visit.clocks()
    with pytest.raises(BnsweepError, match=r"far for temporary files 0\.1 GiB"):
        visit.disk(tmp_path)
    visit = doctor._Visit(None, FakeCluster(time=time.time() - 30), True)  # type: ignore[arg-type]
    visit.machines()
    visit.clocks()
    visit.disk(tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_a_full_cluster_is_waited_for_and_said_since_when(cluster: str, tmp_path: Path) -> None:
    import ray

    from bnsweep.runners.joining import attach

    said: list[str] = []
    with attach(cluster) as joined:
        joined.say = said.append
        held = ray.remote(num_cpus=1)(_hold).remote(str(tmp_path / "held"), 12.0)
        while not (tmp_path / "held").exists():
            time.sleep(0.1)
        joined.check_place(1, 0)
        joined.await_place()  # a machine that is full is large enough
        assert said == []
        trial = TrialConfig.create({"model": "mlp", "depth": 1, "features": 4, "steps": 1})
        joined.preflight([trial], None)
        assert ray.get(held) is None
        assert re.fullmatch(
            r"waiting for capacity since \d\d:\d\d:\d\d \(\d+ s\): 1 places, all taken", said[0]
        )
        with pytest.raises(BnsweepError, match="One worker must fit on one machine"):
            joined.check_place(4, 0)
        with pytest.raises(BnsweepError, match="One worker must fit on one machine"):
            joined.await_place()


@pytest.mark.ray
@pytest.mark.slow
def test_a_machine_that_leaves_while_it_is_asked_is_left_out_and_one_that_stays_is_named(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep.runners import cluster as rules
    from bnsweep.runners.joining import attach

    monkeypatch.setattr(rules, "LEAVE_SECONDS", 2.0)
    leaving = Node("leaving", 1, node_id="a" * 56, address="127.0.0.9")
    there = rules.Cluster.nodes.fget
    assert there is not None
    asked: list[int] = []

    def nodes(self: rules.Cluster) -> list[Node]:
        asked.append(1)
        return [*there(self), leaving] if len(asked) == 1 or stays else there(self)

    with attach(cluster) as joined:
        joined.check_place(1, 0)
        (place,) = [node.node_id for node in joined.nodes if node.cpus]
        monkeypatch.setattr(rules.Cluster, "nodes", property(nodes))
        stays = False
        assert list(joined.look()) == [place]
        stays = True
        with pytest.raises(
            ServiceError, match=r"but leaving \(127.0.0.9\) does not: The task is not schedul"
        ):
            joined.look()


def _hold(path: str, seconds: float) -> None:
    Path(path).touch()
    time.sleep(seconds)
