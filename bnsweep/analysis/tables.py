"""Tables of a sweep: one row a finished trial, and one row a condition."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.intervals import mean_interval
from bnsweep.analysis.scores import HEADLINES, class_count, counted_value
from bnsweep.parameters import PARAMETERS, Value
from bnsweep.trial import TrialConfig

if TYPE_CHECKING:
    import pandas as pd

    from bnsweep.sweep.ledger import Ledger
    from bnsweep.sweep.records import PlannedTrial, Record

__all__ = [
    "arm_label",
    "build_table",
    "condition_table",
    "facet_label",
    "lr_text",
    "number_text",
    "planned_conditions",
    "results_table",
    "slug",
    "varying_parameters",
]

ARM_PARAMETERS = (
    "norm", "noise", "noise_at_eval", "noise_sigma", "lp_centered", "lp_gaussian", "groups",
    "norm_eps", "norm_momentum", "affine",
)  # fmt: skip
"""What tells one arm from another: the normalization and its own settings."""


def number_text(value: Value) -> str:
    """Write a parameter's value for people.

    Example:
        >>> number_text(0.1), number_text(1e-06), number_text("batch"), number_text(True)
        ('0.1', '1e-6', 'batch', 'true')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.6g}"
    if "e" not in text:
        return text
    digits, exponent = text.split("e")
    return f"{digits}e{int(exponent)}"


def lr_text(lr: float) -> str:
    """Write a learning rate for people, with three significant digits.

    Example:
        >>> lr_text(0.0306617), lr_text(1e-06)
        ('0.0307', '1e-6')
    """
    return number_text(float(f"{lr:.3g}"))


def slug(text: str) -> str:
    """Return a label as part of a file name.

    Example:
        >>> slug("noise_harmless width=0.5")
        'noise-harmless-width-0.5'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def varying_parameters(configs: Iterable[TrialConfig]) -> tuple[str, ...]:
    """Return the parameters that take two values or more, in the order of ``PARAMETERS``.

    A parameter that some trials lack varies only if those that have it disagree.
    """
    seen: dict[str, set[Value]] = {}
    for config in configs:
        for name, value in config.parameters.items():
            seen.setdefault(name, set()).add(value)
    return tuple(name for name in PARAMETERS if len(seen.get(name, ())) > 1)


def arm_label(parameters: Mapping[str, Value], varying: Sequence[str]) -> str:
    """Name the arm of a trial: its norm, and those of the norm's settings that vary.

    Example:
        >>> arm_label({"norm": "noisy_batch", "noise": 0.5, "lr": 0.1}, ["norm", "noise", "lr"])
        'noisy_batch noise=0.5'
    """
    names = [n for n in ARM_PARAMETERS[1:] if n in varying and n in parameters]
    return " ".join([str(parameters["norm"]), *(f"{n}={number_text(parameters[n])}" for n in names)])


def facet_label(parameters: Mapping[str, Value], varying: Sequence[str]) -> str:
    """Name what else varies beside the arm, the learning rate and the seed; empty if nothing does.

    Example:
        >>> facet_label({"norm": "batch", "width": 0.5, "lr": 0.1}, ["norm", "width", "lr"])
        'width=0.5'
    """
    skip = (*ARM_PARAMETERS, "lr", "seed")
    names = [name for name in varying if name not in skip and name in parameters]
    return " ".join(f"{name}={number_text(parameters[name])}" for name in names)


def build_table(
    records: Sequence[Record],
    plan: Sequence[PlannedTrial],
    initial_losses: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Return one row a record, in the order of ``plan`` and with its varying parameters in mind.

    Columns: ``trial_id``, ``condition_id``, ``arm``, ``facet``, every parameter, ``state``,
    ``steps_done``, ``diverged_step``, ``last_finite_loss``, ``initial_loss``, ``classes``,
    ``attempts``, every final reading by its name, and for each headline reading
    ``<name>_counted``, what the trial counts as in an aggregate.

    Args:
        records: Outcomes of trials.
        plan: The trials of the sweep; records outside it are left out. Empty: all are taken.
        initial_losses: First training loss by trial id, for regressions.
    """
    import pandas as pd

    order = {trial.trial_id: index for index, trial in enumerate(plan)}
    if order:
        records = [record for record in records if record.trial_id in order]
        records = sorted(records, key=lambda record: order[record.trial_id])
    varying = varying_parameters(one.config for one in (plan or records))
    initial = initial_losses or {}
    rows = [_row(record, varying, initial.get(record.trial_id, math.nan)) for record in records]
    used = {name for row in rows for name in row}
    readings = sorted({name for record in records for name in record.readings} - set(HEADLINES))
    columns = [
        "trial_id", "condition_id", "arm", "facet",
        *(name for name in PARAMETERS if name in used or name in ("norm", "lr", "seed")),
        "state", "steps_done", "diverged_step", "last_finite_loss", "initial_loss", "classes",
        "attempts", *HEADLINES, *(f"{name}_counted" for name in HEADLINES), *readings,
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=pd.Index(columns))
    numeric = [*HEADLINES, *(f"{name}_counted" for name in HEADLINES), *readings, "initial_loss"]
    numeric += ["last_finite_loss", "lr"]
    frame = frame.astype(dict.fromkeys(numeric, float))
    return frame.astype({"diverged_step": "Int64", "classes": "Int64"})


