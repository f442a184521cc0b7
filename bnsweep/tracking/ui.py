"""The MLflow UI on a sweep's tracking store, on this machine only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from bnsweep.errors import ServiceError
from bnsweep.tracking.credentials import with_login, without_login
from bnsweep.tracking.process import quiet_environment
from bnsweep.tracking.uris import absolute_uri, check_uri, sqlite_path

__all__ = ["UiServer", "free_port", "start_ui", "ui_command", "ui_environment"]

_HOST = "127.0.0.1"


def free_port(preferred: int = 5000) -> int:
    """Return ``preferred`` if nothing listens there on 127.0.0.1, else a free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceError(f"A port must be free on {_HOST}, but none is. Close a program and try again.")


def ui_command(port: int) -> list[str]:
    """Return the command that serves the UI; the store is in :func:`ui_environment`.

    One worker, no job runners (the default is fifteen processes), and only requests that name this
    machine and port: without that list MLflow lets names such as ``10.evil.com`` pass.
    """
    hosts = f"{_HOST}:{port},localhost:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port)]
    return [*command, "--workers", "1", "--allowed-hosts", hosts]


def ui_environment(uri: str, storage: Path | str) -> dict[str, str]:
    """Return the environment of :func:`ui_command`, which keeps a password out of the process list.

    Args:
        uri: Tracking URI of a SQLite file or a database.
        storage: Folder of results; artifacts lie beside them.
    """
    artifacts = (Path(storage).expanduser().resolve() / "mlartifacts").as_uri()
    return quiet_environment() | {
        "MLFLOW_BACKEND_STORE_URI": absolute_uri(uri),
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_X_FRAME_OPTIONS": "DENY",
        # what a user's environment says of other servers is not for this one
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "",
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    }


class UiServer:
    """A UI that is being served; end it with :meth:`stop`.

    Attributes:
        url: Where it is.
        log: What it says.
        pid: Its first process, whose session all of them are in.
    """

    def __init__(self, uri: str, storage: Path | str, port: int) -> None:
        self.url = f"http://{_HOST}:{port}"
        folder = Path(storage).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "mlflow-ui.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ui_command(port),
                env={**os.environ, **ui_environment(uri, storage)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait_ready(self, timeout: float = 90.0) -> None:
        """Wait until it answers.

        Raises:
            ServiceError: If it ends or does not answer in time.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.3)
        self.stop()
        raise ServiceError(
            f"The MLflow UI must answer at {self.url}, but did not within {timeout:g} s; {self.log} says why."
        )

    def wait(self) -> int:
        """Wait until it ends; returns its exit code."""
        return self._process.wait()

    def stop(self) -> None:
        """End it with all its processes."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(10)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()


def start_ui(uri: str, storage: Path | str, port: int | None = None) -> UiServer | str:
    """Serve the UI on a SQLite file or database; for a tracking server return its address instead.

    Args:
        uri: Tracking URI.
        storage: Folder of results.
        port: Port to use; 5000 or a free one by default.

    Returns:
        The server, which needs some ten seconds to answer, or the address where one is served already.
    """
    uri = with_login(uri)
    check_uri(uri)
    if uri.startswith(("http://", "https://")):
        return without_login(absolute_uri(uri))
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        from bnsweep.tracking.stores import connect

        connect(uri)  # a server and a mirror that make the same tables at once leave half of them
    return UiServer(uri, storage, free_port() if port is None else port)
