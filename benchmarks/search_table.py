"""Write ``benchmarks/digits_table.csv`` from the results of ``benchmarks/digits_table.yaml``.

    bnsweep run benchmarks/digits_table.yaml && python -m benchmarks.search_table results/digits-table

One line a condition: its settings, and the final test accuracy of each seed; a diverged seed has 0.1, chance.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import aggregate_value

PATH = Path(__file__).with_name("digits_table.csv")


def main() -> None:
    ledger = Ledger(sys.argv[1] if len(sys.argv) > 1 else "results/digits-table")
    rows: dict[tuple[Any, ...], list[float | None]] = {}
    for record in ledger.records([trial.trial_id for trial in ledger.planned()]):
        key = tuple(record.parameters[name] for name in ("norm", "lr", "momentum"))
        rows.setdefault(key, []).append(aggregate_value(record, "test_accuracy"))
    with PATH.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["norm", "lr", "momentum", "seed_0", "seed_1", "seed_2"])
        writer.writerows([*key, *(f"{value:.4f}" for value in values)] for key, values in rows.items())
    print(f"{len(rows)} conditions in {PATH}")


if __name__ == "__main__":
    main()
