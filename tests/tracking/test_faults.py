"""What goes wrong with a store costs nothing but time: the same content in the end, each thing once."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnsweep.sweep.ledger import Ledger
from bnsweep.tracking import lag, start_mirror, sync
from bnsweep.tracking import mirror as module
from bnsweep.tracking.mirror import Mirror
from bnsweep.tracking.orders import Orders
from bnsweep.tracking.process import quiet_environment
from tests.tracking import faults
from tests.tracking.dumps import shown
from tests.tracking.faults import Fault, Proxy, Script, proxy_before
from tests.tracking.ledgers import fill, plan_ledger
from tests.tracking.servers import ServerProcess

Full = Callable[..., Ledger]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def mirror(ledger: Ledger, uri: str, seconds: float = 200) -> dict[str, Any]:
    orders = Orders(follow=False)
    orders.finish(seconds)
    return Mirror(Ledger(ledger.root), uri, orders).run()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pauses, shorter."""
    for name, value in quiet_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("bnsweep.tracking.failures._PAUSE_S", 0.02)
    monkeypatch.setattr("bnsweep.tracking.mirror._LONGEST_PAUSE_S", 0.3)


@pytest.fixture
def proxy(tracking_server: ServerProcess) -> Iterator[Proxy]:
    with proxy_before(tracking_server.port) as proxy:
        yield proxy


def clean(experiment: str, server: ServerProcess) -> dict[str, Any]:
    return shown(server.store, experiment, server.artifacts)


