"""``bnsweep plan FILE``."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING

from bnsweep.errors import BnsweepError

if TYPE_CHECKING:
    from bnsweep.sweep import SweepSpec
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


def call(arguments: argparse.Namespace) -> int:
    """Show what would run."""
    from bnsweep import api
    from bnsweep.sweep.ledger import Ledger

    spec = api.load(arguments.file)
    plan = api.plan(spec)
    folder = api.storage_folder(spec, arguments.storage)
    known = (folder / spec.name / "ledger.json").exists()
    done = Ledger.open(folder, spec.name).done() & set(plan.trial_ids) if known else set()
    if arguments.json:
        print(json.dumps({**plan.to_dict(), "done": sorted(done), "left": plan.count - len(done)}, indent=1))
        return 0
    print(f"{plan.name}: {plan.count} trials = {plan.condition_count} conditions x {len(plan.seeds)} seeds")
    for name in plan.varying:
        counts = Counter(str(trial.parameters.get(name, "-")) for trial in plan.trials)
        print(f"  {name}: {_values(counts)}")
    if plan.unprepared is not None:
        print(f"  no ids yet: run bnsweep data prepare {plan.unprepared}")
    print(f"  {len(done)} done, {plan.count - len(done)} to run; results in {folder / spec.name}")
    _claims(spec, Ledger.open(folder, spec.name) if known else None, arguments.power)
    return 0


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
