"""What a sweep has come to, to be compared."""

from __future__ import annotations

import json
from typing import Any

from bnsweep.sweep.ledger import Ledger


def outcomes(root: Any) -> dict[str, str]:
    """What records and curves say, without times and places."""
    ledger = Ledger(root)
    found = {}
    for record in ledger.records():
        table = ledger.curves_of(record)
        assert table is not None
        rows = table.drop_columns(["time_ms"]).to_pydict()
        found[record.trial_id] = json.dumps([record.state, record.steps, repr(rows)])
    assert ledger.warnings == []
    return found
