"""A client of a tracking store; the tables of a database are made by one process at a time."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from bnsweep.tracking.uris import absolute_uri, sqlite_path

__all__ = ["connect", "move_artifacts"]

_LOCK = int.from_bytes(b"bnsweep", "big")
"""Number of the advisory lock under which tables are made in PostgreSQL."""


def connect(uri: str) -> MlflowClient:
    """Return a client; the tables of a database that has none are made first, one sweep at a time.

    Args:
        uri: Tracking URI.
    """
    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    if path is None:
        with _alone(uri):
            return MlflowClient(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists() or not path.stat().st_size:
            _make_database(path)
    if not event.contains(Engine, "connect", _flush_seldom):
        event.listen(Engine, "connect", _flush_seldom)
    return MlflowClient(uri)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keep mirrors of other machines, too, from making the same tables in PostgreSQL at once."""
    if not urlsplit(uri).scheme.startswith("postgresql"):
        yield
        return
    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": _LOCK})
        yield  # the lock goes with the connection


def _flush_seldom(connection: Any, _: Any) -> None:
    """Let SQLite flush at its own checkpoints, not at each of the eight commits that a run costs.

    In WAL mode a crash of the machine may then take back the last commits, never damage the file, and
    the next look-up finds what is missing. A file that is not in WAL mode flushes as before.
    """
    if isinstance(connection, sqlite3.Connection):
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            connection.execute("PRAGMA synchronous=NORMAL")


def _make_database(path: Path) -> None:
    """Make MLflow's tables under another name, so that one that is killed leaves no half of them.

    MLflow refuses a database whose tables are not all there. The file is left in WAL mode, which
    lets the UI read while the mirror writes.
    """
    new = path.with_name(f".{path.name}.new")
    for old in path.parent.glob(f"{new.name}*"):
        old.unlink()
    store = SqlAlchemyStore(f"sqlite:///{new}", (path.parent / "mlartifacts").as_uri())
    store.engine.dispose()
    with closing(sqlite3.connect(new)) as database:
        database.execute("PRAGMA journal_mode=WAL")
    new.replace(path)


def move_artifacts(path: Path, experiment_id: str, old: str, new: str) -> None:
    """Let an experiment in a SQLite file have its artifacts elsewhere: results were moved with it.

    MLflow writes absolute places and has no call to change them.

    Args:
        path: The SQLite file.
        experiment_id: MLflow's id of the experiment.
        old: Its artifact location so far, as a URI.
        new: The one from now on.
    """
    with closing(sqlite3.connect(path, timeout=20)) as database, database:
        database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, experiment_id)
        )
        database.execute(
            "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
            "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
            (new, len(old) + 1, experiment_id, len(old), old),
        )
