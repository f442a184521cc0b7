"""The platform's benchmark measures what it says, and a quick run of it ends well."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks import platform
from bnsweep import api
from bnsweep.analysis.results import Results
from bnsweep.sweep.ledger import Ledger


@pytest.mark.parametrize("trials", [4, 40, 1000, 10_000])
def test_a_plan_has_as_many_trials_as_asked_for(trials: int) -> None:
    assert api.plan(platform.content(trials)).count == trials


def test_the_ledger_made_up_is_one_that_the_verbs_read(tmp_path: Path) -> None:
    root, seconds = platform.write_ledger(platform.content(8), tmp_path)
    assert seconds > 0
    assert api.status(root).states == {"completed": 8}
    assert len(api.results(root)) == 8
    files, size = platform.size_of(root)
    assert files == 16 and size == sum(path.stat().st_size for path in (root / "trials").glob("*/*"))


def test_claims_are_judged_on_the_readings_made_up(tmp_path: Path) -> None:
    root, _ = platform.write_ledger(platform.claimed(80), tmp_path)
    verdicts = Results.read(Ledger.open(root.parent, root.name)).verdicts
    assert [one.claim.name for one in verdicts] == list(platform.CLAIMS)
    assert {one.word for one in verdicts} <= {"supported", "refuted", "undecided"}
    assert sum(bool(one.judged.tests) for one in verdicts) >= 8


def test_processes_are_measured_from_outside() -> None:
    before = platform.cpu_of(os.getpid())
    assert sum(number * number for number in range(1_000_000)) > 0
    assert platform.cpu_of(os.getpid()) > before
    assert 0 < platform.memory_of(os.getpid(), "VmRSS") <= platform.memory_of(os.getpid(), "VmHWM")
    assert platform.child_called(os.getpid(), "no such command") is None
    assert platform.call("json.tool", "--help").cpu > 0


class _Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_the_proxy_counts_and_passes_on() -> None:
    counts: Counter[str] = Counter()
    served = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    front = ThreadingHTTPServer(("127.0.0.1", 0), platform._proxy(served.server_address[1], counts))
    for server in (served, front):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{front.server_address[1]}"
        asked = {"/api/2.0/mlflow/runs/create": b"one", "/api/2.0/mlflow-artifacts/artifacts/x": b"two"}
        for path, body in asked.items():
            with urllib.request.urlopen(url + path, body, timeout=10) as answer:
                assert answer.read() == body
    finally:
        for server in (front, served):
            server.shutdown()
            server.server_close()
    assert counts == {"runs/create": 1, "artifacts": 1}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_quick_run_prints_every_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["platform", "--quick"])
    platform.main()
    printed = capsys.readouterr().out
    for figure in (
        "a trial, Tune and ledger",
        "memory a pack",
        "plan:",
        "status:",
        "report:",
        "with 9 claims",
        "SQLite: CPU a trial",
    ):
        assert figure in printed
    assert "40 in " in printed
