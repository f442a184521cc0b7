"""What searches find and what they cost where training is free: ``python -m benchmarks.search``.

Two problems stand for training. ``function``: a loss over learning rate and momentum with a known minimum,
noisy over seeds, of which a third of the space diverges. ``table``: 240 conditions of a small VGG on digits
that were trained once (``benchmarks/digits_table.yaml``); a search picks lines of the table.

Printed: the regret of the best condition after equal trials (median over repeats) for ``method: random``, for
``method: optuna`` and for ``optuna.optimize`` with the same sampler; suggestions a second by the number of
conditions that are known, with what is written down for each; and the share of time that workers idle.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import math
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.stats import mannwhitneyu

from bnsweep.search import Search
from bnsweep.search.samplers import quiet
from bnsweep.search.warm_start import Known
from bnsweep.sweep import load_spec, make_plan
from bnsweep.sweep.draws import draw_conditions
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.plan import expander
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState, derive_seed

LOSS_AT_CHANCE = math.log(10)
SAMPLERS: dict[str, tuple[type[optuna.samplers.BaseSampler], dict[str, Any]]] = {
    "tpe": (optuna.samplers.TPESampler, {"multivariate": True}),
    "tpe-univariate": (optuna.samplers.TPESampler, {"multivariate": False}),
    "gp": (optuna.samplers.GPSampler, {}),
    "cmaes": (optuna.samplers.CmaEsSampler, {}),
    "nsga2": (optuna.samplers.NSGAIISampler, {"population_size": 10}),
    "qmc": (optuna.samplers.QMCSampler, {"qmc_type": "sobol"}),
}
"""Optuna's class, and the options that both sides have."""


class Function:
    """A curved valley: its minimum, 0, is at lr 0.1 and momentum 0.5; above lr 0.5 everything diverges."""

    name, metric, seeds, unit = "function", "test_loss", 2, "loss"
    space: Mapping[str, Any] = {
        "model": "mlp",
        "lr": {"min": 0.001, "max": 10, "distribution": "log_uniform_values"},
        "momentum": {"min": 0.0, "max": 0.9},
        "steps": 10,
    }

    def truth(self, lr: float, momentum: float) -> float:
        if lr > 0.5:
            return LOSS_AT_CHANCE
        x = math.log10(lr) + 1
        return min(LOSS_AT_CHANCE, x * x + 4 * (momentum - 0.5 - 0.3 * x) ** 2)

    def measured(self, lr: float, momentum: float, seed: int) -> float:
        """Return the function with noise that depends on the point and the seed alone."""
        noise = derive_seed(seed, repr((lr, momentum))) / 2**63 - 0.5
        return self.truth(lr, momentum) + 0.1 * noise

    def record(self, trial: TrialConfig) -> Record:
        lr, momentum = float(trial.parameters["lr"]), float(trial.parameters["momentum"])
        if lr > 0.5:
            return Record.of(trial, TrialState.DIVERGED, 3, {}, diverged_step=3)
        readings = {"test_loss": self.measured(lr, momentum, trial.seed)}
        return Record.of(trial, TrialState.COMPLETED, 10, readings)

    def regret(self, parameters: Mapping[str, Any]) -> float:
        return self.truth(parameters["lr"], parameters["momentum"])

    def ask(self, trial: optuna.Trial) -> dict[str, Any]:
        return {
            "lr": trial.suggest_float("lr", 0.001, 10, log=True),
            "momentum": trial.suggest_float("momentum", 0.0, 0.9),
        }

    def worth(self, parameters: Mapping[str, Any]) -> float:
        """Return what ``optuna.optimize`` is told: the mean over seeds, chance where it diverges."""
        lr, momentum = parameters["lr"], parameters["momentum"]
        if lr > 0.5:
            return LOSS_AT_CHANCE
        return statistics.fmean(self.measured(lr, momentum, seed) for seed in range(self.seeds))


