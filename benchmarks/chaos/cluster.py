"""A Ray cluster of several nodes on this machine, and an MLflow server: what can be killed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.chaos.processes import MARK, kill, marked

__all__ = ["NODE", "Cluster", "TrackingServer"]

NODE = "BNSWEEP_NODE"
"""Environment variable by which the processes of one node are found."""

QUICK = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "4"}
"""A dead node is noticed after some seconds instead of half a minute."""


class Cluster:
    """A head without CPUs, and nodes that have two CPUs together.

    Args:
        mark: Marks every process of it.
        size: Nodes beside the head, one or two.

    Attributes:
        address: What a driver needs to attach, beside :attr:`environment`.
        environment: Variables of a driver: the cluster asks for a token.
        nodes: Nodes that are alive, the head left out.
    """

    def __init__(self, mark: str, size: int = 2) -> None:
        self.mark, self.size = mark, size
        self.address = ""
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._count = 0
        self.nodes: list[str] = []
        self._folder = ""

    def start(self) -> None:
        """Start a new cluster; whatever an old one has left is killed."""
        self.stop()
        self._folder = tempfile.mkdtemp(prefix="chaos-", dir="/tmp")
        words = ["--head", "--port=0", "--num-cpus=0", "--include-dashboard=false"]
        told = self._ray_start("head", *words, f"--temp-dir={self._folder}")
        found = re.search(r"--address='([^']+)'", told)
        if found is None:
            raise RuntimeError(f"Ray has not said its address: {told}")
        self.address = found[1]
        for _ in range(self.size):
            self.add()

    def add(self) -> None:
        """Let a node join."""
        self._count += 1
        name = f"{self.mark}-{self._count}"
        self._ray_start(name, f"--address={self.address}", f"--num-cpus={max(1, 2 // self.size)}")
        self.nodes.append(name)

    def _ray_start(self, name: str, *words: str) -> str:
        environment = {
            **os.environ,
            **QUICK,
            **self.environment,
            MARK: self.mark,
            NODE: name if name != "head" else self.head,
        }
        environment.setdefault("OMP_NUM_THREADS", "1")
        environment["PYTHONPATH"] = os.pathsep.join([os.getcwd(), environment.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--disable-usage-stats"]
        done = subprocess.run(
            [*command, "--node-ip-address=127.0.0.1"], env=environment, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"ray start {' '.join(words)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    @property
    def head(self) -> str:
        """Name of the head's node."""
        return f"{self.mark}-head"

    def kill_node(self, name: str) -> int:
        """Kill every process of a node at once: its raylet, its agents, its workers."""
        self.nodes = [node for node in self.nodes if node != name]
        return kill(marked(name, NODE))

    def kill_raylet(self, name: str) -> int:
        """Kill a node's raylet alone; the rest is left to notice."""
        self.nodes = [node for node in self.nodes if node != name]
        return kill(pid for pid, words in marked(name, NODE).items() if "/raylet/raylet" in words)

    def stop(self) -> None:
        """Kill all of it, and remove what it wrote."""
        for name in [self.head, *(f"{self.mark}-{number}" for number in range(1, self._count + 1))]:
            kill(marked(name, NODE))
        self.nodes = []
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class TrackingServer:
    """An MLflow server on a SQLite file, always on the same port.

    Args:
        storage: Folder that holds ``mlflow.db``.
        mark: Marks every process of it.
    """

    def __init__(self, storage: Path, mark: str) -> None:
        from bnsweep.tracking.ui import free_port

        self.storage, self.mark = storage, mark
        self.port = free_port(0)
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        from bnsweep.tracking.ui import ui_command, ui_environment

        uri = f"sqlite:///{self.storage}/mlflow.db"
        if not (self.storage / "mlflow.db").exists():
            code = f"from bnsweep.tracking.runs import connect; connect({uri!r})"
            subprocess.run([sys.executable, "-c", code], check=True, env=self._environment())
        with (self.storage / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                ui_command(self.port), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=self._environment() | ui_environment(uri, self.storage),
            )  # fmt: skip
        self.wait()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, NODE: self.mark}

    def wait(self, patience: float = 300.0) -> None:
        """Wait until it answers."""
        import urllib.request

        end = time.monotonic() + patience
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError(f"the MLflow server does not answer; see {self.storage}/server.log")

    def kill(self) -> int:
        """Kill all its processes."""
        count = kill(marked(self.mark, NODE))
        if hasattr(self, "_process"):
            self._process.wait(60)
        return count
