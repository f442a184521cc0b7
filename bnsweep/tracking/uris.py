"""Where MLflow lies: the default store, and whether a given one can be used, without MLflow."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from bnsweep.errors import Mistake, ServiceError, SpecError
from bnsweep.tracking.credentials import redacted, without_login

__all__ = ["absolute_uri", "check_uri", "default_uri", "sqlite_path", "unreachable", "uri_digest"]

_DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_DRIVERS = {"postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}
_NOT_THERE = (400, 404, 405, 410)
_TIMEOUT_S = 3.0


def default_uri(storage: str | Path) -> str:
    """Return the URI of the SQLite store beside the results: ``<storage>/mlflow.db``."""
    return f"sqlite:///{Path(storage).expanduser().resolve() / 'mlflow.db'}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite URI, or ``None`` for another kind of store.

    Example:
        >>> sqlite_path("sqlite:////data/mlflow.db")
        PosixPath('/data/mlflow.db')
        >>> sqlite_path("http://127.0.0.1:5000") is None
        True
    """
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def absolute_uri(uri: str) -> str:
    """Return the URI with the path of a SQLite file made absolute, and without a slash at its end."""
    path = sqlite_path(uri)
    return f"sqlite:///{path.expanduser().resolve()}" if path else uri.rstrip("/")


def uri_digest(uri: str) -> str:
    """Return 16 hex digits that stand for a store in file names, whoever logs in."""
    return hashlib.sha256(without_login(absolute_uri(uri)).encode()).hexdigest()[:16]


def check_uri(uri: str) -> None:
    """Check within seconds that a tracking store can be used now.

    Args:
        uri: The tracking URI.

    Raises:
        SpecError: If it is not a kind of store that MLflow can use here.
        ServiceError: If the store does not answer or cannot be written.
    """
    reason = unreachable(uri)
    if reason:
        raise ServiceError(
            f"A tracking store must answer at {redacted(uri)}, but {reason}. Start it, mend tracking.uri, or "
            "leave that key out to use a file beside the results."
        )


def unreachable(uri: str) -> str:
    """Check within seconds that a tracking store can be used, now or later.

    A SQLite file must be absent or a database in a folder that can be written. A server should answer
    its health check, a database server accept connections: one that does not may be down for now. MLflow
    itself is not imported.

    Args:
        uri: The tracking URI.

    Returns:
        Why the store does not answer now; empty where it does.

    Raises:
        SpecError: If it is not a kind of store that MLflow can use here.
        ServiceError: If it never will be one: something else answers there, its file cannot be written.
    """
    try:
        parts = urlsplit(uri)
        scheme = parts.scheme.split("+")[0]
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _mistake(uri, str(error)) from error
    if scheme == "sqlite":
        path = sqlite_path(uri)
        if path is None or not path.name:
            raise _mistake(uri, "a SQLite store is a file: sqlite:///results/mlflow.db")
        _check_file(path.expanduser())
        return ""
    if scheme in ("http", "https") and host:
        return _ask_server(uri)
    if scheme in _DATABASES and host:
        _check_driver(parts.scheme)
        return _try_port(host, port or _DATABASES[scheme])
    raise _mistake(uri, "for a folder of runs, use a SQLite file: MLflow has given up file stores")


def _mistake(uri: str, hint: str) -> SpecError:
    must = "must be sqlite:///FILE, http(s)://HOST, or the URI of a PostgreSQL, MySQL or MSSQL database"
    return SpecError([Mistake("tracking.uri", must, redacted(uri) or "nothing", hint)])


def _check_file(path: Path) -> None:
    """Check that a SQLite file can be made or written."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ServiceError(
            f"The tracking store must be in a folder that can be written, but {folder} cannot. Choose "
            "another tracking.uri or mend the permissions."
        )
    if not path.exists():
        return
    try:
        with path.open("r+b") as file:
            head = file.read(16)
    except OSError as error:
        raise ServiceError(
            f"The tracking store must be a file that can be written, but {path} is not: "
            f"{error.strerror or error}. Choose another tracking.uri."
        ) from error
    if head and head != b"SQLite format 3\0":
        raise ServiceError(
            f"The tracking store must be a SQLite database, but {path} is another kind of file. Nothing was "
            "changed; choose another tracking.uri."
        )


def _ask_server(uri: str) -> str:
    """Ask a tracking server whether it is well; return why it seems not to be.

    Login is not asked for: MLflow's health check needs none.
    """
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit((parts.scheme, host, parts.path.rstrip("/") + "/health", "", ""))
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            if answer.status == 200 and answer.read(64).strip() == b"OK":
                return ""
        found = "something answers there that is not MLflow"
    except urllib.error.HTTPError as error:
        found = f"it answers its health check with HTTP {error.code}"
        error.close()
        if error.code not in _NOT_THERE:
            return found
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"it does not answer: {getattr(error, 'reason', error)}"
    raise ServiceError(
        f"An MLflow tracking server must be at {redacted(uri)}, but {found}. Mend tracking.uri, or leave "
        "that key out to use a file beside the results."
    )


def _check_driver(scheme: str) -> None:
    """Check that Python's side of a database is installed."""
    dialect, _, driver = scheme.partition("+")
    package = driver or _DRIVERS.get(dialect, "")
    if package and importlib.util.find_spec(package) is None:
        hint = " (psycopg2-binary)" if package == "psycopg2" else ""
        raise ServiceError(
            f"The Python package {package}{hint} must be installed for a tracking store in {dialect}, but is "
            "not. Install it, or use a tracking server or a SQLite file."
        )


def _try_port(host: str, port: int) -> str:
    """Return why a database server does not accept connections; empty where it does."""
    try:
        socket.create_connection((host, port), _TIMEOUT_S).close()
    except OSError as error:
        return f"it does not answer: {error}"
    return ""
