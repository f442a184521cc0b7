"""Passwords of tracking stores: taken from the environment, never written anywhere.

A sweep file is stored with the results and shown in MLflow, so it names a store without a password.
Where ``MLFLOW_TRACKING_URI`` names the same store with one, that is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

__all__ = ["hide", "redacted", "split_login", "with_login", "without_login"]

_SECRET_NAMES = re.compile(r"PASSWORD|PASSWD|_PWD$|TOKEN|SECRET", re.IGNORECASE)
_SECRET_KEYS = re.compile(r"([?&][^=&\s]*(?:password|passwd|token|secret)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)([^/@:\s]*):[^/\s]*@")
_USER = re.compile(r"(?<=://)[^/\s]*@")
_SHORTEST = 4


def redacted(text: str) -> str:
    """Return text in which no URI has a password.

    Example:
        >>> redacted("postgresql://user:secret@host/db?sslpassword=x")
        'postgresql://user:***@host/db?sslpassword=***'
    """
    return _SECRET_KEYS.sub(r"\1***", _LOGIN.sub(r"\1:***@", text))


def hide(text: str, uri: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Return text without passwords: those in URIs, that of ``uri``, and secrets of the environment.

    Args:
        text: What is to be logged or shown.
        uri: Tracking URI whose password may stand alone in the text.
        environment: Variables of which those named like a password, token or secret are hidden;
            this process's by default.

    Example:
        >>> hide("no role for hunter2", environment={"PGPASSWORD": "hunter2"})
        'no role for ***'
    """
    variables = os.environ if environment is None else environment
    secrets = {value for name, value in variables.items() if _SECRET_NAMES.search(name)}
    try:
        written = urlsplit(uri).password or ""
    except ValueError:
        written = ""
    secrets |= {written, unquote(written)}
    text = redacted(text)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, "***")
    return text


def without_login(uri: str) -> str:
    """Return the URI without user and password.

    Example:
        >>> without_login("http://me:pass@word@host/x")
        'http://host/x'
    """
    return _USER.sub("", uri)


def with_login(uri: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the URI with the user and password of ``MLFLOW_TRACKING_URI``, where that is the same store.

    Args:
        uri: The store as a sweep names it.
        environment: Where the variable is looked up; this process's by default.

    Example:
        >>> known = {"MLFLOW_TRACKING_URI": "postgresql://me:secret@host/db"}
        >>> with_login("postgresql://me@host/db", known)
        'postgresql://me:secret@host/db'
        >>> with_login("postgresql://elsewhere/db", known)
        'postgresql://elsewhere/db'
    """
    known = (os.environ if environment is None else environment).get("MLFLOW_TRACKING_URI", "").rstrip("/")
    try:
        own, other = urlsplit(uri), urlsplit(known)
        user = own.username in (None, other.username)
        same = without_login(uri) == without_login(known) and user
    except ValueError:
        return uri
    return known if same and other.password and not own.password else uri


def split_login(uri: str) -> tuple[str, dict[str, str]]:
    """Take user and password out of a server's URI, for MLflow's variables: errors quote the URI.

    Example:
        >>> split_login("https://me:p%40ss@host/x")
        ('https://host/x', {'MLFLOW_TRACKING_USERNAME': 'me', 'MLFLOW_TRACKING_PASSWORD': 'p@ss'})
        >>> split_login("postgresql://me:secret@host/db")
        ('postgresql://me:secret@host/db', {})
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.username:
        return uri, {}
    variables = {"MLFLOW_TRACKING_USERNAME": unquote(parts.username)}
    if parts.password:
        variables["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return without_login(uri), variables