class DigitsTable:
    """Conditions that were trained once; accuracy is their mean over three seeds."""

    name, metric, seeds, unit = "table", "test_accuracy", 3, "accuracy, points"
    space: Mapping[str, Any] = {
        "model": "vgg11",
        "width": 0.125,
        "norm": ["none", "batch", "l1", "layer"],
        "lr": {"min": 0.003, "max": 10, "num": 12, "distribution": "log_uniform_values"},
        "momentum": {"min": 0.0, "max": 0.96, "num": 5},
        "steps": 100,
    }

    def __init__(self) -> None:
        with Path(__file__).with_name("digits_table.csv").open() as file:
            rows = list(csv.DictReader(file))
        self.rows = {
            (row["norm"], float(row["lr"]), float(row["momentum"])): [
                float(row[f"seed_{n}"]) for n in range(3)
            ]
            for row in rows
        }
        self.lrs = sorted({lr for _, lr, _ in self.rows})
        self.momenta = sorted({momentum for _, _, momentum in self.rows})
        self.best = max(statistics.fmean(values) for values in self.rows.values())

    def _row(self, parameters: Mapping[str, Any]) -> list[float]:
        return self.rows[parameters["norm"], float(parameters["lr"]), float(parameters["momentum"])]

    def record(self, trial: TrialConfig) -> Record:
        readings = {"test_accuracy": self._row(trial.parameters)[trial.seed]}
        return Record.of(trial, TrialState.COMPLETED, 100, readings)

    def regret(self, parameters: Mapping[str, Any]) -> float:
        return 100 * (self.best - statistics.fmean(self._row(parameters)))

    def ask(self, trial: optuna.Trial) -> dict[str, Any]:
        lr = trial.suggest_float("lr", self.lrs[0], self.lrs[-1], log=True)
        momentum = trial.suggest_float("momentum", self.momenta[0], self.momenta[-1])
        return {
            "norm": trial.suggest_categorical("norm", self.space["norm"]),
            "lr": min(self.lrs, key=lambda one: abs(math.log(one / lr))),
            "momentum": min(self.momenta, key=lambda one: abs(one - momentum)),
        }

    def worth(self, parameters: Mapping[str, Any]) -> float:
        return statistics.fmean(self._row(parameters))


Problem = Function | DigitsTable


def spec_of(problem: Problem, method: str, number: int, seed: int, **search: Any) -> Any:
    content = {
        "name": "benchmark",
        "method": method,
        "metric": {"name": problem.metric},
        "parameters": dict(problem.space),
        "seeds": problem.seeds,
        "search": {"num_trials": number, "seed": seed, **search},
    }
    return load_spec(content | ({"deterministic": True} if "lag" in search else {}))


def chosen(problem: Problem, tried: list[tuple[float, Mapping[str, Any]]]) -> float:
    """Return the regret of the condition that looked best."""
    best = max if problem.metric == "test_accuracy" else min
    return problem.regret(best(tried, key=lambda one: one[0])[1])


def by_random(problem: Problem, number: int, seed: int, sampler: str) -> float:
    spec = spec_of(problem, "random", number, seed, sampler=sampler)
    plan, goal = make_plan(spec), Goal.of(spec)
    tried = []
    for start in range(0, len(plan.trials), problem.seeds):
        own = plan.trials[start : start + problem.seeds]
        tried.append((goal.worth([problem.record(one) for one in own]).values[0], own[0].parameters))
    return chosen(problem, tried)


def make_search(spec: Any, folder: str, known: Known | None = None) -> Search:
    return Search(spec, Ledger.open(folder, "benchmark", create=True).search_log, expander(spec), known)


def by_search(problem: Problem, number: int, seed: int, sampler: str) -> float:
    name, options = sampler.split("-")[0], SAMPLERS[sampler][1]
    spec = spec_of(problem, "optuna", number, seed, sampler=name, options=options)
    tried = []
    with tempfile.TemporaryDirectory() as folder:
        search = make_search(spec, folder)
        while (one := search.ask()) is not None:
            search.end(one.number, [problem.record(trial) for trial in one.trials])
            tried.append((search.ends[one.number]["values"][0], one.trials[0].parameters))
    return chosen(problem, tried)


def by_optuna(problem: Problem, number: int, seed: int, sampler: str) -> float:
    tried = []

    def value(trial: optuna.Trial) -> float:
        parameters = problem.ask(trial)
        tried.append((problem.worth(parameters), parameters))
        return tried[-1][0]

    direction = "maximize" if problem.metric == "test_accuracy" else "minimize"
    with quiet():
        made, options = SAMPLERS[sampler]
        sampler_ = made(seed=seed, **options | ({"scramble": True} if sampler == "qmc" else {}))
        optuna.create_study(sampler=sampler_, direction=direction).optimize(value, n_trials=number)
    return chosen(problem, tried)


def regret(problem: Problem, number: int, seeds: range, samplers: list[str]) -> None:
    def found(find: Callable[..., float], sampler: str) -> list[float]:
        return [find(problem, number, seed, sampler) for seed in seeds]

    def median(values: list[float]) -> str:
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        return f"{middle:.3f} ({low:.3f} to {high:.3f})"

    print(f"\n{problem.name}: regret ({problem.unit}) after {number} conditions of {problem.seeds} seeds, "
          f"median (quartiles) of {len(seeds)} repeats from seed {seeds[0]}")  # fmt: skip
    for sampler in ("independent", "sobol"):
        print(f"  random {sampler}: {median(found(by_random, sampler))}", flush=True)
    for sampler in samplers:
        ours, theirs = found(by_search, sampler), found(by_optuna, sampler)
        p = mannwhitneyu(ours, theirs).pvalue
        print(f"  {sampler}: {median(ours)} here, {median(theirs)} by optuna.optimize, "
              f"Mann-Whitney p = {p:.2g}", flush=True)  # fmt: skip


