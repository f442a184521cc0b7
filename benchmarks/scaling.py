"""How speed depends on the members of a pack, and on workers: ``python -m benchmarks.scaling``."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.workloads import sweep_of


def members(repeats: int) -> None:
    """Print the time of a member's step by kernel and size of the stack."""
    import torch

    from bnsweep import api
    from bnsweep.data import load_dataset
    from bnsweep.training import calibrate, prepare_process

    prepare_process(1)
    for workload in ("quickstart", "dln"):
        with tempfile.TemporaryDirectory() as folder:
            plan = api.plan(sweep_of(workload, Path(folder), seeds=1, probes=False))
        trial = next(trial for trial in plan.trials if trial.parameters["norm"] == "batch")
        p = trial.parameters
        data = load_dataset(str(p["dataset"]), p, dtype=torch.float32, fingerprint=trial.fingerprint)
        runs = [calibrate(trial, data, 64, budget=10.0).timings for _ in range(repeats)]
        print(f"{workload}, batch norm: ms of a member's step by members of the pack")
        for kernel, sizes in runs[0].items():
            known = [size for size in sizes if all(size in run.get(kernel, {}) for run in runs)]
            cells = [
                f"{size}: {statistics.median(r[kernel][size] for r in runs) / 1e3:.2f}" for size in known
            ]
            print(f"  {kernel:<20} " + "  ".join(cells), flush=True)


def workers(repeats: int) -> None:
    """Print trials a minute of the quickstart without probes, by workers and by trials."""
    from bnsweep import api

    print("quickstart without probes: trials a minute, with everything from start to report")
    for seeds in (1, 5):
        for count in range(1, (os.cpu_count() or 1) + 1):
            rates = []
            for _ in range(repeats):
                with tempfile.TemporaryDirectory() as folder:
                    content = sweep_of("quickstart", Path(folder), seeds=seeds, probes=False)
                    content["resources"] = {"max_concurrent": count}
                    began = time.monotonic()
                    outcome = api.run(content, storage=folder)
                    trials = sum(outcome.states.values())
                    rates.append(60 * trials / (time.monotonic() - began))
            print(f"  {trials} trials, {count} workers: {statistics.median(rates):.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs; medians of {options.repeats} runs")
    members(options.repeats)
    workers(1)


if __name__ == "__main__":
    main()
