"""Final weights: of each trial its own network, in the ledger and in MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import bnsweep
from bnsweep.data import load_dataset
from bnsweep.errors import LedgerError
from bnsweep.sweep.ledger import Ledger
from bnsweep.trial import TrialState


@pytest.fixture
def weighted(tiny: dict[str, Any]) -> dict[str, Any]:
    tiny["save_weights"] = "final"
    tiny["parameters"] |= {"norm": ["none", "batch"], "steps": 20}
    return tiny


def test_the_network_that_is_loaded_is_the_one_that_was_trained(
    weighted: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    """Its accuracy and loss on the test split are those on record."""
    sweeps.run(weighted, tmp_path)
    ledger = Ledger(tmp_path / "tiny")
    data = load_dataset("digits", {})
    found = list(ledger.records())
    assert {record.state for record in found} == {TrialState.COMPLETED, TrialState.DIVERGED}
    seen = set()
    for record in found:
        if record.state is TrialState.DIVERGED:
            assert not ledger.weights_file(record.trial_id).exists()
            with pytest.raises(LedgerError, match="it diverged"):
                bnsweep.network("tiny", record.trial_id, str(tmp_path))
            continue
        network = bnsweep.network("tiny", record.trial_id, str(tmp_path))
        with torch.no_grad():
            outputs = network(data.test_x[None])[0]
        accuracy = (outputs.argmax(1) == data.test_y).double().mean().item()
        assert accuracy == pytest.approx(record.readings["test_accuracy"], abs=1e-12)
        loss = functional.cross_entropy(outputs.double(), data.test_y).item()
        assert loss == pytest.approx(record.readings["test_loss"], rel=1e-5)
        seen.add(loss)
    assert len(seen) > 4  # members of one stack, each its own


def test_a_file_of_weights_is_a_plain_state_dict(
    weighted: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    sweeps.run(weighted, tmp_path)
    ledger = Ledger(tmp_path / "tiny")
    record = next(r for r in ledger.records() if r.weights_sha256 and r.parameters["norm"] == "batch")
    content = torch.load(ledger.weights_file(record.trial_id), weights_only=True)
    model = bnsweep.network("tiny", record.trial_id, str(tmp_path))
    assert content.keys() == model.state_dict().keys()
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in content.values())


def test_damaged_weights_are_not_loaded(weighted: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    sweeps.run(weighted, tmp_path)
    ledger = Ledger(tmp_path / "tiny")
    record = next(record for record in ledger.records() if record.weights_sha256)
    path = ledger.weights_file(record.trial_id)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LedgerError, match="SHA-256"):
        bnsweep.network("tiny", record.trial_id, str(tmp_path))
    assert not path.exists()
    with pytest.raises(LedgerError, match="absent"):
        bnsweep.network("tiny", record.trial_id, str(tmp_path))
    assert ledger.record(record.trial_id) == record  # its readings are whole


def test_no_weights_of_what_is_not_done_or_stored_none(
    tiny: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    sweeps.run(tiny, tmp_path)
    record = next(r for r in Ledger(tmp_path / "tiny").records() if r.state is TrialState.COMPLETED)
    with pytest.raises(LedgerError, match="without save_weights: final"):
        bnsweep.network("tiny", record.trial_id, str(tmp_path))
    with pytest.raises(LedgerError, match="must be done"):
        bnsweep.network("tiny", "0" * 16, str(tmp_path))


def test_mlflow_has_them_too(weighted: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    import mlflow

    from bnsweep import api

    weighted["keep_checkpoints"] = True
    weighted["parameters"] |= {"norm": "batch", "lr": [0.1]}
    sweeps.run(weighted, tmp_path)
    sweeps.run(sweeps.changed(weighted, steps=30), tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert api.sync("tiny", str(tmp_path), uri).complete
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`bnsweep.kind` = 'trial'")
    ledger = Ledger(tmp_path / "tiny")
    long = {record.trial_id: record for record in ledger.records() if record.steps == 30}
    assert len(long) == 2
    for run in runs:
        record = ledger.record(run.data.tags["bnsweep.trial_id"])
        assert record is not None
        assert run.data.tags.get("bnsweep.continued_from", "") == record.continued_from
        local = client.download_artifacts(run.info.run_id, "weights.pt", str(tmp_path))
        assert Path(local).read_bytes() == ledger.weights_file(record.trial_id).read_bytes()


def test_the_forecast_counts_what_is_kept(weighted: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    """Beside the bytes that really lie there."""
    from bnsweep import api
    from bnsweep.runners import LocalRunner

    weighted["parameters"] |= {"norm": "batch", "lr": [0.1, 0.05], "optimizer": "adam"}
    sizes = {}
    for states, weights in ((False, "none"), (True, "none"), (False, "final")):
        content = {**weighted, "keep_checkpoints": states, "save_weights": weights}
        api.calibrate(content, runner=LocalRunner(), storage=str(tmp_path))
        expected = api.forecast(content, str(tmp_path)).ledger_bytes
        assert expected is not None
        sizes[states, weights] = expected
    sweeps.run({**weighted, "keep_checkpoints": True}, tmp_path)
    of_states = sum(path.stat().st_size for path in tmp_path.glob("tiny/trials/*/checkpoint.*.bin"))
    of_weights = sum(path.stat().st_size for path in tmp_path.glob("tiny/trials/*/weights.pt"))
    assert sizes[True, "none"] - sizes[False, "none"] == pytest.approx(of_states, rel=0.02)
    assert sizes[False, "final"] - sizes[False, "none"] == pytest.approx(of_weights, rel=0.02)
    stored = json.loads(next(tmp_path.glob("tiny/calibration/*.json")).read_text())
    del stored["state_bytes"]  # of an older version
    next(tmp_path.glob("tiny/calibration/*.json")).write_text(json.dumps(stored))
    left = api.forecast({**weighted, "keep_checkpoints": True}, str(tmp_path), left_only=False)
    assert left.ledger_bytes is None
