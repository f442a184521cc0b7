"""Which MLflow run is which trial, as last seen: a cache for people and for counting, never the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnsweep.sweep.files import encode_json, read_json, replace_bytes
from bnsweep.sweep.ledger import Ledger
from bnsweep.tracking.uris import redacted, uri_digest

__all__ = ["exported_before", "mapping_path", "write_mapping"]


def mapping_path(ledger: Ledger, uri: str) -> Path:
    """Return the file of one ledger and store: ``tracking/<hash of the uri>.json``."""
    return ledger.tracking_dir / f"{uri_digest(uri)}.json"


def write_mapping(ledger: Ledger, uri: str, runs: Mapping[str, Any]) -> None:
    """Replace the mapping of one ledger and store."""
    content = {"schema": 1, "uri": redacted(uri), **runs}
    replace_bytes(mapping_path(ledger, uri), encode_json(content), ledger.tracking_dir.parent / "tmp")


def exported_before(ledger: Ledger, uri: str) -> set[str]:
    """Return the trials that the store showed in full when it was last written to."""
    try:
        trials = read_json(mapping_path(ledger, uri))["trials"]
        return {trial_id for trial_id, run in trials.items() if run["exported"]}
    except (ValueError, KeyError, AttributeError, TypeError, OSError):
        return set()
