"""Many mirrors on one store, also on one whose tables are not there yet; mirrors that are killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnsweep.sweep.ledger import Ledger
from tests.tracking.databases import Postgres
from tests.tracking.dumps import shown
from tests.tracking.servers import ServerProcess, serve, start_mirror_process

Full = Callable[..., Ledger]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mlflow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CROWD = 16


def send_all(ledgers: list[Ledger], uri: str) -> None:
    """Send all at once; every mirror must end without an error."""
    processes = [start_mirror_process(ledger, uri) for ledger in ledgers]
    for process in processes:
        process.join(500)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def check(ledgers: list[Ledger], store: str, artifacts: Path | None = None) -> None:
    """Every sweep must show the same, whole content."""
    contents = [shown(store, ledger.name, artifacts) for ledger in ledgers]
    assert len(contents[0]) == 7
    assert {run["status"] for run in contents[0].values()} == {"FINISHED"}
    trials = [run for key, run in contents[0].items() if key.startswith("trial")]
    assert sum(len(run["metrics"]) for run in trials) == 3 * 9 + 1
    assert all(set(run["files"]) == {"curves.parquet"} for run in trials)
    for content in contents[1:]:
        assert content == contents[0]


@pytest.fixture
def crowd(full_ledger: Full) -> list[Ledger]:
    return [full_ledger(f"sweep-{number}") for number in range(CROWD)]


def test_sixteen_mirrors_make_one_sqlite_file_and_fill_it(crowd: list[Ledger], tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'not' / 'there' / 'mlflow.db'}"
    send_all(crowd, uri)
    check(crowd, uri)


def test_sixteen_mirrors_make_the_tables_of_a_postgresql_database_and_fill_them(
    crowd: list[Ledger], postgres_cluster: Postgres
) -> None:
    uri = postgres_cluster.database()
    send_all(crowd, uri)
    check(crowd, uri)


def test_sixteen_sweeps_write_to_one_server_on_sqlite(
    crowd: list[Ledger], tracking_server: ServerProcess
) -> None:
    send_all(crowd, tracking_server.uri)
    check(crowd, tracking_server.store, tracking_server.artifacts)


def test_sixteen_sweeps_write_to_one_server_on_postgresql(
    crowd: list[Ledger], postgres_cluster: Postgres, tmp_path: Path
) -> None:
    with serve(postgres_cluster.database(), tmp_path) as server:
        send_all(crowd, server.uri)
        check(crowd, server.store, server.artifacts)


@pytest.mark.parametrize("place", ["file", "server", "postgresql"])
def test_mirrors_killed_at_random_moments_leave_what_an_undisturbed_one_does(
    place: str, full_ledger: Full, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Ten kills each, two of a sweep at most, each followed by a mirror that may end."""
    draw = random.Random(place)
    uri, store, artifacts = f"sqlite:///{tmp_path / 'mlflow.db'}", f"sqlite:///{tmp_path / 'mlflow.db'}", None
    if place == "server":
        server: ServerProcess = request.getfixturevalue("tracking_server")
        uri, store, artifacts = server.uri, server.store, server.artifacts
    if place == "postgresql":
        uri = store = request.getfixturevalue("postgres_cluster").database()
    send_all([full_ledger("undisturbed-before-kills")], uri)  # makes the tables
    began = time.monotonic()
    send_all([full_ledger("undisturbed-and-timed")], uri)
    whole = time.monotonic() - began
    expected: dict[str, Any] = shown(store, "undisturbed-and-timed", artifacts)
    landed = 0
    for number in range(60):
        ledger = full_ledger(f"killed-{number}")
        for _ in range(2):
            process = start_mirror_process(ledger, uri)
            process.join(draw.uniform(0.0, whole))
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGKILL)
                landed += 1
            else:
                whole *= 0.9
            process.join()
        send_all([ledger], uri)
        assert shown(store, ledger.name, artifacts) == expected
        if landed >= 10:
            return
    raise AssertionError(f"only {landed} kills met a mirror at work")
