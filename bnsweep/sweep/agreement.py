"""Checks that concern several keys of a sweep file together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bnsweep.errors import DataError
from bnsweep.names import DATASETS, DataFacts
from bnsweep.parameters import Value, weight_layer_count
from bnsweep.sweep.expansion import (
    Completer,
    FactsOf,
    conditions,
    count_conditions,
    read_facts,
    representatives,
)
from bnsweep.sweep.nodes import Mistakes, Node, Table
from bnsweep.sweep.searching import check_early_stop
from bnsweep.sweep.settings import Setting
from bnsweep.sweep.spec import MAX_TRIALS, Metric
from bnsweep.sweep.values import Settings

__all__ = ["check_agreement"]

MAX_KINDS = 20_000
"""Most combinations that are checked one by one."""

_APPLIES = re.compile(r"(\w+) applies only where (.*)")


def check_agreement(root: Table, values: Mapping[str, Any], settings: Settings, mistakes: Mistakes) -> bool:
    """Note what does not go together: size of the grid, settings, layers, metric, data.

    Whatever depends on a setting that is wrong in itself is passed over, so that one slip of the
    pen is one mistake.

    Args:
        root: The file.
        values: What was read, by top-level key.
        settings: What ``parameters`` held.
        mistakes: Receives what is wrong.

    Returns:
        Whether some trial learns a regression problem, which has no accuracy.
    """
    _check_method(root, values, mistakes)
    if not _small_enough(root, values, settings, mistakes):
        return False
    completer = Completer(_facts(root, values, settings, mistakes))
    problems: dict[str, list[Mapping[str, Value]]] = {}
    trials: list[dict[str, Value]] = []
    met = list(conditions(representatives(settings.legal)))
    for condition in met:
        try:
            trials.append(completer.complete(condition))
        except ValueError as error:
            lines = str(error).splitlines()
            for line in lines:
                problems.setdefault(line, []).append(condition)
            trials.extend(_without_misplaced(condition, lines, completer))
    for text, where in problems.items():
        if not _mentions(text, settings.wrong):
            _note(text, where, met, settings, root, mistakes)
    if not settings.wrong & {"steps", "epochs"}:
        check_early_stop(root, values, trials, mistakes)
    if not settings.wrong & {"model", "depth"}:
        _check_layers(root, values, trials, mistakes)
    return _check_metric(root, values, settings, trials, mistakes)


def _without_misplaced(
    condition: Mapping[str, Value], lines: Sequence[str], completer: Completer
) -> list[dict[str, Value]]:
    """Return the trial without the settings that do not apply, if that is all that is wrong."""
    misplaced = {match[1] for match in map(_APPLIES.fullmatch, lines) if match}
    try:
        return [completer.complete({k: v for k, v in condition.items() if k not in misplaced})]
    except ValueError:
        return []


def _check_method(root: Table, values: Mapping[str, Any], mistakes: Mistakes) -> None:
    grid = root.entries.get("method") is None or values.get("method") == "grid"
    for name in ("search", "early_stop"):
        if grid and name in root.entries:
            must = "must stand only with method random or optuna"
            mistakes.add(root.keys[name], name, must, "method grid", "a grid is enumerated, to the end")
    schedule = values.get("sequential")
    if schedule and not values.get("claims"):
        must, hint = "must stand with claims", "seeds are added until claims are clear; else write a number"
        mistakes.add(root.keys["seeds"], "seeds", must, "none", hint)
    if schedule and not grid:
        must, hint = "must be a number or a list where conditions are searched", "use method grid"
        mistakes.add(root.keys["seeds"], "seeds", must, "a schedule", hint)
    adaptive = values.get("method") == "optuna" or "early_stop" in root.entries
    if adaptive and values.get("keep_checkpoints") is True:
        hint = (
            "what a search suggests and stops depends on the steps it has: use grid or random, or remove it"
        )
        must = "must stand with method grid or random, without early_stop"
        mistakes.add(root.keys["keep_checkpoints"], "keep_checkpoints", must, "a search", hint)
    if adaptive and values.get("claims") and values.get("exploratory") is not True:
        hint = (
            "adaptive sampling and early stopping bias a comparison: use grid or random, or exploratory: true"
        )
        mistakes.add(root.keys["claims"], "claims", "must stand with method grid or random", "a search", hint)


def _small_enough(root: Table, values: Mapping[str, Any], settings: Settings, mistakes: Mistakes) -> bool:
    schedule = values.get("sequential")
    seeds = range(schedule.max) if schedule else values.get("seeds") or (0,)
    node: Node | None = root.keys.get("parameters", root)
    grid = values.get("method", "grid") == "grid"
    try:
        size = count_conditions(settings.legal) * len(seeds) if grid else 0
        kinds = count_conditions(representatives(settings.legal))
        if size <= MAX_TRIALS and kinds > MAX_KINDS:
            raise ValueError(f"{kinds:,} combinations that when: tells apart, above {MAX_KINDS:,}")
    except ValueError as error:
        mistakes.add(node, "parameters", "must be simple enough to check", str(error), "use two sweep files")
        return False
    if size <= MAX_TRIALS:
        return True
    factors = [
        f"{len(setting.values)} {setting.name}" for setting in settings.legal if len(setting.values) > 1
    ]
    found = f"{size:,} ({' x '.join([*factors, f'{len(seeds)} seeds'])})"
    mistakes.add(
        node, "parameters", f"must give at most {MAX_TRIALS:,} trials", found, "lower num, or list less"
    )
    return False


def _facts(root: Table, values: Mapping[str, Any], settings: Settings, mistakes: Mistakes) -> FactsOf:
    facts: dict[str, DataFacts] = dict(DATASETS)
    folder = [s for s in settings.legal if s.name == "dataset" and "image_folder" in s.values]
    if folder and "data_root" not in root.entries:
        node = settings.nodes["dataset"]
        mistakes.add(
            node, "data_root", "must be given for dataset image_folder", "nothing", "data_root: FOLDER"
        )
    elif folder and "data_root" in values:
        try:
            own = read_facts(values["data_root"])
            facts |= {"image_folder": own} if own else {}
        except DataError as error:
            mistakes.add(root.entries["data_root"], "data_root", "must be a prepared folder", str(error))
    return facts.get


def _mentions(text: str, names: set[str]) -> bool:
    return bool(names & set(re.findall(r"\w+", text)))


def _note(
    text: str,
    where: Sequence[Mapping[str, Value]],
    met: Sequence[Mapping[str, Value]],
    settings: Settings,
    root: Table,
    mistakes: Mistakes,
) -> None:
    """Turn a reason of :func:`complete_parameters` into a mistake at the key that it is about."""
    words = [word for word in re.findall(r"\w+", text) if word in settings.nodes]
    name = words[0] if words else ""
    node = settings.nodes[name] if name else root.keys.get("parameters", root)
    path = f"parameters.{name}" if name else "parameters"
    match = _APPLIES.fullmatch(text)
    if match is None:
        mistakes.add(node, path, "must go with the other parameters", text)
        return
    must = f"must stand only where it applies ({match[2]})"
    bad = {id(condition) for condition in where}
    good = [condition for condition in met if name in condition and id(condition) not in bad]
    if not good:
        mistakes.add(node, path, must, "no trial where it does", "remove it")
        return
    hint = _suggest(name, good, where, settings.legal)
    example = ", ".join(f"{key} {value}" for key, value in _telling(where[0], settings.legal))
    mistakes.add(node, path, must, f"trials where it does not ({example})", hint)


def _suggest(
    name: str,
    good: Sequence[Mapping[str, Value]],
    bad: Sequence[Mapping[str, Value]],
    settings: Sequence[Setting],
) -> str:
    """Name the ``when`` that keeps exactly the trials in which a setting applies, if one key can."""
    for setting in settings:
        right = {condition.get(setting.name) for condition in good}
        wrong = {condition.get(setting.name) for condition in bad}
        if setting.name != name and None not in right and not right & wrong:
            kept = [str(value) for value in setting.values if value in right]
            values = kept[0] if len(kept) == 1 else f"[{', '.join(kept)}]"
            return f"add when: {{{setting.name}: {values}}}"
    return "add a when: that names those trials"


def _telling(condition: Mapping[str, Value], settings: Sequence[Setting]) -> list[tuple[str, Value]]:
    """Return the choices by which a condition differs from others."""
    several = [s.name for s in settings if len(s.values) > 1 and s.name in condition]
    texts = [name for name in several if isinstance(condition[name], str)]
    return [(name, condition[name]) for name in (texts or several)[:3]]


def _check_layers(
    root: Table, values: Mapping[str, Any], trials: Sequence[Mapping[str, Value]], mistakes: Mistakes
) -> None:
    smallest = min(trials, key=weight_layer_count, default=None)
    probes = root.entries.get("probes")
    if smallest is None or not isinstance(probes, Table):
        return
    most = weight_layer_count(smallest)
    for name, options in (values.get("probes") or {}).items():
        layers = options.get("layers")
        probe = probes.entries[name]
        if isinstance(layers, list) and layers[-1] > most and isinstance(probe, Table):
            must = f"must be layers from 1 to {most}, as many as model {smallest['model']} has"
            mistakes.add(probe.entries["layers"], f"probes.{name}.layers", must, f"layer {layers[-1]}")


def _check_metric(
    root: Table,
    values: Mapping[str, Any],
    settings: Settings,
    trials: Sequence[Mapping[str, Value]],
    mistakes: Mistakes,
) -> bool:
    regression = any(trial["dataset"] == "gaussian" for trial in trials)
    metric = values.get("metric")
    metrics = metric if isinstance(metric, tuple) else (metric,) if isinstance(metric, Metric) else ()
    if regression and not settings.wrong & {"model", "dataset"}:
        for one in metrics:
            if one.name.endswith("accuracy"):
                hint = f"use {one.name.replace('accuracy', 'loss')}"
                found = f"{one.name}, and dataset gaussian"
                must = "must be a loss for a regression problem"
                mistakes.add(root.entries["metric"], "metric.name", must, found, hint)
    return regression
