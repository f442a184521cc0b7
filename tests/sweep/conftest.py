"""The ledger's tests run in a folder and in an S3 store alike."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a place for ledgers."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3").storage)
    return str(tmp_path / "storage")
