"""Databases of Optuna's: how they are reached, so that nothing of ours waits for them for long."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from bnsweep.errors import BnsweepError, Mistake

__all__ = [
    "closing",
    "driver_mistake",
    "first_line",
    "open_storage",
    "read_study",
    "sqlite_file",
    "without_secrets",
]

BUSY_SECONDS = 3
"""How long one statement waits for a locked or silent database; whoever calls tries again or gives up."""

DRIVERS = {"postgresql": "psycopg"}
"""Package through which a kind of database is reached, where the URI names none."""


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI, absolute; ``None`` for a database on a server.

    Example:
        >>> sqlite_file("sqlite:////data/study.db")
        PosixPath('/data/study.db')
    """
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///")).expanduser().resolve()


def driver_mistake(path: str, uri: str) -> Mistake | None:
    """Return what is wrong with a key that names a database whose driver is not installed."""
    kind, _, driver = urlsplit(uri).scheme.partition("+")
    package = driver or DRIVERS.get(kind, "")
    if not package or importlib.util.find_spec(package) is not None:
        return None
    hint = f"pip install '{package}[binary]'" if package == "psycopg" else f"pip install {package}"
    return Mistake(path, "must be a database whose driver is installed", f"no package {package}", hint)


def open_storage(uri: str, seconds: int = BUSY_SECONDS) -> RDBStorage:
    """Connect to a database for writing; its tables are made where they are absent.

    Args:
        uri: ``sqlite:///FILE`` or ``postgresql://...``.
        seconds: How long to wait for a lock or an answer.
    """
    file = sqlite_file(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    return RDBStorage(_url(uri), engine_kwargs={"connect_args": _patience(uri, seconds)})


@contextmanager
def closing(storage: RDBStorage) -> Iterator[RDBStorage]:
    """Close the connections to a database at the end."""
    try:
        yield storage
    finally:
        storage.scoped_session.remove()
        storage.engine.dispose()


def _url(uri: str) -> str:
    """Return the URI with an absolute file, or with the driver that we ask for."""
    file = sqlite_file(uri)
    if file is not None:
        return f"sqlite:///{file}"
    scheme, rest = uri.split("://", 1)
    return f"{scheme}+{DRIVERS[scheme]}://{rest}" if scheme in DRIVERS else uri


def _patience(uri: str, seconds: int, options: str = "") -> dict[str, Any]:
    if uri.startswith("sqlite"):
        return {"timeout": seconds}
    limits = f"-c lock_timeout={seconds * 1000} -c statement_timeout={seconds * 10_000}"
    return {"connect_timeout": seconds, "options": f"{limits}{options}"}


def read_study(
    uri: str, name: str, seconds: int = 60
) -> tuple[list[StudyDirection], list[optuna.trial.FrozenTrial]]:
    """Return the directions and trials of a study; the database is not changed, nor made.

    Raises:
        BnsweepError: If there is no such database or study, or it cannot be read.
    """
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        raise BnsweepError(f"An Optuna study must be in a database, but {file} is not there. Mend the path.")
    url, arguments = _url(uri), _patience(uri, seconds, " -c default_transaction_read_only=on")
    if file is not None:
        url = f"sqlite:///file:{quote(str(file))}?mode=ro&uri=true"
    try:
        with closing(RDBStorage(url, {"connect_args": arguments}, skip_table_creation=True)) as storage:
            names = [found.study_name for found in storage.get_all_studies()]
            if name in names:
                key = storage.get_study_id_from_name(name)
                return storage.get_study_directions(key), storage.get_all_trials(key)
    except Exception as error:  # whatever SQLAlchemy and its drivers raise
        text = first_line(error)
        raise BnsweepError(
            f"The studies in {without_secrets(uri)} must be readable by Optuna {optuna.__version__}, but: "
            f"{text}. Mend the database, or leave search.warm_start out."
        ) from error
    known = f"it holds {', '.join(sorted(names)[:20])}" if names else "it holds none"
    raise BnsweepError(
        f"A study called {name} must be in {without_secrets(uri)}, but {known}. Write DATABASE#STUDY."
    )


def without_secrets(text: str) -> str:
    """Return a text in which passwords of URIs are stars."""
    text = re.sub(r"(?<=://)([^/@:\s]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"(password=)[^&\s]+", r"\1***", text)


def first_line(error: Exception) -> str:
    """Return what a database said, in one line without secrets."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return without_secrets(f"{type(cause).__name__}: {cause}".splitlines()[0][:300])
