"""Trials a minute beside a plain Ray Tune script: ``python -m benchmarks.throughput``.

Both train the quickstart's networks in this run on this machine: bnsweep all trials of
``sweeps/quickstart.yaml`` without its probes (and, on a line of its own, with them), the plain script
of :mod:`benchmarks.plain` every norm and learning rate for a few seeds, since it takes far longer.
bnsweep's time is all of it, from reading the file to the report and the last run in MLflow; the plain
script's is that of ``Tuner.fit`` alone. Peak memory is that of the largest worker.
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

SWEEP = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"


def bnsweep_rate(probes: bool, seeds: int) -> tuple[int, float, float]:
    """Run the quickstart; return trials, seconds, and the largest worker's peak memory in MB."""
    import yaml

    from bnsweep import api

    content = yaml.safe_load(SWEEP.read_text())
    content["seeds"] = seeds
    if not probes:
        content.pop("probes")
    memory = [0.0]
    with tempfile.TemporaryDirectory() as folder:
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


def plain_rate(reuse_actors: bool, seeds: int) -> tuple[int, float, float]:
    """Run the plain script on the same grid with ``seeds`` seeds."""
    from ray import tune

    from benchmarks.plain import run
    from bnsweep import api

    logging.disable(logging.WARNING)
    spec = api.load(SWEEP)
    values = {name: list(spec.setting(name).values) for name in ("norm", "lr")}  # type: ignore[union-attr]
    fixed = {name: spec.setting(name).values[0] for name in ("width", "steps", "eval_every")}  # type: ignore[union-attr]
    space: dict[str, Any] = {name: tune.grid_search(list(own)) for name, own in values.items()}
    space |= fixed | {"seed": tune.grid_search(list(range(seeds)))}
    with tempfile.TemporaryDirectory() as folder:
        trials, seconds = run(space, Path(folder), reuse_actors)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1, help="interleaved runs of each case")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of bnsweep's sweeps")
    parser.add_argument("--plain-seeds", type=int, default=1, help="seeds of the plain script's")
    options = parser.parse_args()
    cases = {
        "plain Ray Tune, fresh actors": (plain_rate, False, options.plain_seeds),
        "plain Ray Tune, reuse_actors": (plain_rate, True, options.plain_seeds),
        "bnsweep": (bnsweep_rate, False, options.seeds),
        "bnsweep, with all probes": (bnsweep_rate, True, options.seeds),
    }
    rates: dict[str, list[float]] = {name: [] for name in cases}
    shown: dict[str, tuple[int, float, float]] = {}
    for _ in range(options.repeats):
        for name, (function, *arguments) in cases.items():
            shown[name] = alone(function, *arguments)
            rates[name].append(60 * shown[name][0] / shown[name][1])
    base = statistics.median(rates["plain Ray Tune, fresh actors"])
    print(f"{os.cpu_count()} CPUs; medians of {options.repeats} interleaved runs")
    print(f"{'':<30} {'trials':>6} {'seconds':>8} {'trials/min':>10} {'ratio':>6} {'worker MB':>9}")
    for name, own in rates.items():
        trials, seconds, memory = shown[name]
        rate = statistics.median(own)
        mb = f"{memory:9.0f}" if memory == memory else f"{'':>9}"
        print(f"{name:<30} {trials:>6} {seconds:8.1f} {rate:10.1f} {rate / base:6.1f} {mb}")


if __name__ == "__main__":
    main()
