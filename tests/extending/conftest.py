"""Small sweeps that are run, changed and run again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.runners import LocalRunner, Preflight
from bnsweep.runners.preflight import look
from bnsweep.sweep.curves import rows_of
from bnsweep.sweep.ledger import Ledger
from bnsweep.trial import TrialConfig


def changed(content: Mapping[str, Any], **parameters: Any) -> dict[str, Any]:
    """Return a sweep with other values of some parameters."""
    other = copy.deepcopy(dict(content))
    other["parameters"] |= parameters
    return other


def run(content: Mapping[str, Any], folder: Path, **options: Any) -> tuple[api.Outcome, list[str]]:
    """Run a sweep in this process; returns the outcome and what was said."""
    said: list[str] = []
    outcome = api.run(dict(content), runner=LocalRunner(), storage=str(folder), say=said.append, **options)
    return outcome, said


def readings(ledger: Ledger, trial_id: str) -> list[tuple[int, str, int, str]]:
    """Return a trial's readings without their times, to the bit."""
    table = ledger.curves(trial_id)
    assert table is not None
    return [(row.step, row.name, row.layer, row.value.hex()) for row in rows_of(table)]


def outcome_of(ledger: Ledger, trial_id: str) -> tuple[Any, ...]:
    """Return everything of a trial that must not depend on how often it was interrupted."""
    record = ledger.record(trial_id)
    assert record is not None
    last = {name: value.hex() for name, value in record.readings.items()}
    loss = record.last_finite_loss
    return record.state, record.steps, record.diverged_step, loss, last, readings(ledger, trial_id)


def preflight_here(trials: Sequence[TrialConfig], data_root: str | None) -> Preflight:
    """Look at the trials as a run does, without a process of its own, which takes seconds to start."""
    answer = look({"trials": [trial.to_dict() for trial in trials], "data_root": data_root})
    return Preflight(tuple(answer["notes"]), answer["stacks"], answer["gpus"])


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tools above, for runs that leave out the report."""
    monkeypatch.setattr("bnsweep.runners.machine.preflight", preflight_here)
    monkeypatch.setattr("bnsweep.execution._report", lambda ledger, tell: None)
    tools: dict[str, Callable[..., Any]] = {"changed": changed, "run": run, "outcome_of": outcome_of}
    return type("Sweeps", (), {name: staticmethod(tool) for name, tool in tools.items()})


@pytest.fixture
def kept(tiny: dict[str, Any]) -> dict[str, Any]:
    """Six trials in one pack, two of which diverge, whose last states are kept; odd numbers of steps."""
    tiny["keep_checkpoints"] = True
    tiny["parameters"] |= {"steps": 33, "eval_every": 20}
    tiny["resources"] = {"pack_size": 6, "kernel": "grouped"}
    return tiny
