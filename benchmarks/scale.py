"""What a driver bears with a thousand workers: ``python -m benchmarks.scale --trials 10000``.

Nothing is trained. Simulated workers, in virtual time, take packs from the real plan, ledger and queue,
and report as often as real ones do; beside that:

- how many reports a second the real Ray Tune takes, and at what cost, from a crowd of workers in one
  process (:mod:`benchmarks.crowd`);
- how many requests a sweep makes of a store that speaks S3, from a real one trained in this process;
- how long a resumed run takes to know what is left, from a ledger in which every trial is done.

CPU is user and system time of this process alone.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.platform import content, line, write_ledger
from benchmarks.resume import bucket

CROWD_SECONDS = 60.0
"""Seconds that a pack of the crowd takes at least."""


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock:
    """Virtual seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(trials: int, workers: int, pack_seconds: float, folder: Path) -> dict[str, float]:
    """Feed a driver from simulated workers until nothing is left.

    Args:
        trials: Trials of the sweep.
        workers: Workers at once, one a GPU.
        pack_seconds: What a pack takes, in virtual seconds.
        folder: Where its ledger lies.

    Returns:
        CPU seconds by phase, memory in MB, and counts.
    """
    from bnsweep import api
    from bnsweep.execution import measurements
    from bnsweep.positions import Positions
    from bnsweep.runners import PlannedPacks
    from bnsweep.runners.searcher import PackSearcher
    from bnsweep.runners.trainable import step_seconds
    from bnsweep.sweep.ledger import Ledger

    pause = step_seconds(workers)
    sweep = content(trials) | {"resources": {"cpus": 1, "pack_size": 16, "kernel": "loop"}}
    spec, clock = api.load(sweep), Clock()
    before, memory = cpu(), memory_mb()
    plan = api.plan(spec)
    found = {"plan": cpu() - before, "trials": plan.count}
    before = cpu()
    ledger = Ledger.open(folder, spec.name, create=True)
    ledger.write_sweep("", plan.to_dict())
    source = PlannedPacks(
        plan, ledger, plan.trials, "cpu", measurements(spec, ledger), lambda _: True, lambda _: None
    )
    searcher = PackSearcher(source, workers, clock=clock)
    positions = Positions(ledger, plan.count, clock)
    queue: list[tuple[float, int, str, list[Any], float]] = []
    for number in range(workers):
        told = searcher.suggest(f"t{number}")
        if not isinstance(told, dict):
            break
        heapq.heappush(queue, (pause, number, f"t{number}", list(told["units"]), 0.0))
    found["open"] = cpu() - before
    found |= {"packs": len(searcher.left) + sum(map(len, searcher.live.values())), "pause": pause}
    before = cpu()
    reports = _work(queue, searcher, positions, clock, pack_seconds)
    positions.end("done")
    found |= {
        "reports": reports,
        "loop": cpu() - before,
        "virtual": clock.now,
        "memory": memory_mb() - memory,
    }
    return found


def _work(
    queue: list[tuple[float, int, str, list[Any], float]],
    searcher: Any,
    positions: Any,
    clock: Clock,
    pack_seconds: float,
) -> int:
    """Let the workers in the queue do what there is to do; return how often they reported."""
    from bnsweep.runners import Progress

    pause, reports, following = queue[0][0], 0, len(queue)
    while queue:
        clock.now, number, name, units, done = heapq.heappop(queue)
        pack, done = units[0]["pack"], done + pause
        finished = done >= pack_seconds
        step = int(100 * min(1.0, done / pack_seconds))
        sent = Progress(
            pack, 1, step, 100, finished, done, {"completed": 1} if finished else {}, pid=number
        ).to_dict()
        progress = Progress(**sent)
        searcher.stands(progress)
        if finished:
            searcher.finished(name, progress)
        positions.update(progress)
        reports += 1
        if finished:
            units, done = units[1:], 0.0
        if not units:
            searcher.on_trial_complete(name)
            name, following = f"t{following}", following + 1
            told = searcher.suggest(name)
            if not isinstance(told, dict):
                continue
            units = list(told["units"])
        heapq.heappush(queue, (clock.now + pause, number, name, units, done))
    return reports