def _row(record: Record, varying: Sequence[str], initial_loss: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial_id": record.trial_id,
        "condition_id": record.condition_id,
        "arm": arm_label(record.parameters, varying),
        "facet": facet_label(record.parameters, varying),
    }
    row |= record.parameters
    row |= {
        "state": record.state.value,
        "steps_done": record.steps,
        "diverged_step": record.diverged_step,
        "last_finite_loss": record.last_finite_loss,
        "initial_loss": initial_loss,
        "classes": class_count(record),
        "attempts": len(record.attempts),
    }
    row |= dict.fromkeys(HEADLINES, math.nan)
    row |= record.readings
    return row | {f"{name}_counted": counted_value(record, name, initial_loss) for name in HEADLINES}


def planned_conditions(plan: Iterable[PlannedTrial]) -> dict[str, list[TrialConfig]]:
    """Group the trials of a plan by condition, in order of first appearance."""
    groups: dict[str, list[TrialConfig]] = {}
    for trial in plan:
        groups.setdefault(trial.config.condition_id, []).append(trial.config)
    return groups


def condition_table(frame: pd.DataFrame, plan: Sequence[PlannedTrial] = ()) -> pd.DataFrame:
    """Return one row a condition: what varies, how many trials, and the spread over its seeds.

    Columns: ``condition_id``, ``facet``, ``arm``, ``norm``, ``lr``, further varying parameters,
    ``planned``, ``done``, ``missing``, ``seeds``, ``diverged``, ``diverged_fraction``,
    ``stopped``, and for each headline reading that any trial has ``<name>_mean``, ``_sd``,
    ``_min``, ``_max``, ``_low``, ``_high`` (interval of the mean). Diverged trials are counted as
    :func:`bnsweep.analysis.scores.counted_value` says. A condition without a finished trial has a
    row with empty aggregates.

    Args:
        frame: Table of :func:`results_table`.
        plan: The trials of the sweep; without it, what is there is taken for what was planned.
    """
    import pandas as pd

    planned = planned_conditions(plan)
    varying = varying_parameters(trial.config for trial in plan) if plan else _varying_columns(frame)
    extra = [name for name in varying if name not in ("norm", "lr", "seed")]
    names = [name for name in HEADLINES if frame[f"{name}_counted"].notna().any()]
    groups = {str(key): group for key, group in frame.groupby("condition_id", sort=False)}
    rows: list[dict[str, Any]] = []
    for key in [*planned, *(key for key in groups if key not in planned)]:
        group = groups.get(key, frame.iloc[:0])
        first = planned[key][0].parameters if key in planned else _parameters(group)
        rows.append(
            {
                "condition_id": key,
                "facet": facet_label(first, varying),
                "arm": arm_label(first, varying),
                "norm": first["norm"],
                "lr": float(first["lr"]),
                **{name: first.get(name) for name in extra},
                **_counts(group, len(planned.get(key, ())) or len(group)),
                **_spreads(group, names),
            }
        )
    return pd.DataFrame(rows)


def _varying_columns(frame: pd.DataFrame) -> tuple[str, ...]:
    present = [name for name in PARAMETERS if name in frame]
    return tuple(name for name in present if frame[name].dropna().nunique() > 1)


def _parameters(group: pd.DataFrame) -> dict[str, Value]:
    """Return the parameters of a table's first row, without those that do not apply."""
    row = {name: group[name].iloc[0] for name in PARAMETERS if name in group}
    return {name: value for name, value in row.items() if value is not None and value == value}


def _counts(group: pd.DataFrame, planned: int) -> dict[str, Any]:
    done = len(group)
    diverged = int(group["state"].eq("diverged").sum())
    return {
        "planned": planned,
        "done": done,
        "missing": planned - done,
        "seeds": " ".join(str(int(seed)) for seed in sorted(group["seed"])),
        "diverged": diverged,
        "diverged_fraction": diverged / done if done else math.nan,
        "stopped": int(group["state"].eq("stopped").sum()),
    }


def _spreads(group: pd.DataFrame, names: Sequence[str]) -> dict[str, float]:
    row: dict[str, float] = {}
    for name in names:
        values = [float(value) for value in group[f"{name}_counted"].dropna()]
        interval = mean_interval(values)
        row[f"{name}_mean"] = interval.mean
        row[f"{name}_sd"] = interval.sd
        row[f"{name}_min"] = min(values, default=math.nan)
        row[f"{name}_max"] = max(values, default=math.nan)
        row[f"{name}_low"] = interval.low
        row[f"{name}_high"] = interval.high
    return row


def results_table(ledger: Ledger) -> pd.DataFrame:
    """Return the table of a sweep's finished trials; see :func:`build_table` for its columns."""
    from bnsweep.analysis.results import Results

    return Results.read(ledger).trials
