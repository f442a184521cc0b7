"""What MLflow is told of a sweep: names, tags, parameters and readings, as plain data.

Pure functions of the ledger's records; nothing here needs MLflow. Only network-wide readings become
metrics: hundreds of per-layer ones make MLflow's UI unusable, so these travel as one Parquet file.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bnsweep.names import DATASETS
from bnsweep.parameters import Value
from bnsweep.sweep.curves import CurveRow
from bnsweep.sweep.records import PlannedTrial, Record, aggregate_value
from bnsweep.tracking.names import clipped, metric_name
from bnsweep.trial import TrialConfig, TrialState

__all__ = [
    "Condition",
    "DatasetFacts",
    "Reading",
    "conditions",
    "dataset_facts",
    "describe",
    "headline",
    "milliseconds",
    "params",
    "start_ms",
    "trial_tags",
    "verdicts",
]

_PARAM_LIMIT = 6000
_TAG_LIMIT = 8000
_DESCRIPTION_LIMIT = 4000  # with the rest below it within the 5000 of older servers


@dataclass(frozen=True)
class Reading:
    """One point of a metric.

    Attributes:
        name: Name of the metric.
        value: Finite, or NaN.
        time_ms: When it was taken, as the ledger recorded it.
        step: Optimizer step.
    """

    name: str
    value: float
    time_ms: int
    step: int


def milliseconds(written: str) -> int:
    """Return the ledger's text for a time as milliseconds since 1970.

    Example:
        >>> milliseconds("1970-01-01T00:00:01.500Z")
        1500
    """
    return round(datetime.fromisoformat(written).timestamp() * 1000)


def params(parameters: Mapping[str, Value]) -> dict[str, str]:
    """Return parameters as MLflow params: text, written as in a sweep file, within MLflow's limit.

    Example:
        >>> params({"lr": 0.1, "affine": True, "norm": "batch"})
        {'lr': '0.1', 'affine': 'true', 'norm': 'batch'}
    """
    return {
        name: clipped(value if isinstance(value, str) else json.dumps(value), _PARAM_LIMIT)
        for name, value in parameters.items()
    }


def headline(rows: Iterable[CurveRow]) -> tuple[list[Reading], int]:
    """Return the network-wide readings that MLflow can chart, and how many it cannot.

    MLflow stores an infinity as 1.8e308, which ruins every chart with it: such points are left out
    and counted. NaN is kept. The ledger has both.

    Args:
        rows: Readings of one trial.

    Returns:
        The readings in order, and the number of infinite ones left out.
    """
    network = [row for row in rows if row.layer == 0]
    kept = [
        Reading(metric_name(row.name), row.value, row.time_ms, row.step)
        for row in network
        if not math.isinf(row.value)
    ]
    return kept, len(network) - len(kept)


def trial_tags(config: TrialConfig, trial_id: str, state: str) -> dict[str, str]:
    """Return the tags by which a trial's run is found."""
    tags = {
        "bnsweep.kind": "trial",
        "bnsweep.trial_id": trial_id,
        "bnsweep.condition": config.condition_id,
        "bnsweep.state": state,
    }
    if config.probes:
        probes = {name: dict(options) for name, options in config.probes.items()}
        tags["bnsweep.probes"] = clipped(json.dumps(probes), _TAG_LIMIT)
    return tags


@dataclass(frozen=True)
class DatasetFacts:
    """A data set as MLflow lists it.

    Attributes:
        name: Name of the data set.
        digest: Start of the fingerprint of its contents.
        source: Name and whole fingerprint, as JSON.
        profile: Counts, as JSON.
    """

    name: str
    digest: str
    source: str
    profile: str


def dataset_facts(config: TrialConfig, data: Mapping[str, Any] | None = None) -> DatasetFacts:
    """Return the data set of a trial: its name, the digest of its fingerprint, its counts.

    Args:
        config: The trial.
        data: Counts on record; those of the named data set where absent.
    """
    name = str(config.parameters["dataset"])
    facts = DATASETS.get(name)
    counts = {"train": facts.train, "test": facts.test, "classes": facts.classes} if facts else {}
    counts |= {key: value for key, value in (data or {}).items() if isinstance(value, int)}
    digest = config.fingerprint or hashlib.sha256(name.encode()).hexdigest()
    source = json.dumps({"name": name, "fingerprint": config.fingerprint})
    return DatasetFacts(name, digest[:16], source, json.dumps(counts))


@dataclass(frozen=True)
class Condition:
    """All seeds of one condition, done.

    Attributes:
        condition_id: 16 hex digits.
        label: Name for people, without a seed.
        parameters: Those of its trials, without the seed.
        version: Hash of the records it was computed from.
        readings: Means, spreads and counts.
        start_ms: When its first trial started.
        end_ms: When its last trial was written.
    """

    condition_id: str
    label: str
    parameters: Mapping[str, Value]
    version: str
    readings: Sequence[Reading] = field(default_factory=tuple)
    start_ms: int = 0
    end_ms: int = 0


