"""Names and texts as MLflow takes them: whatever the ledger holds, no batch is refused for it."""

from __future__ import annotations

import hashlib
import re

__all__ = ["LONGEST_NAME", "clipped", "metric_name"]

LONGEST_NAME = 250
"""Characters of a metric's, parameter's or run's name; a longer one is refused, or by PostgreSQL."""

_NOT_IN_NAMES = re.compile(r"[^\w\-. /:]")


def clipped(text: str, limit: int) -> str:
    """Return at most ``limit`` characters of a text, with an ellipsis where some were left out.

    Example:
        >>> clipped("description", 6)
        'descr…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def metric_name(name: str) -> str:
    """Return a reading's name as MLflow takes it: the name itself, or a legal one that is as unique.

    MLflow refuses other signs than letters, digits and ``_-. /:``, paths such as ``../x`` and more
    than 250 characters, and with one such name the whole batch. What is changed gets a hash.

    Example:
        >>> metric_name("ics/l2")
        'ics/l2'
        >>> metric_name("../x")
        'x-d6b96a97'
    """
    parts = [part for part in _NOT_IN_NAMES.sub("_", name).split("/") if part not in ("", ".", "..")]
    legal = "/".join(parts)
    if legal and legal == name and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{legal[: LONGEST_NAME - 9] or 'reading'}-{digest}"