def speed(sampler: str, count: int, window: int, budget: float) -> None:
    """Print suggestions a second once ``count`` conditions are known, results written down."""
    problem = Function()
    spec = spec_of(problem, "optuna", count + window, 0, sampler=sampler)
    known, own = None, count
    if sampler in ("tpe", "gp"):  # known from elsewhere costs the same as its own, and is there at once
        points = draw_conditions(spec_of(problem, "random", count, 1, sampler="sobol"))
        observations = tuple(
            {"parameters": {n: p[n] for n in ("lr", "momentum")}, "values": [problem.worth(p)], "excess": {}}
            for p in points
        )
        known, own = Known("points", observations), 0
    with tempfile.TemporaryDirectory() as folder:
        search = make_search(spec, folder, known)
        times: list[float] = []
        with suppress(TimeoutError), limit(budget):
            while len(times) < own + window and (one := _timed(search, times)) is not None:
                search.end(one.number, [problem.record(trial) for trial in one.trials])
    if len(times) <= own:
        said = f"{len(times)} conditions were" if own else "no suggestion was"
        print(f"  {sampler} at {count}: {said} made in {budget:g} s", flush=True)
        return
    late = times[own:]
    print(f"  {sampler} at {count}: {1 / statistics.median(late):.1f} a second "
          f"({1000 * statistics.median(late):.0f} ms, {len(late)} timed)", flush=True)  # fmt: skip


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise a ``TimeoutError`` where it stands after so many seconds."""

    def end(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _timed(search: Search, times: list[float]) -> Any:
    began = time.perf_counter()
    one = search.ask()
    times.append(time.perf_counter() - began)
    return one


def idle(workers: int, number: int, lag: int | None, seconds: float) -> None:
    """Print the share of the workers' time that is spent waiting while conditions are left to suggest.

    Training is simulated: it takes ``seconds`` on average (log-normal, half as much again either way); the
    time that suggestions and writing take is real, and blocks the driver.
    """
    problem, draw = Function(), random.Random(0)
    more = {} if lag is None else {"lag": lag}
    spec = spec_of(problem, "optuna", number, 0, sampler="tpe", **more)
    with tempfile.TemporaryDirectory() as folder:
        search = make_search(spec, folder)
        clock, free, waited = 0.0, [0.0] * workers, 0.0
        live: list[tuple[float, int, Any]] = []
        while True:
            began = time.perf_counter()
            while free and (one := search.ask()) is not None:
                clock += time.perf_counter() - began
                waited += clock - free.pop()
                heapq.heappush(live, (clock + draw.lognormvariate(math.log(seconds), 0.4), one.number, one))
                began = time.perf_counter()
            clock += time.perf_counter() - began
            if len(search.suggestions) == number:
                break
            done, _, one = heapq.heappop(live)
            clock = max(clock, done)
            free.append(done)
            began = time.perf_counter()
            search.end(one.number, [problem.record(trial) for trial in one.trials])
            clock += time.perf_counter() - began
    text = "no lag" if lag is None else f"lag {lag}"
    print(f"  {workers} workers, {text}: idle {100 * waited / (workers * clock):.1f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first repeat")
    parser.add_argument("--samplers", nargs="*", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--problems", nargs="*", default=["function", "table"])
    parser.add_argument("--speed", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--window", type=int, default=20, help="suggestions that are timed at each count")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for each count")
    parser.add_argument("--idle", type=int, nargs="*", default=[1, 2, 8, 32], help="workers")
    arguments = parser.parse_args()
    for made in (Function, DigitsTable):
        if made.name in arguments.problems:
            seeds = range(arguments.seed, arguments.seed + arguments.repeats)
            regret(made(), arguments.trials, seeds, arguments.samplers)
    if arguments.speed:
        print("\nsuggestions, with what is written down for each")
        for sampler in dict.fromkeys(name.split("-")[0] for name in arguments.samplers):
            for count in arguments.speed:
                speed(sampler, count, arguments.window, arguments.budget)
    if arguments.idle:
        print("\nidle time of workers while conditions are left, TPE, 200 conditions of 10 s")
        for workers in arguments.idle:
            for lag in (None, max(1, workers - 1), 2 * workers):
                idle(workers, 200, lag, 10.0)


if __name__ == "__main__":
    main()
