"""Whether a tracking store can be used is known within seconds, and without MLflow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bnsweep.errors import ServiceError, SpecError
from bnsweep.tracking.credentials import redacted
from bnsweep.tracking.ui import free_port, ui_command, ui_environment
from bnsweep.tracking.uris import absolute_uri, check_uri, default_uri, uri_digest


@pytest.mark.parametrize(
    "uri",
    [
        "", "mlruns", "./mlruns", "file:///tmp/mlruns", "s3://bucket", "http://", "http:///x", "sqlite://",
        "sqlite:///", "databricks", "http://[::1", "http://host:port", "ftp://host",
    ],
)  # fmt: skip
def test_a_uri_that_is_none_is_a_mistake_in_the_file(uri: str) -> None:
    with pytest.raises(SpecError, match=r"tracking\.uri must be") as caught:
        check_uri(uri)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_an_address_where_nothing_listens_is_refused_at_once(scheme: str) -> None:
    uri = f"{scheme}://user:secret@127.0.0.1:{free_port(0)}"
    start = time.monotonic()
    with pytest.raises(ServiceError, match="does not") as caught:
        check_uri(uri)
    assert time.monotonic() - start < 5
    assert "secret" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(ServiceError, match="does not answer"):
            check_uri(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < 8


class Answer(BaseHTTPRequestHandler):
    """Answers by path: MLflow under /mlflow, another page under /other, else 404."""

    def do_GET(self) -> None:
        bodies = {"/mlflow/health": b"OK", "/other/health": b"<html>welcome</html>"}
        body = bodies.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def web() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "message"),
    [("/mlflow", None), ("/mlflow/", None), ("/other", "not MLflow"), ("", "HTTP 404")],
    ids=["mlflow", "slash", "another-site", "not-found"],
)
def test_only_mlflow_counts_as_an_answer(web: str, path: str, message: str | None) -> None:
    if message is None:
        check_uri(web + path)
    else:
        with pytest.raises(ServiceError, match=message):
            check_uri(web + path)


def test_a_sqlite_file_may_be_absent_empty_or_a_database(tmp_path: Path) -> None:
    check_uri(default_uri(tmp_path / "not" / "yet"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    check_uri(f"sqlite:///{tmp_path / 'empty.db'}")
    other = tmp_path / "notes.txt"
    other.write_text("these are my notes, not a database")
    for path in (other, tmp_path, other / "mlflow.db"):
        with pytest.raises(ServiceError, match="tracking store must be"):
            check_uri(f"sqlite:///{path}")
    assert other.read_text().startswith("these are my notes")


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ServiceError, match="folder that can be written"):
        check_uri("sqlite:////dev/null/store/mlflow.db")


def test_uris_are_compared_by_what_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        absolute_uri("sqlite:///a.db")
        == f"sqlite:///{tmp_path}/a.db"
        == absolute_uri(f"sqlite:///{tmp_path}/a.db")
    )
    assert uri_digest("http://host:5000/") == uri_digest("http://host:5000")
    assert uri_digest("http://host:5000") != uri_digest("http://host:5001")
    assert redacted("http://me:pass@word@host/x") == "http://me:***@host/x"


def test_the_ui_is_for_this_machine_only(tmp_path: Path) -> None:
    command = ui_command(5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--allowed-hosts") + 1] == "127.0.0.1:5001,localhost:5001"
    assert command[command.index("--workers") + 1] == "1"
    environment = ui_environment("postgresql://me:secret@host/db", tmp_path)
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_SERVER_X_FRAME_OPTIONS"] == "DENY"
    assert environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == f"file://{tmp_path}/mlartifacts"
    assert not any("secret" in word for word in command)


def test_a_port_in_use_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(0) > 0
