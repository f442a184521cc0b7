"""What a sweep has come to, read without the code that wrote it, and compared with an undisturbed run.

Records, curves and events are read as JSON and Parquet, MLflow's runs with SQL; what was trained is the
journal's word. Nothing here asks the ledger's or the tracking's own classes.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from benchmarks.chaos import journal

__all__ = ["Verdict", "judge"]

UNFIXED = ("attempts", "environment", "written_at", "curves_sha256", "curves_bytes")
"""What may differ between two runs: when and where it was done, and the times in the curves."""


@dataclass
class Verdict:
    """What is wrong with a sweep that was killed and run again; all zero or empty where nothing is.

    Attributes:
        repeated: Steps that were made again, over all packs and kills.
        lost: Seconds of work that were lost, likewise.
        longest: The most seconds that one pack lost at once.
        duplicates: Trials that are double, in the ledger or in MLflow, and readings that are in MLflow.
        zombies: Runs that MLflow shows as going on, open packs, unfinished files, processes.
        mismatches: What differs from the undisturbed run, a sentence each.
    """

    repeated: int = 0
    lost: float = 0.0
    longest: float = 0.0
    duplicates: int = 0
    zombies: int = 0
    mismatches: list[str] = field(default_factory=list)


def judge(
    root: Path, reference: Path, interval: float, *, exact: bool = True, ordered: bool = True
) -> Verdict:
    """Judge a finished sweep.

    Args:
        root: Its folder; the journal is ``<root>.journal``, MLflow's database beside it.
        reference: The folder of the same sweep, run without a disturbance.
        interval: Time between two checkpoints of a pack, in seconds.
        exact: Whether the whole table must be the same. Where workers race to rungs it need not be: then
            every decision must follow from the events before it, and every loss be the reference's.
        ordered: Whether a search's events must be the same in order too. Where several workers train at once
            either of two conditions may end first; what is suggested, and how each ends, must be the same.
    """
    verdict = Verdict()
    entries = journal.read(root.with_suffix(".journal"))
    undisturbed = journal.read(reference.with_suffix(".journal"))
    _judge_work(verdict, entries, undisturbed, interval)
    own = _table(root)
    _judge_table(verdict, own, entries)
    if exact:
        _compare(verdict, own, _table(reference), "the ledger")
        arranged = list if ordered else _by_number
        _compare(verdict, arranged(_events(root)), arranged(_events(reference)), "the search's events")
        _compare(verdict, _shown(root), _shown(reference), "MLflow")
    else:
        _judge_decisions(verdict, own, _events(root))
    planned = _planned(root)
    verdict.mismatches += [f"trial {one} is missing" for one in planned - own.keys()]
    verdict.duplicates += len(own.keys() - planned)
    _judge_tracking(verdict, root, planned)
    verdict.zombies += sum(1 for place in ("packs", "tmp") for _ in (root / place).iterdir())
    verdict.zombies += (root / "opening.json").exists()
    return verdict


def _judge_work(
    verdict: Verdict, entries: Sequence[journal.Entry], undisturbed: Sequence[journal.Entry], interval: float
) -> None:
    """Compare what was trained with what is trained without a disturbance, and count what was repeated."""
    for repeated in journal.repeats(entries):
        verdict.repeated += repeated.steps
        verdict.lost += repeated.seconds
        verdict.longest = max(verdict.longest, repeated.seconds)
        if repeated.overdue > interval:
            verdict.mismatches.append(f"a pack repeated {repeated.overdue:.2f} s of work")
        if repeated.backwards:
            verdict.mismatches.append("an attempt began from an older checkpoint than the one before")
    losses, differing = journal.losses_of(entries)
    expected, _ = journal.losses_of(undisturbed)
    if differing:
        verdict.mismatches.append(f"{differing} steps had another loss when they were made again")
    for trial, steps in losses.items():
        if any(expected.get(trial, {}).get(step) != loss for step, loss in steps.items()):
            verdict.mismatches.append(f"the losses of trial {trial} differ")


def _judge_table(verdict: Verdict, table: Mapping[str, Any], entries: Sequence[journal.Entry]) -> None:
    """Compare the ledger's records with the journal: every step was made, every loss is as it was."""
    losses, _ = journal.losses_of(entries)
    for trial, (record, rows) in table.items():
        done = losses.get(trial, {})
        if any(step not in done for step in range(record["steps"])):
            verdict.mismatches.append(f"trial {trial} has a record, but not all its steps were made")
        last = done.get(record["steps"] - 1)
        if record["state"] != "diverged" and record["last_finite_loss"] != last:
            verdict.mismatches.append(f"trial {trial} has a last loss that is not the last step's")
        told = {row[0]: float(row[3]) for row in rows if row[1] == "train_loss"}
        wrong = sum(done.get(step) != value for step, value in told.items())
        if wrong:
            verdict.mismatches.append(f"trial {trial} has {wrong} losses in its curve that no step had")