def requests_of_a_store(folder: Path) -> tuple[Counter[str], int, int]:
    """Train a small sweep in this process, with its results in S3; return requests by kind, trials, packs."""
    from bnsweep import api
    from bnsweep.runners import LocalRunner

    with bucket(folder) as storage:
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        with urllib.request.urlopen(f"{endpoint}/_faults", b"[]", timeout=30):
            pass
        sweep = content(128, "scale") | {
            "resources": {"cpus": 1, "pack_size": 16, "kernel": "loop"}, "tracking": {"uri": "none"},
        }  # fmt: skip
        outcome = api.run(sweep, runner=LocalRunner(), storage=storage)
        with urllib.request.urlopen(f"{endpoint}/_seen", timeout=30) as answer:
            seen = json.load(answer)
    kinds = Counter(f"{entry.split()[0]} {_what(entry)}" for entry in seen)
    return kinds, sum(outcome.states.values()), 8


def _what(entry: str) -> str:
    """Return which part of a ledger a request is about."""
    return next(
        (part for part in ("trials", "packs", "lease", "report", "progress") if part in entry), "other"
    )


def show(options: argparse.Namespace, folder: Path) -> None:
    found = simulate(options.trials, options.workers, options.pack_seconds, folder)
    trials, packs, reports = found["trials"], found["packs"], found["reports"]
    line("simulated: trials in packs", f"{trials:.0f} in {packs:.0f}")
    line("  workers, seconds a pack", f"{options.workers}, {options.pack_seconds:g}")
    line("  planned, packs opened: CPU (s)", f"{found['plan'] + found['open']:.2f}")
    line("  ours: CPU a report (ms)", f"{1e3 * found['loop'] / reports:.3f}")
    line("  ours: share of a core while training", f"{100 * found['loop'] / found['virtual']:.0f} %")
    line(
        "  driver memory grown (MB), a pack (kB)",
        f"{found['memory']:.0f}, {1024 * found['memory'] / packs:.0f}",
    )
    line(
        "  seconds a report, reports a second at full width",
        f"{found['pause']:g}, {options.workers / found['pause']:.0f}",
    )
    line(
        "  trials done a second at full width",
        f"{trials / packs * options.workers / options.pack_seconds:.0f}",
    )
    if options.tune_workers:
        show_tune(options.tune_workers)
    if not options.no_store:
        kinds, count, packs_made = requests_of_a_store(folder / "s3")
        line(f"store: requests of {count} trials in {packs_made} packs", str(sum(kinds.values())))
        for kind, number in kinds.most_common(8):
            line(f"  {kind}", str(number))
    if options.resumed:
        resume(options.resumed, folder / "resumed")


def show_tune(workers: list[int]) -> None:
    """Show how many reports of so many workers the driver takes through Tune, and what that costs it."""
    import ray

    from benchmarks.crowd import crowd
    from bnsweep.runners.joining import start_ray
    from bnsweep.runners.trainable import STEP_SECONDS, step_seconds

    print(
        f"{'Ray Tune: workers':<18}{'s a step':>9}{'asked/s':>9}{'taken/s':>9}{'cores':>7}"
        f"{'ms each':>9}{'waiting':>9}{'start s':>9}{'MB':>6}"
    )
    start_ray()
    try:
        crowd(2, 0.1, 3)  # what is imported and made once
        for count in workers:
            for pause in sorted({STEP_SECONDS, step_seconds(count)}):
                found = crowd(count, pause, max(4, round(CROWD_SECONDS / pause)))
                each, waiting = 1e3 * found.cores / found.reports, 100 * (1 - found.reports / found.asked)
                print(
                    f"{count:<18}{pause:>9g}{found.asked:>9.1f}{found.reports:>9.1f}{found.cores:>7.2f}"
                    f"{each:>9.2f}{waiting:>8.0f}%{found.started:>9.1f}{found.memory:>6.0f}",
                    flush=True,
                )
    finally:
        ray.shutdown()


def resume(trials: int, folder: Path) -> None:
    """Show how long a run takes to know what is left of a ledger in which all is done."""
    from bnsweep import api
    from bnsweep.sweep.ledger import Ledger

    root, _ = write_ledger(content(trials), folder)
    began, used = time.monotonic(), cpu()
    plan = api.plan(content(trials))
    done = Ledger(root).done()
    line(
        f"resume: {len(done)} of {plan.count} done: wall, CPU (s)",
        f"{time.monotonic() - began:.2f}, {cpu() - used:.2f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--pack-seconds", type=float, default=120.0)
    parser.add_argument(
        "--tune-workers",
        type=int,
        nargs="*",
        default=[8, 200, 1000],
        help="crowds on Tune; none to leave it out",
    )
    parser.add_argument("--resumed", type=int, default=10_000, help="trials of the ledger that is resumed")
    parser.add_argument("--no-store", action="store_true")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} CPUs, load {load:.1f} before; {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory(prefix="bnsweep-scale-") as name:
        show(options, Path(name))


if __name__ == "__main__":
    main()
