"""deploy/mlflow/start.sh as it stands: a server with a login, and a run mirrored into it by its own user."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.errors import ServiceError
from bnsweep.runners import LocalRunner
from bnsweep.tracking import try_store
from bnsweep.tracking.process import quiet_environment
from bnsweep.tracking.ui import free_port
from tests.tracking.databases import postgres, programs

SCRIPTS = Path(__file__).parents[2] / "deploy" / "mlflow"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Server:
    """A server that the script has started."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.port = folder, free_port(0)
        self.uri = f"http://127.0.0.1:{self.port}"
        secrets = folder / "mlflow.env"
        subprocess.run(["sh", str(SCRIPTS / "secrets.sh"), str(secrets)], check=True, capture_output=True)
        self.secrets = dict(line.split("=") for line in secrets.read_text().split())
        self.log = folder / "log"
        environment = {
            **os.environ, **quiet_environment(), **self.secrets, "MLFLOW_FOLDER": str(folder / "data"),
            "MLFLOW_PORT": str(self.port), "PYTHON": sys.executable, **variables,
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", str(SCRIPTS / "start.sh")], env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def ask(self, path: str, user: str = "", password: str = "", **more: Any) -> tuple[int, Any]:
        """Return status and content of an answer; what ``body`` holds is posted as JSON."""
        headers = {"Content-Type": "application/json", **more.get("headers", {})}
        if user:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        body = json.dumps(more["body"]).encode() if "body" in more else None
        request = urllib.request.Request(f"{self.uri}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or b"null") if "/api/" in path else None
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")

    def admin(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return self.ask(path, "admin", self.secrets["MLFLOW_ADMIN_PASSWORD"], body=body)


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[Server]:
    server = Server(folder, variables)
    try:
        until = time.monotonic() + 240
        while True:
            assert server.process.poll() is None, server.log.read_text()
            try:
                if server.ask("/health")[0] == 200:
                    break
            except OSError:
                pass
            assert time.monotonic() < until, server.log.read_text()
            time.sleep(0.3)
        yield server
    finally:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


PASSWORD = "a-login-of-its-own-4711"


def mirrored(server: Server, sweep: dict[str, Any], storage: Path) -> None:
    """Let a user of the server mirror a sweep into it, and look at it."""
    made, _ = server.admin("/api/2.0/mlflow/users/create", {"username": "lab", "password": PASSWORD})
    assert made == 200
    sweep["tracking"] = {"uri": server.uri}
    assert "took a run with a file" in try_store(server.uri)
    outcome = api.run(sweep, runner=LocalRunner(), storage=str(storage))
    assert outcome.tracked is not None
    assert outcome.tracked.complete, outcome.tracked
    status, found = server.ask(
        "/api/2.0/mlflow/experiments/search", "lab", PASSWORD, body={"max_results": 10}
    )
    assert status == 200
    assert [one["name"] for one in found["experiments"]] == ["tiny"], "the canary is not shown any more"
    status, runs = server.ask(
        "/api/2.0/mlflow/runs/search", "lab", PASSWORD,
        body={
            "experiment_ids": [found["experiments"][0]["experiment_id"]],
            "filter": "tags.`bnsweep.kind` = 'trial'", "max_results": 100,
        },
    )  # fmt: skip
    assert status == 200
    assert len(runs["runs"]) == 6
    assert list((server.folder / "data" / "artifacts").rglob("report.html")), (
        "artifacts go through the server"
    )


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(password: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "lab")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    use(PASSWORD)
    return use


def test_a_run_is_mirrored_into_the_server_that_the_script_starts(
    tiny: dict[str, Any], tmp_path: Path, login: Callable[[str], None]
) -> None:
    with serving(tmp_path) as server:
        assert server.ask("/api/2.0/mlflow/experiments/get?experiment_id=0")[0] == 401
        assert server.ask("/api/2.0/mlflow/experiments/get?experiment_id=0", "admin", "wrong")[0] == 401
        for host in ("evil.example", "127.0.0.1:1", f"10.evil.example:{server.port}"):
            assert server.ask("/", headers={"Host": host})[0] == 403, host
        line = Path(f"/proc/{server.process.pid}/cmdline").read_text()
        assert not [value for value in server.secrets.values() if value in line], "seen by everybody in ps"
        mirrored(server, tiny, tmp_path / "results")
        assert not [value for value in server.secrets.values() if value in server.log.read_text()]
        made, _ = server.admin("/api/2.0/mlflow/users/create", {"username": "other", "password": PASSWORD})
        assert made == 200
        status, found = server.ask(
            "/api/2.0/mlflow/experiments/search", "other", PASSWORD, body={"max_results": 10}
        )
        assert (status, found.get("experiments", [])) == (200, []), "nobody sees what is not his"
        for path in (server.folder / "data").iterdir():
            assert path.stat().st_mode & 0o077 == 0, f"{path} can be read by others"
        login("a-wrong-password")
        with pytest.raises(ServiceError, match="must take a run") as refused:
            try_store(server.uri)
        assert "a-wrong-password" not in str(refused.value)


@pytest.mark.mlflow
def test_the_same_on_postgresql(tiny: dict[str, Any], tmp_path: Path, login: Callable[[str], None]) -> None:
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres(where) as cluster, serving(
        tmp_path, MLFLOW_BACKEND_STORE_URI=cluster.database()
    ) as server:  # fmt: skip
        mirrored(server, tiny, tmp_path / "results")
        assert not (tmp_path / "data" / "mlflow.db").exists()
