"""A real ``mlflow server`` that keeps artifacts itself, and mirrors as processes that start at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from bnsweep.sweep.ledger import Ledger
from bnsweep.tracking.mirror import Mirror
from bnsweep.tracking.orders import Orders
from bnsweep.tracking.process import quiet_environment
from bnsweep.tracking.ui import free_port


class ServerProcess:
    """An ``mlflow server`` that can be killed and started again.

    Attributes:
        store: URI of its database.
        artifacts: Its folder of artifacts.
        port: Where it listens.
    """

    def __init__(self, store: str, folder: Path) -> None:
        self.store, self.folder, self.port = store, folder, free_port(0)
        self.artifacts = folder / "artifacts"
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1", "--serve-artifacts", "--artifacts-destination", str(self.artifacts),
        ]  # fmt: skip
        environment = {
            **os.environ, **quiet_environment(), "MLFLOW_BACKEND_STORE_URI": self.store,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self._process is not None and self._process.poll() is None, self.log()
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log())

    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def kill(self) -> None:
        """End it at once, with all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def serve(store: str, folder: Path) -> Iterator[ServerProcess]:
    """Serve a database until the end of the block."""
    server = ServerProcess(store, folder)
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["bnsweep.tracking.exporter", "tests.tracking.servers"])


def _mirror(root: str, uri: str, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    orders = Orders(follow=False)
    orders.finish(240)
    summary = Mirror(Ledger(root), uri, orders).run()
    if summary["pending"] or summary["error"]:
        print(summary, file=sys.stderr)
        sys.exit(4)


def start_mirror_process(ledger: Ledger, uri: str) -> BaseProcess:
    """Start a mirror that sends a ledger once, in a process that has MLflow imported already."""
    process = _FORKS.Process(target=_mirror, args=(str(ledger.root), uri, quiet_environment()))
    process.start()
    return process
