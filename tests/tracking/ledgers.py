"""Ledgers made by hand."""

from __future__ import annotations

import math
from pathlib import Path

from bnsweep.sweep.curves import CurveRow
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState

START_MS = 1_767_225_600_000
CONFIGS = [
    TrialConfig.create({"norm": norm, "lr": 0.1, "seed": seed, "steps": 20}, {"ics": {"every": 10}})
    for norm in ("batch", "none")
    for seed in (0, 1)
]


def rows_of_trial(config: TrialConfig, until: int = 20) -> list[CurveRow]:
    """Readings of a made-up trial: network-wide ones and those of two layers."""
    rows = []
    for step in range(0, until + 1, 10):
        time_ms = START_MS + 1000 * step + config.seed
        rows.append(CurveRow(step, "train_loss", 0, 2.0 / (step + 1), time_ms))
        rows.append(CurveRow(step, "test_accuracy", 0, 0.5 + step / 100, time_ms))
        rows += [CurveRow(step, "ics/l2", layer, 0.1 * layer, time_ms) for layer in (0, 1, 2)]
    return rows


def write_trial(ledger: Ledger, config: TrialConfig) -> bool:
    """Commit a made-up trial; that of norm none with seed 1 diverges."""
    rows = rows_of_trial(config)
    if config.parameters["norm"] == "none" and config.seed == 1:
        rows = [
            CurveRow(0, "train_loss", 0, math.inf, START_MS),
            CurveRow(0, "ics/l2", 0, math.nan, START_MS),
        ]
        outcome = {"state": TrialState.DIVERGED, "steps": 0, "diverged_step": 0, "readings": {}}
    else:
        accuracy = 0.7 + 0.1 * config.seed
        outcome = {
            "state": TrialState.COMPLETED,
            "steps": 20,
            "readings": {"test_accuracy": accuracy, "train_loss": 0.1},
        }
    attempt = {"started": "2026-01-01T00:00:00.000Z", "pack_id": "abc1"}
    record = Record.of(config, attempts=(attempt,), written_at="2026-01-01T00:01:00.000Z", **outcome)
    return ledger.write_record(record, rows)


def plan_ledger(storage: Path, name: str) -> Ledger:
    """Make a ledger with a plan of two norms and two seeds, and nothing done."""
    ledger = Ledger.open(storage, name, create=True)
    trials = [{"trial_id": c.trial_id, "label": c.label(), **c.to_dict()} for c in CONFIGS]
    plan = {"name": name, "description": "Does normalization help?", "trials": trials}
    ledger.write_sweep(f"name: {name}\n", plan)
    return ledger


def fill(ledger: Ledger) -> Ledger:
    """Commit all four trials."""
    for config in CONFIGS:
        write_trial(ledger, config)
    return ledger
