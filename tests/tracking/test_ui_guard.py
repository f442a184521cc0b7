"""The UI answers this machine's browser and nobody else's page; passwords stay out of everything."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bnsweep.sweep.ledger import Ledger
from bnsweep.tracking import sync
from bnsweep.tracking.ui import UiServer, free_port, start_ui
from tests.tracking.databases import PASSWORD, Postgres
from tests.tracking.dumps import rows

pytestmark = [pytest.mark.slow, pytest.mark.mlflow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def ui(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UiServer]:
    server = start_ui(f"sqlite:///{empty_store}", tmp_path_factory.mktemp("ui"), free_port(0))
    assert isinstance(server, UiServer)
    try:
        server.wait_ready(240)
        yield server
    finally:
        server.stop()


def ask(ui: UiServer, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str | None]:
    host = ui.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    given = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    for name, value in given.items():
        connection.putheader(name, value)
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers.get("X-Frame-Options")


SEARCH = "/ajax-api/2.0/mlflow/experiments/search?max_results=1"
CREATE = "/api/2.0/mlflow/experiments/create"


def test_only_a_request_that_names_this_machine_and_port_is_answered(ui: UiServer) -> None:
    assert ask(ui, "GET", SEARCH) == (200, "DENY")
    for host in (
        "evil.com",
        "10.evil.com",
        "192.168.evil.com",
        "localhost",
        "localhost:evil",
        "127.0.0.1:1",
        "",
    ):
        assert ask(ui, "GET", SEARCH, Host=host)[0] in (400, 403), host


def test_a_page_of_somebody_else_cannot_write(ui: UiServer) -> None:
    for kind in ("application/json", "text/plain"):
        for origin in ("https://evil.com", "null", "http://localhost.evil.com"):
            body = json.dumps({"name": f"{kind} {origin}"})
            assert ask(ui, "POST", CREATE, body, Origin=origin, **{"Content-Type": kind})[0] == 403, origin


def test_no_artifact_path_leads_out(ui: UiServer) -> None:
    status, _ = ask(ui, "POST", CREATE, json.dumps({"name": "paths"}))
    assert status == 200
    for path in (
        "../../etc/passwd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "%252e%252e%252fetc",
        "%2Fetc%2Fpasswd",
        "..%5c..%5c",
    ):
        for place in ("/api/2.0/mlflow-artifacts/artifacts/", "/get-artifact?run_uuid=x&path="):
            assert ask(ui, "GET", place + path)[0] in (400, 404, 500), place + path


def test_jobs_are_not_run(ui: UiServer) -> None:
    assert ask(ui, "POST", "/ajax-api/3.0/jobs/", json.dumps({"job_name": "x", "params": {}}))[0] >= 400


def test_passwords_are_nowhere(
    full_ledger: Callable[[str], Ledger],
    postgres_cluster: Postgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database's password, a wrong one, and secrets of the environment: in no file, row or message."""
    known = {
        "MLFLOW_TRACKING_PASSWORD": "env-password-1234",
        "AWS_SECRET_ACCESS_KEY": "aws-secret-5678",
        "RAY_AUTH_TOKEN": "ray-token-9012",
    }
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    ledger, uri = full_ledger("secrets"), postgres_cluster.database()
    wrong = uri.replace(PASSWORD, "wrong-password-3456")
    refused = sync(ledger.root, wrong, timeout=20)
    assert not refused.complete and "***" in refused.uri
    bare = uri.replace(f":{PASSWORD}@", "@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    summary = sync(ledger.root, bare, timeout=200)
    assert summary.complete, summary
    secrets = [PASSWORD, "wrong-password-3456", *known.values()]
    texts = [str(refused), repr(refused), str(summary), repr(summary), repr(rows(uri))]
    for folder, _, names in os.walk(ledger.root.parent):
        texts += [(Path(folder) / name).read_bytes().decode(errors="replace") for name in names]
    assert len(texts) > 20
    for secret in secrets:
        assert not any(secret in text for text in texts)
