"""How right ``bnsweep plan`` is: ``python -m benchmarks.forecast``.

Each sweep is calibrated in a new ledger, forecast, and run. Time is that of training, from the first
step to the last record; memory that of the largest worker; disk that of ``trials/``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS, sweep_of

PROBES = {"ics": {"every": 50}, "landscape": {"every": 50}, "moments": {"every": 50}}

MORE: dict[str, dict[str, Any]] = {
    "mlp": {
        "parameters": {
            "model": "mlp", "norm": ["none", "batch", "l1"], "lr": [0.01, 0.03, 0.1], "steps": 800,
        },
    },
    "mlp, probes": {
        "parameters": {
            "model": "mlp", "norm": ["batch", "noisy_batch"], "lr": [0.01, 0.03, 0.1], "steps": 800,
        },
        "probes": PROBES,
    },
    "dln, batch 64": {
        "parameters": {
            "model": "dln", "features": 32, "norm": ["none", "batch"], "lr": [1e-6, 1e-5],
            "batch_size": 64, "steps": 1000,
        },
        "probes": PROBES,
    },
}  # fmt: skip


def directory_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def compare(name: str, content: dict[str, Any], folder: Path) -> tuple[float, float, float]:
    """Forecast and run a sweep; return found divided by forecast for time, memory and disk."""
    from bnsweep import api

    content = {**content, "name": "forecast", "tracking": {"uri": "none"}}
    api.calibrate(content, storage=str(folder))
    forecast = api.forecast(content, str(folder))
    assert forecast.seconds and forecast.worker_bytes and forecast.ledger_bytes
    began: list[float] = []
    ended: list[float] = []
    memory: list[float] = []

    def watch(progress: Any) -> None:
        now = time.monotonic()
        began.append(now - progress.seconds)
        ended.append(now)
        memory.append(progress.peak_mb)

    outcome = api.run(content, storage=str(folder), progress=watch)
    seconds = max(ended) - min(began)
    disk = directory_bytes(outcome.root / "trials")
    found = (seconds, max(memory) * 1024**2, disk)
    expected = (forecast.seconds, forecast.worker_bytes, forecast.ledger_bytes)
    diverged = outcome.states.get("diverged", 0) / sum(outcome.states.values())
    ratios = tuple(a / b for a, b in zip(found, expected, strict=True))
    print(
        f"{name:<18} {forecast.seconds:8.1f} {seconds:8.1f} {ratios[0]:6.2f} "
        f"{expected[1] / 1e6:8.0f} {found[1] / 1e6:8.0f} {ratios[1]:6.2f} "
        f"{expected[2] / 1e6:8.2f} {found[2] / 1e6:8.2f} {ratios[2]:6.2f} {diverged:8.0%}",
        flush=True,
    )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs; time in s, memory of a worker in MB, disk in MB; ratio: found to forecast")
    columns = ("forecast", "found", "ratio") * 3
    print(f"{'':<18} " + " ".join(f"{c:>{8 if c != 'ratio' else 6}}" for c in columns) + " diverged")
    ratios = []
    for name in [*WORKLOADS, *MORE]:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            content = (
                sweep_of(name, place, seeds=options.seeds, probes=True)
                if name in WORKLOADS
                else {**MORE[name], "seeds": options.seeds}
            )
            ratios.append(compare(name, content, place / "results"))
    for what, own in zip(("time", "memory", "disk"), zip(*ratios, strict=True), strict=True):
        off = [abs(ratio - 1) for ratio in own]
        print(f"{what}: off by {statistics.median(off):.0%} at the median of {len(own)} sweeps")


if __name__ == "__main__":
    main()
