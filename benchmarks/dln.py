"""Deep linear networks against a plain loop: ``python -m benchmarks.dln``.

Prints the milliseconds of a step of one member, engine alone on one core: K separate models of
``nn.Linear`` and ``nn.BatchNorm1d`` with ``torch.optim.SGD``, one after another; and the engine's stack with
each of its kernels. The measurements of a row are interleaved; a value is the median CPU time.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from bnsweep.data import Dataset, load_dataset
from bnsweep.training.stack import MemberStack, kernels_of
from bnsweep.trial import TrialConfig

DEPTH = 25
KERNELS = ("grouped", "fused", "moments")


def plain_step(dataset: Dataset, features: int, batch: int, norm: str, members: int) -> Callable[[], None]:
    """Return one step of ``members`` models as a tutorial would write it."""
    models, optimizers = [], []
    for _ in range(members):
        layers: list[nn.Module] = []
        for _ in range(DEPTH):
            layers.append(nn.Linear(features, features, bias=False))
            if norm == "batch":
                layers.append(nn.BatchNorm1d(features))
        models.append(nn.Sequential(*layers))
        optimizers.append(torch.optim.SGD(models[-1].parameters(), lr=1e-7))

    def step() -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            index = torch.randperm(len(dataset.train_x))[:batch]
            x, y = (
                (dataset.train_x, dataset.train_y)
                if batch == len(dataset.train_x)
                else (dataset.train_x[index], dataset.train_y[index])
            )
            optimizer.zero_grad()
            (0.5 * (model(x) - y).square().sum()).backward()
            optimizer.step()

    return step


def engine_step(dataset: Dataset, trials: list[TrialConfig], kernel: str) -> Callable[[], None]:
    stack = MemberStack(trials, dataset, kernel=kernel)
    stack.initialize()
    counter = iter(range(10**9))
    return lambda: stack.update(next(counter))


def medians(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each, taken in turns after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            began = time.thread_time()
            step()
            if turn:
                times[name].append(1e3 * (time.thread_time() - began))
    return {name: statistics.median(own) for name, own in times.items()}


def machine() -> str:
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, torch {torch.__version__}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="interleaved steps of each case")
    parser.add_argument("--quick", action="store_true", help="one small case, to see that it works")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes, widths, batches = (
        ((4,), (10,), (64,)) if options.quick else ((1, 4, 16, 32), (10, 64), (64, "full"))
    )
    repeats = 1 if options.quick else options.repeats
    print(f"{machine()}; one thread, float32, {DEPTH} layers; medians of {repeats} interleaved steps")
    print("CPU ms of a member's step; in brackets how many times faster than the plain loop")
    head = "".join(f"{name:>17}" for name in KERNELS)
    print(f"{'features':>8} {'batch':>5} {'norm':<5} {'K':>3} {'plain loop':>11}{head}")
    for features in widths:
        dataset = load_dataset("gaussian", {"features": features}, dtype=torch.float32)
        for batch in batches:
            for norm in ("none", "batch"):
                for members in sizes:
                    given = {"model": "dln", "depth": DEPTH, "features": features, "norm": norm}
                    given |= {"batch_size": batch, "precision": "float32", "lr": 1e-7}
                    trials = [TrialConfig.create({**given, "seed": seed}) for seed in range(members)]
                    size = len(dataset.train_x) if batch == "full" else int(batch)
                    steps = {"plain": plain_step(dataset, features, size, norm, members)}
                    plan = MemberStack(trials[:1], dataset).model.plan
                    for kernel in ("grouped", *kernels_of(plan, batch, dataset)):
                        steps[kernel] = engine_step(dataset, trials, kernel)
                    taken = medians(steps, repeats)
                    cells = [f"{taken['plain'] / members:11.3f}"]
                    for kernel in KERNELS:
                        own = taken.get(kernel)
                        cell = "" if own is None else f"{own / members:.3f} ({taken['plain'] / own:.1f}x)"
                        cells.append(f"{cell:>17}")
                    print(f"{features:>8} {batch:>5} {norm:<5} {members:>3} {''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
