"""Ray's launcher over real ssh to hosts of their own, and a cluster that grows from nothing; see hosts.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import hosts

ASKED = bool(os.environ.get("BNSWEEP_TEST_CLUSTER"))
OBSTACLE = hosts.obstacle() if ASKED else "run make test-cluster"
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(OBSTACLE), reason=f"no hosts: {OBSTACLE}"),
    pytest.mark.filterwarnings("ignore"),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Any]:
    made = hosts.Network(tmp_path)
    yield made
    made.close()


def ray_processes(host: Any) -> list[str]:
    listed = host.run("ps", "-eo", "args").stdout.splitlines()
    return [line for line in listed if line.partition(" ")[0].endswith(hosts.RAY)]


SSHD = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
ListenAddress {address}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
"""


def serve_ssh(host: Any, folder: Path) -> None:
    """Let ``lab`` log in on a host, with a home of its own there, which ssh takes for that of user 0."""
    home = host.own / "home"
    home.mkdir()
    users = host.own / "passwd"
    users.write_text(f"lab:*:0:0::{home}:/bin/bash\n" + Path("/etc/passwd").read_text())
    host.run("mount", "--bind", str(users), "/etc/passwd")
    config = host.own / "sshd_config"
    config.write_text(SSHD.format(folder=folder, address=host.address))
    host.run("mkdir", "-p", "/run/sshd")
    host.start("/usr/sbin/sshd", "-D", "-f", str(config), log="sshd.log")


def test_ray_up_and_down_over_ssh(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("/usr/sbin/sshd", shutil.which("rsync") or "rsync"):
        if not Path(program).exists():
            pytest.skip(f"{program} is not installed (Debian: openssh-server, rsync)")
    folder, home = network.folder, network.folder / "laptop"
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (home / ".ray").mkdir(parents=True)
    (home / ".bnsweep").mkdir()
    shutil.copy(network.token, home / ".ray" / "auth_token")
    results = folder / "results"
    (home / ".bnsweep" / "cluster.env").write_text(f"RAY_AUTH_MODE=token\nBNSWEEP_STORAGE={results}\n")
    for path in (home / ".ray" / "auth_token", home / ".bnsweep" / "cluster.env"):
        path.chmod(0o600)
    head, worker = network.host("head"), network.host("worker")
    for host in (head, worker):
        serve_ssh(host, folder)

    content = yaml.safe_load((ROOT / "deploy" / "on-premise.yaml").read_text())
    content["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
    content["auth"] = {"ssh_user": "lab", "ssh_private_key": str(folder / "key")}
    content["max_workers"] = 1
    setup, *more = content["setup_commands"]
    assert "/opt/bnsweep/.venv/bin" in setup
    content["setup_commands"] = [
        setup.replace("/opt/bnsweep/.venv/bin", str(Path(sys.executable).parent)),
        f"echo export PYTHONPATH={ROOT} OMP_NUM_THREADS=1 >> ~/.bnsweep/path.sh",
        *more,
    ]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        content[key][-1] += " --num-gpus=0 --object-store-memory=100000000"
    file = folder / "on-premise.yaml"
    file.write_text(yaml.safe_dump(content))
    environment = {
        **os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_UP_enable_autoscaler_v2": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip

    def launch(verb: str) -> None:
        done = subprocess.run(
            [hosts.ray_program(), verb, str(file), "-y", *(["--no-config-cache"] if verb == "up" else [])],
            env=environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]

    began = time.monotonic()
    launch("up")
    try:
        up = time.monotonic() - began
        hosts.wait_for(lambda: ray_processes(worker), "Ray on the worker, started by the head", 300)
        doctor: Any = None

        def well() -> bool:
            nonlocal doctor
            doctor = head.run(
                sys.executable, "-m", "bnsweep", "doctor", "--address", "auto", "--storage", str(results),
                "--json", check=False,
            )  # fmt: skip
            return '"2 machines' in doctor.stdout or ": 2 machines" in doctor.stdout

        hosts.wait_for(well, "both in one cluster", 300)
        assert doctor.returncode == 0, doctor.stdout
        print(f"\nray up took {up:.0f} s; the worker was there after {time.monotonic() - began:.0f} s")
    finally:
        launch("down")
    assert ray_processes(head) == []
    began = time.monotonic()  # Ray stops the head alone: a worker ends when it has missed it for a minute
    hosts.wait_for(lambda: not ray_processes(worker), "the end of Ray on the worker", 180)
    print(f"the worker ended {time.monotonic() - began:.0f} s after the head")
    said = subprocess.run(
        ["cat", str(folder / "sshd.log")], capture_output=True, text=True, check=True
    ).stdout
    assert hosts.TOKEN not in said


FAKE_HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
FAKE = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD = "ray.head.default"
KINDS: dict[str, Any] = {
    HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    "gpus": {"resources": {"CPU": 1, "GPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1},
}


def test_a_cluster_grows_from_nothing_and_says_what_it_will_never_have(network: Any, tmp_path: Path) -> None:
    head = network.host("head")
    config = network.folder / "growing.json"
    config.write_text(
        json.dumps(
            {
                "cluster_name": "growing", "max_workers": 3, "idle_timeout_minutes": 5,
                "head_node_type": HEAD,
                "provider": {
                    "type": "external", "module": FAKE, "head_node_id": FAKE_HEAD, "launch_multiple": True,
                },
                "available_node_types": KINDS, "upscaling_speed": 1.0, "auth": {}, "docker": {},
                "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False,
                "rsync_exclude": [], "rsync_filter": [], "initialization_commands": [], "setup_commands": [],
                "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
                "worker_start_ray_commands": [],
            }
        )
    )  # fmt: skip
    network.variables = {
        "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD, "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_NODE_TYPE_NAME": HEAD,
    }  # fmt: skip
    head.ray(cpus=0, more=[f"--autoscaling-config={config}"])
    network.variables = {}
    sweep: dict[str, Any] = {
        "name": "growing",
        "parameters": {"model": "mlp", "depth": 2, "features": 8, "norm": ["none", "batch"], "steps": 500},
        "seeds": 2,
        "resources": {"cpus": 1, "pack_size": 1, "kernel": "loop"},
        "tracking": {"uri": "none"},
    }

    def call(verb: str, **changes: Any) -> Any:
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump({**sweep, **changes}))
        words = (verb, str(file), "--address", "auto", "--storage", str(tmp_path / "results"))
        return head.run(sys.executable, "-m", "bnsweep", *words, check=False, timeout=600)

    began = time.monotonic()
    refused = call("run", resources={"cpus": 1, "gpus": 3})
    assert refused.returncode == 2, refused.stderr
    assert "the autoscaler has no larger kind" in refused.stderr
    assert "3 GPUs" in refused.stderr
    assert time.monotonic() - began < 90
    looked = call("doctor", resources={"cpus": 8})
    assert looked.returncode == 2, looked.stdout
    assert "problem  room" in looked.stdout
    assert not (tmp_path / "results").exists()
    done = call("run")
    assert done.returncode == 0, done.stderr
    assert "4 trials run" in done.stdout
    grown = head.run(hosts.ray_program(), "status").stdout
    assert " small" in grown, grown  # machines that the autoscaler made, which began with none
