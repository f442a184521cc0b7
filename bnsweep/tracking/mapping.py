"""What a mirror last knew of a store: which run is which trial, and how far it came.

A cache for people and for counting, never the truth: that is in the runs' tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnsweep.sweep.files import encode_json, read_json, replace_bytes
from bnsweep.sweep.ledger import Ledger
from bnsweep.tracking.credentials import redacted
from bnsweep.tracking.uris import uri_digest

__all__ = ["Lag", "exported_before", "lag", "mapping_path", "write_mapping", "write_state"]


@dataclass(frozen=True)
class Lag:
    """How far a store is behind a ledger.

    Attributes:
        exported: Finished trials that it shows in full, as far as is known.
        pending: Finished trials that it does not show yet.
        error: What kept the mirror from sending when it last tried; empty where nothing did.
        uri: The store, without a password.
    """

    exported: int
    pending: int
    error: str
    uri: str

    def __str__(self) -> str:
        text = f"{self.pending} trials not in MLflow yet" if self.pending else "MLflow is up to date"
        return f"{text} ({self.error})" if self.error else text


def mapping_path(ledger: Ledger, uri: str) -> Path:
    """Return the file of one ledger and store: ``tracking/<hash of the uri>.json``."""
    return ledger.tracking_dir / f"{uri_digest(uri)}.json"


def _state_path(ledger: Ledger, uri: str) -> Path:
    return mapping_path(ledger, uri).with_suffix(".state.json")


def write_mapping(ledger: Ledger, uri: str, runs: Mapping[str, Any]) -> None:
    """Replace the mapping of one ledger and store."""
    content = {"schema": 1, "uri": redacted(uri), **runs}
    replace_bytes(mapping_path(ledger, uri), encode_json(content), ledger.tracking_dir.parent / "tmp")


def write_state(ledger: Ledger, uri: str, exported: int, error: str) -> None:
    """Replace what is said of how far the mirror came: a few bytes, however large the sweep."""
    content = {"schema": 1, "uri": redacted(uri), "exported": exported, "error": error}
    replace_bytes(_state_path(ledger, uri), encode_json(content), ledger.root / "tmp")


def exported_before(ledger: Ledger, uri: str) -> set[str]:
    """Return the trials that the store showed in full when it was last written to."""
    try:
        trials = read_json(mapping_path(ledger, uri))["trials"]
        return {trial_id for trial_id, run in trials.items() if run["exported"]}
    except (ValueError, KeyError, AttributeError, TypeError, OSError):
        return set()


def lag(ledger: Ledger, uri: str, done: int) -> Lag:
    """Return how far a store is behind, by one small file that the mirror keeps: no call to the store.

    Args:
        ledger: The sweep.
        uri: Tracking URI.
        done: Finished trials in the ledger.
    """
    try:
        content = read_json(_state_path(ledger, uri))
        exported, error = int(content["exported"]), str(content["error"])
    except (ValueError, KeyError, TypeError, OSError):
        exported, error = 0, ""
    return Lag(min(exported, done), max(0, done - exported), error, redacted(uri))