def _judge_decisions(verdict: Verdict, table: Mapping[str, Any], events: Sequence[Any]) -> None:
    """Follow successive halving by hand: who is below the upper half of those before it is stopped."""
    seen: dict[int, dict[str, float]] = defaultdict(dict)
    stopped: dict[str, int] = {}
    for event in events:
        if event["event"] != "rung":
            continue
        before, condition = seen[event["step"]], event["condition"]
        cut = np.percentile(list(before.values()), 50) if before else -np.inf
        if event["stop"] != bool(event["value"] < cut):
            verdict.mismatches.append(f"the decision on {condition} at step {event['step']} does not follow")
        if condition in before:
            verdict.duplicates += 1
        before[condition] = event["value"]
        if event["stop"]:
            stopped.setdefault(condition, event["step"])
    cut_short = {record["steps"] for record, _ in table.values() if record["state"] == "stopped"}
    if not cut_short <= set(stopped.values()):
        verdict.mismatches.append("a trial was stopped where nothing was decided")


def _compare(verdict: Verdict, own: Any, other: Any, what: str) -> None:
    if own == other:
        return
    if isinstance(own, dict) and isinstance(other, dict):
        differing = [key for key in own.keys() | other.keys() if own.get(key) != other.get(key)]
        verdict.mismatches.append(f"{what} differs in {', '.join(map(str, differing[:5]))}")
    else:
        verdict.mismatches.append(f"{what} differ")


def _planned(root: Path) -> set[str]:
    """Return the trials that the sweep asks for: those of its plan, and those that its search suggested."""
    found = {trial["trial_id"] for trial in json.loads((root / "plan.json").read_text())["trials"]}
    for event in _events(root):
        found |= {trial["trial_id"] for trial in event.get("trials", ())}
    return found


def _table(root: Path) -> dict[str, Any]:
    """Return the record and the readings of every finished trial, without times and places."""
    found = {}
    for path in sorted((root / "trials").glob("*/record.json")):
        record = {key: value for key, value in json.loads(path.read_text()).items() if key not in UNFIXED}
        table = parquet.read_table(path.with_name("curves.parquet")).drop_columns(["time_ms"]).to_pydict()
        rows = sorted(zip(table["step"], table["name"], table["layer"], table["value"], strict=True))
        found[record["trial_id"]] = (record, [(*row[:3], repr(row[3])) for row in rows])
    return found


def _events(root: Path) -> list[Any]:
    paths = sorted((root / "search").glob("*.json"))
    return [
        {key: value for key, value in json.loads(path.read_text()).items() if key != "written_at"}
        for path in paths
    ]


def _by_number(events: Sequence[Any]) -> dict[tuple[str, Any], list[Any]]:
    """Return a search's events by their kind and the number of the suggestion, whatever their order."""
    found: dict[tuple[str, Any], list[Any]] = defaultdict(list)
    for event in events:
        found[event["event"], event.get("number")].append(event)
    return dict(found)


def _sql(root: Path, query: str) -> list[Any]:
    """Ask MLflow's database about this sweep's active runs, called ``own``."""
    own = (
        "with own as (select r.run_uuid, r.status, t.value trial from runs r join experiments e using "
        "(experiment_id) left join tags t on t.run_uuid = r.run_uuid and t.key = 'bnsweep.trial_id' "
        "where e.name = ? and r.lifecycle_stage = 'active') "
    )
    with closing(sqlite3.connect(root.parent / "mlflow.db", timeout=60)) as database:
        return database.execute(own + query, (root.name,)).fetchall()


def _shown(root: Path) -> dict[str, Any]:
    """Return every metric that MLflow has of every trial."""
    found: dict[str, list[Any]] = defaultdict(list)
    query = "select trial, key, step, value, is_nan from own join metrics using (run_uuid) where trial != ''"
    for trial, *row in _sql(root, query):
        found[trial].append(tuple(row))
    return {trial: sorted(rows) for trial, rows in found.items()}


def _judge_tracking(verdict: Verdict, root: Path, planned: set[str]) -> None:
    runs = _sql(root, "select trial, status from own")
    verdict.zombies += sum(status in ("RUNNING", "SCHEDULED") for _, status in runs)
    shown = Counter(trial for trial, _ in runs if trial)
    verdict.duplicates += sum(count - 1 for count in shown.values())
    twice = "select count(*) from (select 1 from own join metrics using (run_uuid) group by run_uuid, key, step having count(*) > 1)"  # noqa: E501
    verdict.duplicates += _sql(root, twice)[0][0]
    if shown.keys() != planned:
        missing = len(planned - shown.keys())
        verdict.mismatches.append(
            f"MLflow lacks {missing} trials and has {len(shown.keys() - planned)} others"
        )
