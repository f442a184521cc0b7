"""Workers and a node of a real Ray cluster killed without a word, judged by a journal of what trained.

``make test-cluster`` runs these: a head and two nodes of one CPU each, as processes of this machine.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import journal
from benchmarks.chaos.cluster import NODE, Cluster
from benchmarks.chaos.processes import MARK, Run, Server, kill, marked
from bnsweep import api
from bnsweep.runners import LocalRunner
from bnsweep.sweep import to_yaml
from bnsweep.sweep.ledger import Ledger
from tests.cluster.outcomes import outcomes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("BNSWEEP_TEST_CLUSTER"), reason="run make test-cluster"),
    pytest.mark.filterwarnings("ignore"),
]

INTERVAL = 0.5
"""Seconds between two checkpoints of a pack."""

SWEEP: dict[str, Any] = {
    "name": "grid",
    "parameters": {
        "model": "mlp",
        "depth": 2,
        "features": 8,
        "norm": ["none", "batch"],
        "lr": [0.1, 0.3],
        "steps": 12_000,
        "eval_every": 6_000,
    },
    "seeds": 2,
    "resources": {"cpus": 1, "pack_size": 2, "kernel": "grouped"},
    "tracking": {"uri": "none"},
}


class Lab:
    """A cluster, and drivers on it whose workers write a journal.

    Attributes:
        cluster: The cluster.
        journal: What was trained, over all tests of this module.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, f"lost{uuid.uuid4().hex[:8]}"
        self.journal = folder / "journal"
        os.environ[journal.VARIABLE] = str(self.journal)  # nodes and their workers inherit it
        self.cluster = Cluster(self.mark)
        self.server = Server({MARK: self.mark}, folder / "server.log")
        self.begun = 0

    def start(self, storage: Path, both: bool = True) -> Run:
        """Start a driver of the sweep; wait until both nodes train, where it is asked."""
        file = self.folder / "grid.yaml"
        file.write_text(to_yaml(SWEEP))
        self.begun = len(journal.read(self.journal))
        run = self.server.start(
            storage.with_suffix(".log"), self.cluster.environment, file=str(file), storage=str(storage),
            ray=self.cluster.address, seconds=INTERVAL,
        )  # fmt: skip
        if both:
            self.wait(
                lambda: len({one.pid for one in self.steps() if one.step > 100}) >= 2, run, "two workers"
            )
        return run

    def steps(self) -> list[journal.Entry]:
        """The journal since the driver was started first."""
        return journal.read(self.journal)[self.begun :]

    def train(self, but: int, since: int) -> bool:
        """Tell whether two workers train, the one with this process id not counted."""
        return len({one.pid for one in self.steps()[since:]} - {but}) >= 2

    def wait(self, true: Callable[[], Any], run: Run, what: str, patience: float = 240) -> None:
        end = time.monotonic() + patience
        while not true():
            assert run.code is None, run.log.read_text()
            assert time.monotonic() < end, f"waited in vain for {what}: {run.log.read_text()}"
            time.sleep(0.1)

    def close(self) -> None:
        self.server.close()
        self.cluster.stop()
        kill(marked(self.mark))
        del os.environ[journal.VARIABLE]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    try:
        made.cluster.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the sweep comes to without any trouble, trained in this process."""
    return outcomes(api.run(SWEEP, runner=LocalRunner(), storage=str(tmp_path_factory.mktemp("whole"))).root)


def judge(lab: Lab, storage: Path, whole: dict[str, str], new: int) -> None:
    """Nothing missing, double, failed or different; at most a checkpoint interval repeated."""
    ledger = Ledger(storage / "grid")
    assert outcomes(ledger.root) == whole
    assert [path for path in ledger.root.glob("trials/*/failure.*.json")] == []
    assert ledger.pack_ids() == []
    entries = lab.steps()
    _, differing = journal.losses_of(entries)
    assert differing == 0
    made = {(trial, one.step) for one in entries for trial in one.trials}
    assert made == {(trial, step) for trial in whole for step in range(SWEEP["parameters"]["steps"])}
    repeated = list(journal.repeats(entries))
    assert len({one.attempt for one in entries}) >= 4 + new
    assert not any(one.backwards for one in repeated)
    slowest = max(one.overdue for one in repeated) if repeated else 0.0
    steps = sum(one.steps for one in repeated)
    print(f"\n{len(repeated)} attempts repeated {steps} steps; {slowest:.2f} s at most")
    assert slowest <= INTERVAL + 0.1


def ended(run: Run, patience: float = 400) -> int:
    code = run.wait(patience)
    assert code is not None, run.log.read_text()
    return code


def test_a_worker_killed_in_the_middle_of_a_step_goes_on_from_its_checkpoint(
    lab: Lab, whole: dict[str, str], tmp_path: Path
) -> None:
    run = lab.start(tmp_path / "r")
    for _ in range(2):
        victim = lab.steps()[-1].pid
        os.kill(victim, signal.SIGKILL)
        lab.wait(partial(lab.train, victim, len(lab.steps())), run, "another worker")
    assert ended(run) == 0, run.log.read_text()
    judge(lab, tmp_path / "r", whole, new=2)


def test_a_node_that_is_gone_leaves_its_packs_to_the_other(
    lab: Lab, whole: dict[str, str], tmp_path: Path
) -> None:
    run = lab.start(tmp_path / "r")
    assert lab.cluster.kill_node(lab.cluster.nodes[0])
    assert ended(run) == 0, run.log.read_text()
    judge(lab, tmp_path / "r", whole, new=1)


def test_a_node_that_is_drained_gets_nothing_new_and_its_packs_go_on_elsewhere(
    lab: Lab, whole: dict[str, str], tmp_path: Path
) -> None:
    """A spot instance is told that it goes: Ray drains it, and the provider takes it away."""
    if len(lab.cluster.nodes) < 2:
        lab.cluster.add()
    run = lab.start(tmp_path / "r")
    node = lab.cluster.nodes[0]
    [number] = {
        found[1]
        for words in marked(node, NODE).values()
        if "/raylet/raylet" in words and (found := re.search(r"node[_-]id=([0-9a-f]{56})", words))
    }
    subprocess.run(
        [
            sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", lab.cluster.address,
            "--node-id", number, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
            "--deadline-remaining-seconds", "5",
        ],
        env=os.environ | lab.cluster.environment, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    before, seen = set(marked(node, NODE)), len(lab.steps())
    time.sleep(5)
    late = {one.pid for one in lab.steps()[seen:]} & (set(marked(node, NODE)) - before)
    lab.cluster.kill_node(node)
    assert late == set()
    assert ended(run) == 0, run.log.read_text()
    judge(lab, tmp_path / "r", whole, new=1)


def test_a_driver_whose_own_raylet_is_killed_ends_and_the_sweep_goes_on_on_a_new_cluster(
    lab: Lab, whole: dict[str, str], tmp_path: Path
) -> None:
    """Ray ends a process that has lost its raylet, or does not: the driver sees to it itself then."""
    if len(lab.cluster.nodes) < 2:
        lab.cluster.add()
    run = lab.start(tmp_path / "r")
    first = lab.begun
    assert lab.cluster.kill_raylet(lab.cluster.head)
    began = time.monotonic()
    assert ended(run, 90) != 0, run.log.read_text()
    by = "itself" if "must be part of the cluster" in run.log.read_text() else "Ray"
    print(f"\nthe driver was ended by {by} after {time.monotonic() - began:.0f} s")
    lab.cluster.start()
    again = lab.start(tmp_path / "r", both=False)
    lab.begun = first
    assert ended(again) == 0, again.log.read_text()
    judge(lab, tmp_path / "r", whole, new=0)
