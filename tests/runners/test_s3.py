"""A sweep whose results lie in an S3 bucket ends as one in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.runners import LocalRunner
from bnsweep.sweep.ledger import Ledger


def outcomes(ledger: Ledger) -> dict[str, str]:
    """Return what each trial's record and curves say, without times and places."""
    found = {}
    for record in ledger.records():
        table = ledger.curves_of(record)
        assert table is not None
        rows = table.drop_columns(["time_ms"]).to_pydict()
        kept = [record.state, record.steps, record.diverged_step, dict(record.readings), repr(rows)]
        found[record.trial_id] = json.dumps(kept, default=repr)
    assert ledger.warnings == []
    return found


def test_a_search_with_early_stopping_is_the_same_on_s3(
    tiny: dict[str, Any], s3: Any, tmp_path: Path
) -> None:
    tiny["parameters"]["lr"] = {"min": 0.01, "max": 1.0, "distribution": "log_uniform_values"}
    tiny |= {
        "method": "random",
        "search": {"num_trials": 4},
        "early_stop": {"type": "asha", "min_steps": 10, "eta": 2},
    }
    found = [api.run(tiny, runner=LocalRunner(), storage=place) for place in (s3.storage, str(tmp_path))]
    assert found[0].states == found[1].states and "stopped" in found[0].states
    remote, local = (Ledger(one.root) for one in found)
    assert outcomes(remote) == outcomes(local)
    seen = [[event["event"] for event in ledger.search_log.read()] for ledger in (remote, local)]
    assert seen[0] == seen[1] and "rung" in seen[0]
    assert not list((remote.root / "packs").iterdir())


def test_a_store_that_goes_away_is_waited_for_and_fails_no_trial(
    tiny: dict[str, Any], s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep.sweep import object_store

    tiny["resources"] = {"pack_size": 2, "kernel": "grouped"}
    monkeypatch.setattr(object_store, "PATIENCE_SECONDS", 0.5)
    real, tries, said = Ledger.write_records, [], []

    def away(self: Ledger, finished: Any) -> None:
        tries.append(finished)
        s3.faults(*[{"kind": "drop", "key": "record.json", "method": "PUT"}] * (len(tries) <= 4))
        real(self, finished)

    monkeypatch.setattr(Ledger, "write_records", away)
    outcome = api.run(tiny, runner=LocalRunner(), storage=s3.storage, say=said.append)
    assert outcome.exit_code == 0 and not outcome.errors
    assert len(tries) == 4 + 3  # three packs
    assert [line for line in said if line.startswith("paused: ") and "must answer" in line]
    assert "the storage takes what is written again: going on" in said
    ledger = Ledger(outcome.root)
    assert ledger.failed() == {} and ledger.pack_ids() == [] and len(ledger.done()) == 6