@pytest.fixture(scope="module")
def undisturbed(tracking_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the store shows of the four trials where nothing goes wrong."""
    ledger = fill(plan_ledger(tmp_path_factory.mktemp("undisturbed"), "undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in quiet_environment().items():
            patch.setenv(name, value)
        assert mirror(ledger, tracking_server.uri) == {"exported": 4, "pending": 0, "error": ""}
    content = clean("undisturbed", tracking_server)
    assert len(content) == 7 and all(run["status"] == "FINISHED" for run in content.values())
    return content


def some(fault: Fault, seed: int, share: float = 0.3) -> Script:
    """Let a share of the requests meet a fault, the same ones for the same seed."""
    draw = random.Random(seed)
    return lambda number, path: fault if draw.random() < share else None


FAULTS: dict[str, Fault] = {
    "429": faults.status(429, Retry_After="1"),
    "500": faults.status(500),
    "502": faults.status(502),
    "503": faults.status(503, Retry_After="1"),
    "html": faults.html,
    "done-then-500": faults.done_then_error,
    "done-then-silence": faults.done_then_silence,
    "cut-off": faults.cut_off,
    "401": faults.status(401),
    "403": faults.status(403),
    "slowly": faults.slowly(0.5),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_server_that_fails_now_and_then_shows_the_same_in_the_end(
    name: str, full_ledger: Full, proxy: Proxy, tracking_server: ServerProcess, undisturbed: dict[str, Any]
) -> None:
    proxy.script = some(FAULTS[name], len(name), 0.08 if name in ("401", "403") else 0.3)
    ledger = full_ledger(f"fault-{name}")
    summary = mirror(ledger, proxy.uri)
    while summary["pending"] or summary["error"]:  # a mirror that is denied twice in a row gives up
        assert name in ("401", "403")
        summary = mirror(ledger, proxy.uri)
    assert clean(ledger.name, tracking_server) == undisturbed


def test_a_run_whose_making_was_not_heard_of_is_adopted(
    full_ledger: Full,
    proxy: Proxy,
    tracking_server: ServerProcess,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mirror dies between making a run and noting its id; the next one finds it by its tag."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    ledger = full_ledger("adopted")
    dead: list[int] = []

    def script(number: int, path: str) -> Fault | None:
        if dead or (path.endswith("runs/create") and number > 10):
            dead.append(number)
            return faults.hang_first if dead[1:] else faults.done_then_silence
        return None

    proxy.script = script
    assert mirror(ledger, proxy.uri, seconds=3)["pending"] > 0
    proxy.gone.set()
    assert mirror(ledger, tracking_server.uri)["pending"] == 0
    assert clean("adopted", tracking_server) == undisturbed


@pytest.mark.parametrize("fault", [faults.hang, faults.hang_first], ids=["done", "not-done"])
def test_a_server_that_hangs_for_two_minutes_holds_up_one_call(
    fault: Fault,
    full_ledger: Full,
    proxy: Proxy,
    tracking_server: ServerProcess,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    hung: set[str] = set()

    def script(number: int, path: str) -> Fault | None:
        call = path.rsplit("/", 1)[-1]
        if call in ("log-batch", "create", "update") and call not in hung:
            hung.add(call)
            return fault
        return None

    proxy.script = script
    ledger = full_ledger(f"hang-{fault.__name__.replace('_', '-')}")
    assert mirror(ledger, proxy.uri) == {"exported": 4, "pending": 0, "error": ""}
    assert hung == {"log-batch", "create", "update"}
    assert clean(ledger.name, tracking_server) == undisturbed


def test_an_outage_leaks_nothing(
    full_ledger: Full, proxy: Proxy, tracking_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of failures: no thread, no file descriptor, a log of bounded size; then all is sent."""
    monkeypatch.setattr("bnsweep.tracking.mirror._LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr("bnsweep.tracking.failures._PAUSE_S", 0.001)
    ledger = full_ledger("outage")
    orders, told = Orders(follow=True), []
    one = Mirror(Ledger(ledger.root), proxy.uri, orders, lambda event, error: told.append(event))
    kinds = [faults.status(500), faults.status(503), faults.html, faults.done_then_silence]
    proxy.script = lambda number, path: kinds[number % len(kinds)]
    runner = threading.Thread(target=one.run)
    runner.start()
    try:
        until(lambda: len(proxy.asked) > 60)
        before = open_files(), threading.active_count()
        until(lambda: len(proxy.asked) > 400)
        after = open_files(), threading.active_count()
        assert told == ["failing"] and lag(ledger, proxy.uri, 4).pending == 4
        assert lag(ledger, proxy.uri, 4).error
        proxy.script = lambda number, path: None
        until(lambda: lag(ledger, proxy.uri, 4).pending == 0)
        assert told == ["failing", "well"]
    finally:
        orders.finish(60)
        runner.join()
    assert after[0] <= before[0] + 8 and after[1] <= before[1] + 4  # the proxy's connections come and go
    assert lag(ledger, proxy.uri, 4).error == ""


def test_the_log_of_a_mirror_is_bounded(
    full_ledger: Full, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Mirror(full_ledger("logged"), "http://127.0.0.1:9", Orders(follow=False))
    with (tmp_path / "log").open("a") as log:
        monkeypatch.setattr(module.sys, "stderr", log)
        for number in range(3000):
            one._log(f"{number} " + "x" * 3000)
    assert 0 < (tmp_path / "log").stat().st_size <= module._LOG_BYTES + 4000


def until(holds: Callable[[], bool], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_hanging_server_does_not_hold_up_whoever_ends_the_sweep(
    full_ledger: Full, proxy: Proxy, tracking_server: ServerProcess, undisturbed: dict[str, Any]
) -> None:
    ledger = full_ledger("held-up")
    proxy.script = lambda number, path: faults.hang_first
    following = start_mirror(ledger.root, proxy.uri)
    until(lambda: len(proxy.asked) > 0)
    began = time.monotonic()
    summary = following.finish(3)
    assert time.monotonic() - began < 9
    assert summary.pending == 4 and f"run bnsweep sync {ledger.root}" in str(summary)
    assert "4 trials not exported" in str(summary)
    summary = sync(ledger.root, tracking_server.uri)
    assert summary.complete, summary
    assert clean("held-up", tracking_server) == undisturbed


def test_a_server_that_is_down_at_the_start_and_dies_in_the_middle_is_caught_up_with(
    full_ledger: Full, tmp_path: Path, empty_store: Path, undisturbed: dict[str, Any]
) -> None:
    shutil.copy(empty_store, tmp_path / "own.db")
    server = ServerProcess(f"sqlite:///{tmp_path / 'own.db'}", tmp_path)
    ledger = full_ledger("comes-late")
    following = start_mirror(ledger.root, server.uri)
    try:
        until(lambda: bool(lag(ledger, server.uri, 4).error))
        for _ in range(2):
            server.start()
            server.wait_ready()
            until(lambda: lag(ledger, server.uri, 4).pending < 4)
            server.kill()
        server.start()
        server.wait_ready()
        summary = following.finish(200)
        if not summary.complete:  # it had been away for longer than the end of a sweep waits
            summary = sync(ledger.root, server.uri)
        assert summary.complete, summary
    finally:
        server.kill()
        following.finish(0)
    assert clean("comes-late", server) == undisturbed


def test_a_mirror_that_is_left_sends_the_rest_by_itself(
    full_ledger: Full, proxy: Proxy, tracking_server: ServerProcess, undisturbed: dict[str, Any]
) -> None:
    """Whoever was interrupted does not wait for it; it hears no more of anybody, and closes every run."""
    ledger = full_ledger("left")
    proxy.script = lambda number, path: faults.status(503) if number < 4 else None
    following = start_mirror(ledger.root, proxy.uri)
    until(lambda: len(proxy.asked) > 0)
    began = time.monotonic()
    summary = following.finish(60, wait=0.5)
    assert time.monotonic() - began < 5
    assert summary.pending == 4 and "being sent still" in str(summary)
    until(lambda: not following.alive())
    assert clean("left", tracking_server) == undisturbed
