"""What searches find and what they cost where training is free: ``python -m benchmarks.search``.

A function of a learning rate and a momentum with a known minimum stands for training; it is noisy over
seeds, and a third of the space diverges. Printed: the regret of the best condition after equal trials
(median over repeats) for ``method: random``, for ``method: optuna`` and for ``optuna.optimize`` with the
same sampler, both on the mean over seeds; and suggestions a second, with what is written down for each.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from typing import Any

from bnsweep.search import Search
from bnsweep.sweep import load_spec, make_plan
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.plan import expander
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState, derive_seed

SPACE: dict[str, Any] = {
    "model": "mlp",
    "lr": {"min": 0.001, "max": 10, "distribution": "log_uniform_values"},
    "momentum": {"min": 0.0, "max": 0.9},
    "steps": 10,
}
LOSS_AT_CHANCE = math.log(10)


def truth(lr: float, momentum: float) -> float:
    """Return a curved valley: its minimum, 0, is at lr 0.1 and momentum 0.5; above lr 0.5 it is chance."""
    if lr > 0.5:
        return LOSS_AT_CHANCE
    x = math.log10(lr) + 1
    return min(LOSS_AT_CHANCE, x * x + 4 * (momentum - 0.5 - 0.3 * x) ** 2)


def measured(lr: float, momentum: float, seed: int) -> float:
    """Return the function with noise that depends on the point and the seed alone."""
    noise = derive_seed(seed, repr((lr, momentum))) / 2**63 - 0.5
    return truth(lr, momentum) + 0.1 * noise


def record(trial: TrialConfig) -> Record:
    lr, momentum = float(trial.parameters["lr"]), float(trial.parameters["momentum"])
    if lr > 0.5:
        return Record.of(trial, TrialState.DIVERGED, 3, {}, diverged_step=3)
    return Record.of(trial, TrialState.COMPLETED, 10, {"test_loss": measured(lr, momentum, trial.seed)})


def spec_of(method: str, number: int, seed: int, **search: Any) -> Any:
    content = {
        "name": "benchmark",
        "method": method,
        "metric": {"name": "test_loss"},
        "parameters": SPACE,
        "seeds": 2,
        "search": {"num_trials": number, "seed": seed, **search},
    }
    return load_spec(content)


def chosen(tried: list[tuple[float, float, float]]) -> float:
    """Return the true loss of the condition that looked best."""
    _, lr, momentum = min(tried)
    return truth(lr, momentum)


def by_random(number: int, seed: int, sampler: str) -> float:
    plan = make_plan(spec_of("random", number, seed, sampler=sampler))
    tried = []
    for start in range(0, len(plan.trials), 2):
        own = plan.trials[start : start + 2]
        lr, momentum = (float(own[0].parameters[name]) for name in ("lr", "momentum"))
        tried.append((statistics.fmean(objective(trial) for trial in own), lr, momentum))
    return chosen(tried)


def objective(trial: TrialConfig) -> float:
    return record(trial).readings.get("test_loss", LOSS_AT_CHANCE)


def by_search(number: int, seed: int, sampler: str) -> tuple[float, float]:
    """Return the regret, and the seconds that suggesting and writing down took."""
    spec = spec_of("optuna", number, seed, sampler=sampler)
    tried, spent = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        search = Search(spec, Ledger.open(folder, "benchmark", create=True).search_log, expander(spec))
        while True:
            began = time.perf_counter()
            one = search.ask()
            spent += time.perf_counter() - began
            if one is None:
                return chosen(tried), spent
            records = [record(trial) for trial in one.trials]
            lr, momentum = (float(one.trials[0].parameters[name]) for name in ("lr", "momentum"))
            tried.append((statistics.fmean(objective(trial) for trial in one.trials), lr, momentum))
            began = time.perf_counter()
            search.end(one.number, records)
            spent += time.perf_counter() - began


def by_optuna(number: int, seed: int, sampler: str) -> float:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    make = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}[sampler]
    tried = []

    def value(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 0.001, 10, log=True)
        momentum = trial.suggest_float("momentum", 0.0, 0.9)
        found = LOSS_AT_CHANCE
        if lr <= 0.5:
            found = statistics.fmean(measured(lr, momentum, one) for one in (0, 1))
        tried.append((found, lr, momentum))
        return found

    optuna.create_study(sampler=make(seed=seed)).optimize(value, n_trials=number)
    return chosen(tried)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--samplers", nargs="+", default=["tpe"])
    parser.add_argument("--speed", type=int, nargs="*", default=[100, 1000])
    arguments = parser.parse_args()
    number, repeats = arguments.trials, range(arguments.repeats)
    print(f"regret after {number} conditions of 2 seeds, median of {len(repeats)} repeats")
    for sampler in ("independent", "sobol"):
        print(f"  random {sampler}: {statistics.median(by_random(number, s, sampler) for s in repeats):.4f}")
    for sampler in arguments.samplers:
        ours = statistics.median(by_search(number, seed, sampler)[0] for seed in repeats)
        theirs = statistics.median(by_optuna(number, seed, sampler) for seed in repeats)
        print(f"  {sampler}: {ours:.4f} here, {theirs:.4f} by optuna.optimize")
    for count in arguments.speed:
        _, spent = by_search(count, 0, arguments.samplers[0])
        print(f"{arguments.samplers[0]}, {count} conditions: {count / spent:.1f} suggestions a second")


if __name__ == "__main__":
    main()
