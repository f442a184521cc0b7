"""Searches on a function that is known, without a network to train."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bnsweep.search import Search
from bnsweep.sweep import load_spec
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.plan import expander
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialState

SPACE = {
    "model": "mlp",
    "lr": {"min": 0.001, "max": 10, "distribution": "log_uniform_values"},
    "momentum": {"min": 0.0, "max": 0.9},
    "steps": 10,
}


def loss(parameters):
    """Return a smooth bowl with its minimum, 0.01, at lr 0.1 and momentum 0.5; ``None``: diverges."""
    if parameters["lr"] > 3:
        return None
    x = math.log10(parameters["lr"]) + 1
    return 0.01 + x * x + (parameters["momentum"] - 0.5) ** 2


def record_of(trial, value):
    """Return the record of a trial of that test loss."""
    seed = int(trial.parameters["seed"])
    if value is None:
        return Record.of(trial, TrialState.DIVERGED, 3, {}, diverged_step=3, last_finite_loss=1e30)
    readings = {"test_loss": value + 0.001 * seed, "test_accuracy": math.exp(-value)}
    return Record.of(trial, TrialState.COMPLETED, 10, readings)


class World:
    """A ledger and the searches made on it."""

    def __init__(self, root: Any, **content: Any) -> None:
        self.ledger_root, self.content = root, content
        self.ledger = Ledger.open(root, "s", create=True)

    def spec(self, number=12, sampler="tpe", **search):
        top = {
            "name": "s",
            "method": "optuna",
            "metric": {"name": "test_loss"},
            "parameters": SPACE,
            "seeds": 2,
            "search": {"num_trials": number, "sampler": sampler, **search},
        }
        return load_spec({**top, **self.content})

    def search(self, *args, **search):
        spec = self.spec(*args, **search)
        return Search(spec, Ledger(self.ledger.root).search_log, expander(spec))


def finish(search, suggestion, value=loss):
    """End a suggestion with what the function says."""
    search.end(suggestion.number, [record_of(trial, value(trial.parameters)) for trial in suggestion.trials])


def run(search, workers=1, order=lambda live: 0, value=loss, until=10**9):
    """Let a search run with some workers; ``order`` says which one is ready first."""
    live = search.open
    for _ in range(until):
        while len(live) < workers and (one := search.ask()) is not None:
            live.append(one)
        if not live:
            break
        finish(search, live.pop(order(live) % len(live)), value)
    return [suggestion.trial_ids for suggestion in search.suggestions]


class Worlds:
    """Makes worlds in folders of their own; what tests share hangs on it."""

    space, loss, run, finish = SPACE, staticmethod(loss), staticmethod(run), staticmethod(finish)

    def __init__(self, root: Any) -> None:
        self.root, self.count = root, 0

    def __call__(self, **content: Any) -> World:
        self.count += 1
        return World(self.root / str(self.count), **content)


@pytest.fixture
def world(tmp_path):
    """Return what makes worlds."""
    return Worlds(tmp_path)
