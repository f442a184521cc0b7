"""What share of this machine's arithmetic a training step reaches: ``python -m benchmarks.roofline``.

The roof is the higher of a large float32 matrix product and a large dense convolution, measured in the
same run on one thread. A step's floating-point operations are counted from the shapes: two for each
multiply-add of a weight layer, three times for forward, input gradient and weight gradient (the first
layer has no input gradient), padding counted; norms, activations and the update count nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.workloads import WORKLOADS, sweep_of


def seconds_of(call: Callable[[], object], repeats: int = 5) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return statistics.median(times)


def roofs() -> dict[str, float]:
    """Return the rates of a large matrix product and a large convolution, both ways, in GFLOP/s."""
    n = 1024
    a, b = torch.randn(n, n), torch.randn(n, n)
    product = 2 * n**3 / seconds_of(lambda: torch.mm(a, b)) / 1e9
    x = torch.randn(16, 128, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    w = torch.randn(128, 128, 3, 3).to(memory_format=torch.channels_last).requires_grad_()

    def convolution() -> None:
        torch.nn.functional.conv2d(x, w, padding=1).sum().backward()

    work = 3 * 2 * 16 * 16 * 16 * 128 * 128 * 9
    return {"matrix product": product, "convolution": work / seconds_of(convolution) / 1e9}


def step_work(layers: Any, batch: int) -> float:
    """Return the floating-point operations of one member's step."""
    total = 0.0
    for number, spec in enumerate(layers):
        taps = 9 if spec.kind == "conv" else 1
        each = 2 * batch * spec.size**2 * spec.inputs * spec.outputs * taps
        total += each * (2 if number == 0 else 3)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    from bnsweep import api
    from bnsweep.data import load_dataset
    from bnsweep.models import make_model
    from bnsweep.training import calibrate, prepare_process

    prepare_process(1)
    found = roofs()
    roof = max(found.values())
    print(f"{os.cpu_count()} CPUs, one thread, float32; roof {roof:.0f} GFLOP/s (", end="")
    print(", ".join(f"{name} {rate:.0f}" for name, rate in found.items()) + ")")
    print(
        f"{'':<24} {'K':>4} {'kernel':<20} {'ms a member-step':>17} {'MFLOP':>8} {'GFLOP/s':>8} {'share':>6}"
    )
    for workload in WORKLOADS:
        with tempfile.TemporaryDirectory() as folder:
            content = sweep_of(workload, Path(folder), seeds=5, probes=False)
            for trial in {str(t.parameters["norm"]): t for t in api.plan(content).trials}.values():
                p = trial.parameters
                root = Path(content["data_root"]) if "data_root" in content else None
                data = load_dataset(
                    str(p["dataset"]), p, root=root, dtype=torch.float32, fingerprint=trial.fingerprint
                )
                measured = calibrate(trial, data, 32)
                each = measured.step_seconds[measured.members] / measured.members
                batch = len(data.train_x) if p["batch_size"] == "full" else int(p["batch_size"])
                work = step_work(make_model(p, data.facts).plan.layers, batch)
                rate = work / each / 1e9
                print(
                    f"{workload + ', ' + str(p['norm']):<24} {measured.members:>4} {measured.kernel:<20} "
                    f"{1e3 * each:17.2f} {work / 1e6:8.1f} {rate:8.1f} {rate / roof:6.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
