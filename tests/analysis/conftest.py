"""Ledgers filled by hand: what a sweep would have left, without training anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState

TIME = 1_700_000_000_000


@dataclass
class Outcome:
    """What one synthetic trial ends with."""

    readings: Mapping[str, float]
    curves: Sequence[tuple[int, str, int, float, int]] = ()
    diverged_step: int | None = None
    last_finite_loss: float | None = None
    steps: int = 300
    state: TrialState = TrialState.COMPLETED
    rest: Mapping[str, Any] = field(default_factory=dict)


Outcomes = Callable[[TrialConfig], Outcome | None]


def trials(
    grid: Iterable[Mapping[str, Any]], seeds: Iterable[int], probes: Mapping[str, Any] | None = None
) -> list[TrialConfig]:
    """Cross conditions with seeds."""
    seeds = list(seeds)
    return [TrialConfig.create({**one, "seed": seed}, probes) for one in grid for seed in seeds]


def build(
    root: Path,
    plan: Sequence[TrialConfig],
    outcome: Outcomes,
    *,
    name: str = "synthetic",
    description: str = "",
    text: str = "name: synthetic\n",
) -> Ledger:
    """Write a ledger; ``outcome`` gives ``None`` for a trial that has not finished."""
    ledger = Ledger.open(root, name, create=True)
    entries = [
        {"trial_id": one.trial_id, "label": one.label(), **one.to_dict()} for one in plan
    ]  # fmt: skip
    ledger.write_sweep(text, {"name": name, "description": description, "trials": entries})
    ledger.write_environment({"bnsweep": "0.1.0", "device": "cpu", "packages": {"torch": "2.15"}})
    for config in plan:
        add(ledger, config, outcome(config))
    return ledger


def add(ledger: Ledger, config: TrialConfig, outcome: Outcome | None) -> None:
    """Commit one synthetic trial."""
    if outcome is None:
        return
    record = Record.of(
        config,
        TrialState.DIVERGED if outcome.diverged_step is not None else outcome.state,
        outcome.steps if outcome.diverged_step is None else outcome.diverged_step,
        outcome.readings,
        diverged_step=outcome.diverged_step,
        last_finite_loss=outcome.last_finite_loss,
        written_at="2026-01-31T12:00:00.000Z",
        **outcome.rest,
    )
    assert ledger.write_record(record, outcome.curves)


def scores(table: Mapping[tuple[str, float], Sequence[float | None]]) -> Outcomes:
    """Give trials their final test accuracy by norm, lr and seed; ``None`` is a diverged one."""

    def outcome(config: TrialConfig) -> Outcome:
        key = (str(config.parameters["norm"]), float(config.parameters["lr"]))
        value = table[key][config.seed]
        if value is None:
            return Outcome({"train_loss": math.nan}, diverged_step=7, last_finite_loss=5.0)
        return Outcome({"test_accuracy": value, "train_accuracy": value, "train_loss": 1 - value})

    return outcome


REACH = {"none": 0.05, "batch": 2.0, "noisy_batch": 1.2, "l1": 1.4, "layer": 0.4, "noisy_none": 0.004}
SPEED = {"none": 1.2, "batch": 3.0, "noisy_batch": 2.4, "l1": 2.8, "layer": 2.0, "noisy_none": 0.6}


def lifelike(config: TrialConfig, every: int = 50, log: int = 10) -> Outcome:
    """Imitate a classification run: curves, probes, divergence past the norm's reach."""
    norm, lr = str(config.parameters["norm"]), float(config.parameters["lr"])
    rng = np.random.default_rng(
        [config.seed, len(norm), round(lr * 1e6), round(10 * float(config.parameters.get("noise", 0)))]
    )
    reach = REACH[norm] * 10 ** rng.normal(0, 0.12)
    bursts = lr > reach
    stop = int(rng.integers(20, 150)) if bursts else 300
    rate = SPEED[norm] * min(lr, reach / 3) * 0.25
    rows: list[tuple[int, str, int, float, int]] = []

    def accuracy(step: float) -> float:
        top = 0.97 - 0.15 * max(0.0, math.log10(lr / reach) + 0.5)
        return float(np.clip(0.1 + (top - 0.1) * (1 - math.exp(-rate * step)) + rng.normal(0, 0.02), 0, 1))

    for step in range(0, stop + 1, log):
        now = accuracy(step)
        rows.append((step, "train_accuracy", 0, round(now * 128) / 128, TIME))
        rows.append((step, "train_loss", 0, 2.4 * (1.05 - now), TIME))
        if step % 100 == 0 or step == 300:
            rows.append((step, "test_accuracy", 0, max(0.1, now - 0.03), TIME))
            rows.append((step, "test_loss", 0, 2.5 * (1.06 - now), TIME))
    rough = 6.0 if norm == "none" else 1.0
    for step in range(0, stop + 1, every):
        fade = math.exp(-step / 120)
        for layer in range(0, 4):
            rows.append((step, "ics/l2", layer, (0.02 + fade) * rough * 10 ** rng.normal(0, 0.15), TIME))
            rows.append((step, "ics/cosine", layer, float(np.clip(0.5 + rng.normal(0, 0.2), -1, 1)), TIME))
        low = 2.3 * fade + 0.01
        width = rough * (0.3 * fade + 0.01) * 10 ** rng.normal(0, 0.1)
        change = rough * (fade + 0.05) * 10 ** rng.normal(0, 0.1)
        values = {
            "landscape/loss_min": low,
            "landscape/loss_max": low + width,
            "landscape/loss_width": width,
            "landscape/gradient_change_min": change / 4,
            "landscape/gradient_change_max": change,
            "landscape/beta_lr": min(2.0, 0.3 * rough * 10 ** rng.normal(0, 0.1)),
            "moments/mean_change": 0.01 * rough * 10 ** rng.normal(0, 0.2),
            "moments/variance_change": 0.02 * rough * 10 ** rng.normal(0, 0.2),
        }
        rows.extend((step, name, 0, value, TIME) for name, value in values.items())
    if bursts:
        return Outcome({}, rows, diverged_step=stop, last_finite_loss=9.0)
    last = {name: value for _, name, layer, value, _ in rows if layer == 0}
    return Outcome(last, rows)


