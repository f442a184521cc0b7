"""All hosts but the head's go down and one comes back; the head itself goes down. See hosts.py.

``make test-cluster`` runs these.
"""

from __future__ import annotations

import os
import subprocess
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
from tests.cluster import hosts
from tests.cluster.outcomes import outcomes

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
        "lr": [0.1, 0.3],
        "steps": 30_000,
        "eval_every": 10_000,
    },
    "resources": {"cpus": 1, "pack_size": 1, "kernel": "loop"},
    "tracking": {"uri": "none"},
}


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Any]:
    made = hosts.Network(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(to_yaml(SWEEP))
    return path


def begin(host: Any, file: Path, workers: int) -> subprocess.Popen[str]:
    """Start the sweep from a host, and wait until so many workers train."""
    words = ["-m", "bnsweep", "run", str(file), "--address", "auto", "--storage", str(file.parent / "r")]
    driver: subprocess.Popen[str] = host.start(sys.executable, *words, log="driver.log")
    log = host.network.folder / "driver.log"

    def trains() -> bool:
        assert driver.poll() is None, log.read_text()
        return f"{workers} workers" in log.read_text()

    hosts.wait_for(trains, "the first readings", 300)
    return driver


def test_without_any_host_for_workers_the_run_waits_and_goes_on_when_one_is_back(
    network: Any, file: Path
) -> None:
    head, one, two = (network.host(name) for name in ("head", "one", "two"))
    head.ray(cpus=0)
    one.ray(head)
    two.ray(head)
    driver = begin(head, file, 2)
    one.kill()
    two.kill()
    ledger = Ledger(file.parent / "r" / "grid")
    time.sleep(60)
    log = network.folder / "driver.log"
    assert driver.poll() is None, log.read_text()
    assert ledger.failed() == {} and len(ledger.done()) < 4
    network.host("three").ray(head)
    assert driver.wait(600) == 0, log.read_text()
    assert not list(ledger.root.glob("trials/*/failure.*"))
    assert "failed" not in log.read_text()
    whole = api.run(SWEEP, runner=LocalRunner(), storage=str(file.parent / "whole"))
    assert outcomes(ledger.root) == outcomes(whole.root)


def test_a_head_that_is_gone_ends_the_driver_and_a_new_cluster_goes_on(network: Any, file: Path) -> None:
    head, one = network.host("head"), network.host("one")
    head.ray(cpus=0)
    one.ray(head)
    driver = begin(one, file, 1)
    began = time.monotonic()
    head.kill()
    code = driver.wait(150)
    seconds = time.monotonic() - began
    log = network.folder / "driver.log"
    print(f"\nthe driver ended with {code} after {seconds:.0f} s: {log.read_text()[-500:]}")
    assert code != 0
    assert seconds < 90
    ledger = Ledger(file.parent / "r" / "grid")
    assert ledger.open_packs() and ledger.failed() == {} and ledger.warnings == []
    one.kill()
    head, two = network.host("head"), network.host("two")
    head.ray(cpus=0)
    two.ray(head)
    words = ["-m", "bnsweep", "resume", str(ledger.root), "--address", "auto"]
    done = two.run(sys.executable, *words, check=False, timeout=800)
    assert done.returncode == 0, done.stderr
    whole = api.run(SWEEP, runner=LocalRunner(), storage=str(file.parent / "whole"))
    assert outcomes(ledger.root) == outcomes(whole.root)
