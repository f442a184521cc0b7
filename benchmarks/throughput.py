"""Trials a minute beside plain scripts: ``python -m benchmarks.throughput``.

Both train one workload of :mod:`benchmarks.workloads` in this run on this machine: bnsweep all its trials
without probes (and, on a line of its own, with them), the plain scripts of :mod:`benchmarks.plain` every
norm and learning rate for a few seeds, since they take far longer. bnsweep's time is all of it, from
reading the file to the report and the last run in MLflow; the plain script's is that of ``Tuner.fit``
alone, or of the worker processes of Optuna. Peak memory is that of the largest worker.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS, sweep_of


def bnsweep_rate(workload: str, probes: bool, seeds: int) -> tuple[int, float, float]:
    """Run the workload's sweep; return trials, seconds, and the largest worker's peak memory in MB."""
    from bnsweep import api

    memory = [0.0]
    with tempfile.TemporaryDirectory() as folder:
        content = sweep_of(workload, Path(folder), seeds=seeds, probes=probes)
        began = time.monotonic()
        outcome = api.run(
            content,
            storage=folder,
            progress=lambda progress: memory.append(progress.peak_mb),
        )
        seconds = time.monotonic() - began
    if outcome.exit_code:
        raise SystemExit(f"the sweep ended with {outcome.states}")
    return sum(outcome.states.values()), seconds, max(memory)


def space_of(workload: str, seeds: int) -> dict[str, list[Any]]:
    """Return the grid of the plain scripts."""
    from bnsweep import api

    with tempfile.TemporaryDirectory() as folder:
        plan = api.plan(sweep_of(workload, Path(folder), seeds=1, probes=False))
    names = {"model", "norm", "lr", "width", "depth", "features", "steps", "eval_every", "batch_size"}
    space: dict[str, list[Any]] = {"seed": list(range(seeds))}
    for name in names & plan.trials[0].parameters.keys():
        space[name] = list(dict.fromkeys(trial.parameters[name] for trial in plan.trials))
    given = WORKLOADS[workload]
    return space | {name: [given[name]] for name in ("size", "channels") if name in given}


def plain_rate(workload: str, kind: str, seeds: int) -> tuple[int, float, float]:
    """Run a plain script on the same grid with ``seeds`` seeds."""
    from benchmarks.plain import run, run_optuna

    logging.disable(logging.WARNING)
    space = space_of(workload, seeds)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "optuna":
            trials, seconds = run_optuna(space, Path(folder))
        else:
            trials, seconds = run(space, Path(folder), kind == "reuse")
    return trials, seconds, float("nan")


def _call(pipe: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    pipe.send(function(*arguments))


def alone(function: Any, *arguments: Any) -> tuple[int, float, float]:
    """Call ``function`` in a process of its own, so that no case inherits another's memory or Ray."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_call, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    result: tuple[int, float, float] = ours.recv()
    process.join()
    return result


def sweep_probes(workload: str) -> bool:
    return workload == "quickstart" or "probes" in WORKLOADS[workload]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=list(WORKLOADS), default="quickstart")
    parser.add_argument("--repeats", type=int, default=1, help="interleaved runs of each case")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of bnsweep's sweeps")
    parser.add_argument("--plain-seeds", type=int, default=1, help="seeds of the plain script's")
    options = parser.parse_args()
    cases = {
        "plain Ray Tune, fresh actors": (plain_rate, options.workload, "fresh", options.plain_seeds),
        "plain Ray Tune, reuse_actors": (plain_rate, options.workload, "reuse", options.plain_seeds),
        "plain Optuna, one process a core": (plain_rate, options.workload, "optuna", options.plain_seeds),
        "bnsweep": (bnsweep_rate, options.workload, False, options.seeds),
        "bnsweep, with all probes": (bnsweep_rate, options.workload, True, options.seeds),
    }
    if not sweep_probes(options.workload):
        cases.pop("bnsweep, with all probes")
    rates: dict[str, list[float]] = {name: [] for name in cases}
    shown: dict[str, tuple[int, float, float]] = {}
    for _ in range(options.repeats):
        for name, (function, *arguments) in cases.items():
            shown[name] = alone(function, *arguments)
            rates[name].append(60 * shown[name][0] / shown[name][1])
    base = statistics.median(rates["plain Ray Tune, fresh actors"])
    print(f"{options.workload}, {os.cpu_count()} CPUs; medians of {options.repeats} interleaved runs")
    print(f"{'':<33} {'trials':>6} {'seconds':>8} {'trials/min':>10} {'ratio':>6} {'worker MB':>9}")
    for name, own in rates.items():
        trials, seconds, memory = shown[name]
        rate = statistics.median(own)
        mb = f"{memory:9.0f}" if memory == memory else f"{'':>9}"
        print(f"{name:<33} {trials:>6} {seconds:8.1f} {rate:10.1f} {rate / base:6.1f} {mb}")


if __name__ == "__main__":
    main()
