"""Sweeps that are killed at random moments and run again until done: ``python -m benchmarks.chaos``.

Killed with SIGKILL are a driver that trains in its own process, a driver on Ray, a worker, a raylet, a
whole node of a cluster of three nodes on this machine, the MLflow server, or all of these at once.
What comes out is compared with the same sweep run without a disturbance, by :mod:`benchmarks.chaos.judge`:
from a journal that the training code writes, from files and from MLflow's database, never from what
the sweep says of itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.chaos.episodes import KINDS, SHARES, Chaos, Tally

COLUMNS = (
    "kills", "sweeps", "lost s", "longest s", "repeated", "duplicates", "zombies", "mismatches",
)  # fmt: skip


def shares(points: int, kinds: list[str]) -> dict[str, int]:
    """Divide kill points among kinds, each at least one, as :data:`SHARES` says.

    Example:
        >>> shares(100, ["driver", "all"])
        {'driver': 93, 'all': 7}
    """
    total = sum(SHARES[kind] for kind in kinds)
    found = {kind: max(1, round(points * SHARES[kind] / total)) for kind in kinds}
    largest = max(found, key=lambda kind: found[kind])
    found[largest] = max(1, found[largest] + points - sum(found.values()))
    return found


def row(name: str, tally: Tally) -> str:
    verdict = tally.verdict
    values = [
        str(tally.kills), str(tally.sweeps), f"{verdict.lost:.2f}", f"{verdict.longest:.2f}",
        str(verdict.repeated), str(verdict.duplicates), str(verdict.zombies), str(len(verdict.mismatches)),
    ]  # fmt: skip
    return f"{name:<12}" + "".join(f"{value:>12}" for value in values)


def main() -> None:
    """Kill, judge, and print a table; exits with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="what is killed")
    parser.add_argument("--interval", type=float, default=0.2, help="seconds between checkpoints")
    parser.add_argument("--keep", help="folder in which everything is kept")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--kinds must be among {', '.join(KINDS)}, but found {', '.join(sorted(unknown))}")
    print(
        f"{options.points} kills, seed {options.seed}, a checkpoint every {options.interval} s, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before, {time.strftime('%Y-%m-%d')}",
        flush=True,
    )
    began, tallies = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="bnsweep-chaos-", ignore_cleanup_errors=True) as temporary:
        chaos = Chaos(Path(options.keep or temporary).resolve(), options.seed, options.interval)
        try:
            for kind, points in shares(options.points, kinds).items():
                tallies[kind] = chaos.run(kind, points, lambda text: print(text, flush=True))
        finally:
            chaos.close()
    print(f"{'killed':<12}" + "".join(f"{name:>12}" for name in COLUMNS))
    total = Tally()
    for kind, tally in tallies.items():
        print(row(kind, tally))
        total.add(tally)
    print(row("all kinds", total))
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    sys.exit(1 if total.wrong else 0)


if __name__ == "__main__":
    main()