def grid(norms: Sequence[str], lrs: Sequence[float], **fixed: Any) -> list[dict[str, Any]]:
    """Cross norms with learning rates; noisy norms get two levels."""
    found = []
    for norm in norms:
        for noise in (0.5, 1.0) if norm.startswith("noisy") else (None,):
            own = {"norm": norm, **({"noise": noise} if noise else {}), **fixed}
            found.extend({**own, "lr": lr} for lr in lrs)
    return found


def regression(config: TrialConfig) -> Outcome:
    """Imitate the deep linear network: losses over many orders of magnitude."""
    norm, lr = str(config.parameters["norm"]), float(config.parameters["lr"])
    rng = np.random.default_rng([config.seed, len(norm), round(lr * 1e12)])
    start = 4e4 * 10 ** rng.normal(0, 0.05)
    bursts = norm == "none" and lr > 2e-6
    stop = 15 if bursts else 1000
    rows = []
    for step in range(0, stop + 1, 5 if bursts else 50):
        loss = start * 1e6 ** (step / 15) if bursts else start / (1 + lr * 1e6 * step * len(norm) / 30)
        rows.append((step, "train_loss", 0, loss * 10 ** rng.normal(0, 0.02), TIME))
        rows.append((step, "test_loss", 0, loss * 1.1, TIME))
        rows.append((step, "ics/l2", 0, loss * 0.01, TIME))
        rows.append((step, "ics/cosine", 0, float(rng.uniform(-1, 1)), TIME))
    if bursts:
        return Outcome({}, rows, diverged_step=stop, last_finite_loss=1e300)
    return Outcome({"train_loss": rows[-4][3], "test_loss": rows[-3][3]}, rows, steps=1000)


@pytest.fixture(scope="session")
def synthetic() -> SimpleNamespace:
    """The makers of this file, for tests, which cannot import it."""
    return SimpleNamespace(
        Outcome=Outcome, trials=trials, grid=grid, build=build, add=add, scores=scores,
        lifelike=lifelike, regression=regression, TIME=TIME, State=TrialState,
    )  # fmt: skip


@pytest.fixture
def accuracies(tmp_path: Path) -> Callable[..., Ledger]:
    """Makes a ledger of final test accuracies by norm and lr, one a seed; ``None`` is a diverged seed."""

    def make(table: Mapping[tuple[str, float], Sequence[float | None]], **rest: Any) -> Ledger:
        seeds = max(len(values) for values in table.values())
        plan = trials([{"norm": norm, "lr": lr} for norm, lr in table], range(seeds))
        plan = [
            one
            for one in plan
            if one.seed < len(table[str(one.parameters["norm"]), float(one.parameters["lr"])])
        ]
        return build(tmp_path, plan, scores(table), **rest)

    return make