def conditions(planned: Sequence[PlannedTrial], records: Mapping[str, Record]) -> list[Condition]:
    """Return the conditions whose planned trials all have a record, in the plan's order.

    The metrics of one are, for each reading, ``<name>_mean`` and (from two seeds on) the sample
    standard deviation ``<name>_sd``, with ``n`` seeds and ``diverged_fraction``. Diverged seeds count
    as :func:`bnsweep.sweep.records.aggregate_value` says.

    Args:
        planned: The trials of the plan.
        records: Those done, by trial id.
    """
    members: dict[str, list[PlannedTrial]] = {}
    for trial in planned:
        members.setdefault(trial.config.condition_id, []).append(trial)
    return [
        _condition(condition_id, trials, [records[trial.trial_id] for trial in trials])
        for condition_id, trials in members.items()
        if all(trial.trial_id in records for trial in trials)
    ]


def _condition(condition_id: str, trials: Sequence[PlannedTrial], records: Sequence[Record]) -> Condition:
    version = hashlib.sha256("".join(sorted(record.curves_sha256 for record in records)).encode())
    end = max(milliseconds(record.written_at) for record in records)
    step = max(record.steps for record in records)
    diverged = sum(record.state is TrialState.DIVERGED for record in records)
    values = {"n": float(len(records)), "diverged_fraction": diverged / len(records)}
    for name in sorted({name for record in records for name in record.readings}):
        counted = [value for record in records if (value := aggregate_value(record, name)) is not None]
        if counted:
            values[f"{name}_mean"] = statistics.fmean(counted)
        if len(counted) > 1:
            values[f"{name}_sd"] = statistics.stdev(counted)
    return Condition(
        condition_id,
        re.sub(r" seed=\d+$", "", trials[0].label),
        {name: value for name, value in trials[0].config.parameters.items() if name != "seed"},
        version.hexdigest()[:16],
        [Reading(metric_name(name), value, end, step) for name, value in values.items()],
        min(start_ms(record) for record in records),
        end,
    )


def verdicts(content: Mapping[str, Any]) -> tuple[dict[str, str], list[Reading]]:
    """Return tags and metrics by which sweeps are found by what they say about claims.

    Args:
        content: The report's ``verdicts.json``. Its time is that of the last trial, so that sending it
            again adds nothing.

    Returns:
        Tags ``bnsweep.verdict.<claim>`` and metrics ``claim/<claim>/effect``, ``low``, ``high`` and
        the like.

    Example:
        >>> made = {"verdict": "supported", "numbers": {"effect": 1.5}}
        >>> tags, readings = verdicts({"verdicts": {"lr_robustness": made}})
        >>> tags["bnsweep.verdict.lr_robustness"], readings[0].name
        ('supported', 'claim/lr_robustness/effect')
    """
    tags = {
        "bnsweep.claims_hash": str(content.get("hash", "")),
        "bnsweep.claims_changed_after_results": json.dumps(bool(content.get("changed_after_results"))),
        "bnsweep.exploratory": json.dumps(bool(content.get("exploratory"))),
    }
    readings = []
    time_ms = milliseconds(content["last_record"]) if content.get("last_record") else 0
    for key, entry in content["verdicts"].items():
        name = re.sub(r"[^\w\-.]", "_", key)
        tags[f"bnsweep.verdict.{name}"] = str(entry["verdict"])
        for number, value in entry.get("numbers", {}).items():
            readings.append(Reading(f"claim/{name}/{number}", float(value), time_ms, 0))
    return tags, readings


def start_ms(record: Record) -> int:
    """Return when a trial's first attempt started; when it was written, where that is unknown."""
    started = [str(attempt["started"]) for attempt in record.attempts if attempt.get("started")]
    return min(map(milliseconds, started), default=milliseconds(record.written_at))


def _as_text(text: str) -> str:
    r"""Return text as Markdown that shows it as it is: no link, image, code or HTML of the user's.

    Example:
        >>> _as_text("<b> [x](javascript:1) `a_b`")
        '&lt;b&gt; \\[x\\](javascript:1) \\`a\\_b\\`'
    """
    lines = (
        re.sub(r"[\\`*_{}\[\]|~]", r"\\\g<0>", html.escape(line.strip(), quote=False))
        for line in text.split("\n")
    )
    return "\n".join(re.sub(r"^[#+\-=:]", r"\\\g<0>", line) for line in lines)


def describe(plan: Mapping[str, Any], experiment_id: str) -> str:
    """Return the parent run's description in Markdown, with links that filter the run table.

    Args:
        plan: The stored plan.
        experiment_id: MLflow's id of the sweep's experiment.
    """

    def link(text: str, kind: str) -> str:
        query = f"tags.%60bnsweep.kind%60%20%3D%20%27{kind}%27"
        return f"[{text}](#/experiments/{experiment_id}/runs?searchFilter={query})"

    text, room = str(plan.get("description") or "").strip(), _DESCRIPTION_LIMIT
    while len(said := _as_text(clipped(text, room))) > _DESCRIPTION_LIMIT:
        room = room * _DESCRIPTION_LIMIT // len(said)
    lines = [said, ""]
    lines += [
        f"- {link('Conditions', 'condition')}: means over seeds; filter `tags.`bnsweep.kind` = 'condition'`",
        f"- {link('Trials', 'trial')}: one run a seed; filter `tags.`bnsweep.kind` = 'trial'`",
        "",
        "To see accuracy against the learning rate, filter for conditions, choose a scatter chart of "
        "`test_accuracy_mean` over `lr`, and group by `norm`. Readings of each layer are in every trial's "
        "`curves.parquet`; `plan.json` and `sweep.yaml` are artifacts of this run.",
    ]
    return "\n".join(lines).strip()
