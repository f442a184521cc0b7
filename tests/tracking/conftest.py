"""Ledgers made by hand, a store whose tables are made once, servers that several tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bnsweep.sweep.ledger import Ledger
from bnsweep.tracking.process import quiet_environment
from tests.tracking.databases import Postgres, postgres, programs
from tests.tracking.ledgers import CONFIGS, START_MS, fill, plan_ledger, rows_of_trial, write_trial
from tests.tracking.servers import ServerProcess, serve


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with a plan of two norms and two seeds, and nothing done."""
    return plan_ledger(tmp_path / "results", "demo")


@pytest.fixture
def full_ledger(tmp_path: Path) -> Callable[[str], Ledger]:
    """Something that makes ledgers by name in which all four trials are done."""

    def make(name: str, storage: str = "results") -> Ledger:
        return fill(plan_ledger(tmp_path / storage, name))

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs."""
    from bnsweep.tracking.stores import connect

    with pytest.MonkeyPatch.context() as patch:
        for name, value in quiet_environment().items():
            patch.setenv(name, value)
        path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
        connect(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def tracking_server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An ``mlflow server`` on SQLite that also keeps the artifacts."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    with serve(f"sqlite:///{folder / 'mlflow.db'}", folder) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Postgres]:
    """A PostgreSQL cluster of our own."""
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres(where) as cluster:
        yield cluster


@pytest.fixture
def uri(ledger: Ledger, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A SQLite store of its own beside the results."""
    for name, value in quiet_environment().items():
        monkeypatch.setenv(name, value)
    path = ledger.root.parent / "mlflow.db"
    shutil.copy(empty_store, path)
    return f"sqlite:///{path}"


class Commit:
    """Commits the made-up trials with the given indices, or all; holds what they are made of."""

    configs = CONFIGS
    start_ms = START_MS
    rows = staticmethod(rows_of_trial)

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __call__(self, *indices: int) -> None:
        for index in indices or range(len(CONFIGS)):
            write_trial(self._ledger, CONFIGS[index])


@pytest.fixture
def complete(ledger: Ledger) -> Commit:
    """Something that commits trials."""
    return Commit(ledger)
