"""Where MLflow lies: the default store, and whether a given one can be used, without MLflow."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from bnsweep.errors import Mistake, ServiceError, SpecError

__all__ = ["absolute_uri", "check_uri", "default_uri", "redacted", "sqlite_path", "uri_digest"]

_DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
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


def redacted(uri: str) -> str:
    """Return the URI without its password.

    Example:
        >>> redacted("postgresql://user:secret@host/db")
        'postgresql://user:***@host/db'
    """
    return re.sub(r"(?<=://)([^/@:]*):[^/]*@", r"\1:***@", uri)


def uri_digest(uri: str) -> str:
    """Return 16 hex digits that stand for a store in file names."""
    return hashlib.sha256(absolute_uri(uri).encode()).hexdigest()[:16]


def check_uri(uri: str) -> None:
    """Check within seconds that a tracking store can be used.

    A SQLite file must be absent or a database in a folder that can be written; a server must answer
    its health check; a database server must accept connections. MLflow itself is not imported.

    Args:
        uri: The tracking URI.

    Raises:
        SpecError: If it is not a kind of store that MLflow can use here.
        ServiceError: If the store does not answer or cannot be written.
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
    elif scheme in ("http", "https") and host:
        _check_server(uri)
    elif scheme in _DATABASES and host:
        _check_port(uri, host, port or _DATABASES[scheme])
    else:
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


def _check_server(uri: str) -> None:
    """Ask a tracking server whether it is well."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit((parts.scheme, host, parts.path.rstrip("/") + "/health", "", ""))
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            healthy = answer.status == 200 and answer.read(64).strip() == b"OK"
        found = "something answers there that is not MLflow"
    except urllib.error.HTTPError as error:
        healthy, found = False, f"it answers its health check with HTTP {error.code}"
    except (OSError, ValueError) as error:
        healthy, found = False, f"it does not answer: {getattr(error, 'reason', error)}"
    if not healthy:
        raise ServiceError(
            f"An MLflow tracking server must answer at {redacted(uri)}, but {found}. Start it, mend "
            "tracking.uri, or leave that key out to use a file beside the results."
        )


def _check_port(uri: str, host: str, port: int) -> None:
    """Check that a database server accepts connections."""
    try:
        socket.create_connection((host, port), _TIMEOUT_S).close()
    except OSError as error:
        raise ServiceError(
            f"A database server must answer at {redacted(uri)}, but it does not: {error}. Start it, mend "
            "tracking.uri, or leave that key out to use a file beside the results."
        ) from error
