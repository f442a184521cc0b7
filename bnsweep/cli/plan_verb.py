"""``bnsweep plan FILE``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from bnsweep.errors import BnsweepError

if TYPE_CHECKING:
    from bnsweep.sweep import Plan, SweepSpec
    from bnsweep.sweep.forecast import Forecast
    from bnsweep.sweep.ledger import Ledger

EXAMPLE = "bnsweep plan sweeps/quickstart.yaml"

MOST_VALUES = 10
"""Values of a parameter that are listed one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("file", help="the sweep file")
    parser.add_argument("--storage", help="folder of results, instead of the file's")
    parser.add_argument(
        "--power", type=float, default=0.8, help="probability with which claims are to find an effect (0.8)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--calibrate", action="store_true", help="measure the fastest packs here first; trains nothing"
    )


def call(arguments: argparse.Namespace) -> int:
    """Show what would run."""
    from bnsweep import api
    from bnsweep.sweep.ledger import Ledger

    spec = api.load(arguments.file)
    if arguments.calibrate:
        api.calibrate(spec, storage=arguments.storage, say=lambda text: print(text, file=sys.stderr))
    plan = api.plan(spec)
    folder = api.storage_folder(spec, arguments.storage)
    known = (folder / spec.name / "ledger.json").exists()
    ledger = Ledger.open(folder, spec.name) if known else None
    left = _Left(plan, ledger)
    done = left.done
    forecast = None if plan.unprepared else api.forecast(spec, arguments.storage)
    if arguments.json:
        content = {**plan.to_dict(), "done": sorted(done), "left": plan.count - len(done)} | left.counts()
        print(json.dumps(content | {"forecast": forecast.to_dict() if forecast else None}, indent=1))
        return 0
    print(f"{plan.name}: {plan.count} trials = {plan.condition_count} conditions x {len(plan.seeds)} seeds")
    for name in plan.varying:
        if not plan.trials:
            print(f"  {name}: suggested while the search runs")
            continue
        counts = Counter(str(trial.parameters.get(name, "-")) for trial in plan.trials)
        print(f"  {name}: {_values(counts)}")
    if plan.unprepared is not None:
        print(f"  no ids yet: run bnsweep data prepare {plan.unprepared}")
    print(f"  {len(done)} done, {plan.count - len(done)} to run; results in {folder / spec.name}")
    for line in left.lines(spec):
        print(f"  {line}")
    if forecast is not None and forecast.packs:
        print(f"  {describe(forecast)}")
    if spec.sequential is not None:
        looks = spec.sequential.counts
        print(
            f"  sequential: {len(looks)} looks at most, at {', '.join(map(str, looks))} seeds; up to "
            f"{plan.condition_count * looks[-1]} trials"
        )
    _claims(spec, ledger, arguments.power)
    return 0


class _Left:
    """What of a plan is left, set beside what was run before.

    Args:
        plan: The plan.
        ledger: The sweep's, if it was ever run.

    Attributes:
        done: Trials of the plan that are done.
        under_way: Those that a pack was opened for: they go on from its last checkpoint, if there is one.
        failed: Those that failed, which run leaves alone.
    """

    def __init__(self, plan: Plan, ledger: Ledger | None) -> None:
        self.plan, self.ledger = plan, ledger
        self.done: set[str] = set()
        self.under_way: set[str] = set()
        self.failed: set[str] = set()
        if ledger is not None and plan.unprepared is None:
            ids = set(plan.trial_ids)
            with ledger.one_look():
                self.done, self.failed = ids & ledger.done(), ids & ledger.failed().keys()
            opened = {str(trial) for pack in ledger.open_packs().values() for trial in pack["members"]}
            self.under_way = ids & opened - self.done - self.failed

    def counts(self) -> dict[str, int]:
        """Return how many trials are under way, failed before, and are new."""
        new = self.plan.count - len(self.done) - len(self.under_way) - len(self.failed)
        return {"under_way": len(self.under_way), "failed": len(self.failed), "new": new}

    def lines(self, spec: SweepSpec) -> list[str]:
        """Say what a run would do with what was run before, and what has changed since."""
        from bnsweep.extending import describe_starts, starts_of
        from bnsweep.sweep.changes import compare_plans

        if self.ledger is None or not (self.ledger.root / "plan.json").exists():
            return []
        counts = self.counts()
        lines = []
        if self.under_way or self.failed:
            lines.append(
                f"to run: {counts['under_way']} in packs under way go on, {counts['new']} are new"
                + (f"; {counts['failed']} failed before: --retry-failed takes them up" if self.failed else "")
            )
        left = [trial for trial_id, trial in self.plan.by_id.items() if trial_id not in self.done]
        lines += describe_starts(spec, starts_of(self.plan, self.ledger, left))
        if spec.method != "optuna":
            before = [trial.config for trial in self.ledger.planned()]
            changed = compare_plans(before, self.plan.trials, self.ledger.done(), None)
            lines += [f"changed: {line}" for line in (*changed.lines, *changed.grave)]
        return lines


def describe(forecast: Forecast) -> str:
    """Return a forecast in words."""
    if forecast.seconds is None or forecast.worker_bytes is None or forecast.ledger_bytes is None:
        return "not calibrated: packs, time, memory and disk are known after bnsweep plan --calibrate"
    sizes = [len(pack.members) for pack in forecast.packs]
    few = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(max(sizes))
    return (
        f"{len(sizes)} packs of {few} trials on {forecast.workers} workers: about "
        f"{duration(forecast.seconds)} of training, {forecast.worker_bytes / 1e9:.2f} GB of memory a worker, "
        f"{forecast.ledger_bytes / 1e6:.1f} MB of disk"
    )


def duration(seconds: float) -> str:
    """Return a time for people.

    Example:
        >>> duration(42.4), duration(600), duration(7300)
        ('42 s', '10 min', '2 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _claims(spec: SweepSpec, ledger: Ledger | None, power: float) -> None:
    """Say what the sweep's claims can show."""
    from bnsweep.analysis.claims.planning import forecast_lines

    if not 0.05 <= power <= 0.999:
        raise BnsweepError(f"--power must be between 0.05 and 0.999, but found {power:g}")
    for line in forecast_lines(spec, ledger, power):
        print(f"  claim {line}")


def _values(counts: Counter[str]) -> str:
    """Say which values there are, and how often; of many numbers the ends."""
    if len(counts) > MOST_VALUES:
        numbers = [float(value) for value in counts if value != "-" and value != "full"]
        return f"{len(counts)} values from {min(numbers):g} to {max(numbers):g}"
    return ", ".join(f"{value} ({count})" for value, count in counts.items())
