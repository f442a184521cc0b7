"""What is refused before a cluster is touched: tokens, addresses, places, versions, what is sent."""

from __future__ import annotations

import http.server
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnsweep import matching, remote
from bnsweep.cli import main
from bnsweep.errors import BnsweepError, ServiceError
from bnsweep.runners import access, parcel
from bnsweep.runners.admission import no_place
from bnsweep.runners.jobs import connect
from bnsweep.runners.machine import Node
from bnsweep.runners.origin import hide_secrets
from bnsweep.tracking.ui import free_port

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray and its dependencies are not free of these.


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(access, "_private", None)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def token(path: Path, mode: int = 0o600, text: str = "5" * 64) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_private_token_is_for_its_owner_and_no_other_cluster() -> None:
    access.make_private_token()
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.read_text()) == 64
    assert os.environ["RAY_AUTH_MODE"] == "token"
    with pytest.raises(BnsweepError, match="must be known here"):
        access.require_token()  # it is for the Ray of this process


def test_a_token_that_others_can_read_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = token(tmp_path / "t", 0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with pytest.raises(BnsweepError, match="mode 0644") as refused:
        access.require_token()
    assert "5" * 64 not in str(refused.value)
    path.chmod(0o600)
    access.require_token()
    token(path, text="\n")
    with pytest.raises(BnsweepError, match="holds none"):
        access.require_token()


def test_insecure_is_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    access.permit_insecure("http://127.0.0.1:8265")
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    for address in ("http://192.0.2.1:8265", "http://example.org:8265", "203.0.113.9:6379"):
        with pytest.raises(BnsweepError, match="--insecure is for"):
            access.permit_insecure(address)


@pytest.fixture
def dashboard() -> Iterator[tuple[str, dict[str, str]]]:
    """Something that answers the one open question of a dashboard."""
    content = {"mode": "disabled"}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f'{{"authentication_mode": "{content["mode"]}"}}'.encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", content
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_cluster_that_asks_for_no_token_is_refused(
    dashboard: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, content = dashboard
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token(tmp_path / "t")))
    with pytest.raises(BnsweepError, match="must ask for a token"):
        connect(url)
    content["mode"] = "token"
    with pytest.raises(BnsweepError, match="leave --insecure out"):
        connect(url, insecure=True)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    with pytest.raises(BnsweepError, match="must be known here"):
        connect(url)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8265", "ray://h:1", "http://h:1/x", "http://h:1?token=geheim", "http://u:geheim@h:1"]
)
def test_addresses_of_other_kinds_are_refused_without_showing_what_is_in_them(url: str) -> None:
    with pytest.raises(BnsweepError, match="must be http") as refused:
        connect(url)
    assert "geheim" not in str(refused.value)


def test_nothing_there_is_said_in_a_paragraph(
    write_sweep: Any, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = str(write_sweep(tiny))
    address = f"http://127.0.0.1:{port}"
    assert main(["submit", file, "--address", address, "--storage", str(tmp_path)]) == 4
    assert "must answer at" in capsys.readouterr().err
    assert main(["submit", file, "--address", address, "--storage", "results"]) == 2
    assert "absolute folder" in capsys.readouterr().err
    assert main(["run", file, "--address", address]) == 2
    assert "bnsweep submit" in capsys.readouterr().err
    token(tmp_path / ".t")
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / ".t")
    with pytest.raises(ServiceError, match="A Ray cluster must answer"):
        access.asks_for_token(f"127.0.0.1:{port}", timeout=2)


def test_plain_http_to_a_public_name_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with pytest.raises(ServiceError):
        remote.jobs_at("http://cluster.invalid.example:8265", say=said.append)
    matching._say_if_away("http://mlflow.invalid.example:5000", said.append)
    matching._say_if_away(f"http://127.0.0.1:{free_port(0)}", said.append)
    assert [line.partition(": ")[0] for line in said] == ["warning", "warning", "note", "note"]
    assert "plain http to a public name" in said[0]
    assert "mlflow.invalid.example:5000 is plain http" in said[1]


def test_slots_are_counted_on_each_machine() -> None:
    nodes = [Node("a", 4), Node("b", 4)]
    assert sum(node.slots(3, 0) for node in nodes) == 2, "not floor(8 / 3)"
    assert sum(node.slots(5, 0) for node in nodes) == 0
    assert Node("g", 16, 4).slots(1, 0.4) == 8, "two a GPU; shares do not span GPUs"
    assert Node("g", 16, 3).slots(1, 2) == 1
    text = no_place(5, 0, nodes)
    assert "5 CPUs" in text
    assert "  b        4     0" in text


def test_what_is_sent_is_the_package_the_norms_and_nothing_too_large(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep import api

    monkeypatch.chdir(tmp_path)
    (tmp_path / "ownnorms.py").write_text(
        "from torch import nn\n\n\ndef plain(n):\n    return nn.Identity()\n"
    )
    tiny["parameters"]["norm"] = ["none", "ownnorms:plain"]
    with parcel.packed(api.load(tiny)) as folder:
        assert (folder / "ownnorms.py").read_text() == (tmp_path / "ownnorms.py").read_text()
        own = {path.relative_to(folder / "bnsweep") for path in (folder / "bnsweep").rglob("*.py")}
        source = Path(parcel.__file__).parent.parent
        assert own == {path.relative_to(source) for path in source.rglob("*.py")}
        assert parcel.digest_of(folder) == parcel.digest_of(folder)
        assert parcel.check_size(folder) < 5 * 2**20
        (folder / "weights.bin").write_bytes(bytes(3 * 2**20))
        with pytest.raises(BnsweepError, match=r"the largest: weights.bin \(3.0 MiB\)"):
            parcel.check_size(folder, most=2**20)
    with pytest.raises(BnsweepError, match="is not there"):
        parcel.fill(tmp_path / "new", [tmp_path / "absent.py"])


def test_secrets_of_the_environment_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse")
    assert hide_secrets("+key = 'wJalrXUtnFEMI'\n+p = 'correct-horse'") == "+key = '***'\n+p = '***'"


def test_output_of_a_job_is_shown_without_rays_own_lines() -> None:
    text = "2026 INFO job_manager.py:581 -- Runtime env is setting up.\nRunning entrypoint for job x: y\na\n"
    assert remote.output_of(text) == "a\n"
