"""What goes wrong with a store costs nothing but time: the same content in the end, each thing once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bnsweep.sweep.ledger import Ledger
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
    proxy.script = some(FAULTS[name], seed=len(name))
    ledger = full_ledger(f"fault-{name}")
    summary = mirror(ledger, proxy.uri)
    while summary["pending"] or summary["error"]:  # a mirror that is denied twice in a row gives up
        assert name in ("401", "403")
        summary = mirror(ledger, proxy.uri)
    assert clean(ledger.name, tracking_server) == undisturbed
