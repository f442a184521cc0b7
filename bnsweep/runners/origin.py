"""Where code comes from: the commit, and what differs from it, of the folders that a sweep is made of."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["MOST_DIFF", "describe_origin", "hide_secrets"]

MOST_DIFF = 200_000
"""Characters of a difference that are kept; its SHA-256 is of the whole."""

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/@:\s]*:([^/@\s]+)@")


def describe_origin(folder: Path) -> dict[str, Any]:
    """Return the commit of the repository that holds ``folder``, and what is changed in it.

    Returns:
        ``commit``, ``dirty``, ``diff`` (tracked files against the commit, without the values of secrets in
        the environment, cut off at :data:`MOST_DIFF`), ``diff_sha256``; ``None`` without a repository.
    """
    commit, diff = _git(folder, "rev-parse", "HEAD"), _git(folder, "diff", "HEAD", "--no-color", ".")
    if commit is None or diff is None:
        return {"commit": None, "dirty": None, "diff": None, "diff_sha256": None}
    digest = hashlib.sha256(diff.encode()).hexdigest() if diff else None
    shown = hide_secrets(diff)
    if len(shown) > MOST_DIFF:
        shown = shown[:MOST_DIFF] + f"\n[cut off: {len(shown) - MOST_DIFF} characters more]\n"
    return {"commit": commit.strip(), "dirty": bool(diff), "diff": shown or None, "diff_sha256": digest}


def hide_secrets(text: str) -> str:
    """Return a text without what is secret in the environment.

    These are the values of variables that are secrets by their name, and passwords of URIs in any variable.
    """
    secrets = {found[1] for value in os.environ.values() for found in _LOGIN.finditer(value)}
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and not name.endswith("_PATH"):
            secrets.add(value)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 8:
            text = text.replace(secret, "***")
    return text


def _git(folder: Path, *words: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False, timeout=20,
            errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
