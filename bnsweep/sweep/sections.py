"""Reading the sections of a sweep file other than ``parameters``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bnsweep.errors import LedgerError
from bnsweep.parameters import PROBES, ProbeOption
from bnsweep.sweep.keys import (
    CLAIM_KEYS,
    EARLY_STOP_KEYS,
    METRIC_KEYS,
    RESOURCE_KEYS,
    SEARCH_KEYS,
    SEEDS_KEYS,
    TOP_KEYS,
    TRACKING_KEYS,
    read_keys,
    unknown_keys,
)
from bnsweep.sweep.nodes import (
    Items,
    Mistakes,
    Node,
    Scalar,
    Table,
    describe,
    nearest,
    number_hint,
    to_object,
)
from bnsweep.sweep.places import place
from bnsweep.sweep.spec import (
    CONSTRAINED,
    GOALS,
    MAX_SEEDS,
    Claim,
    Constraint,
    Metric,
    Resources,
    SeedSchedule,
)

__all__ = ["READERS", "read_top"]

MAX_LIST = 1000
"""Most layers or step sizes of a probe."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def read_top(root: Table, mistakes: Mistakes) -> dict[str, Any]:
    """Return the legal single-valued keys of the top level; ``name`` must be there."""
    values = {}
    for name, key in TOP_KEYS.items():
        node = root.entries.get(name)
        if node is not None:
            value = key.read(node, name, mistakes)
            if value is not None:
                values[name] = value
        elif name == "name":
            mistakes.add(root, name, "must be given", hint="for example name: quickstart")
    for name in ("storage", "data_root"):
        text = values.get(name, "")
        if name == "storage" and text.startswith("s3:"):
            try:
                place(text)
            except LedgerError:
                must = "must be a folder or s3://bucket/prefix"
                found = re.sub(r"//[^/]*@", "//***@", text[:80])
                mistakes.add(root.entries[name], name, must, found, "without empty parts, . or ..")
        elif _SCHEME.match(text):
            mistakes.add(root.entries[name], name, "must be a folder")
    return values


def read_metric(node: Node, mistakes: Mistakes) -> Metric | tuple[Metric, ...] | None:
    """Read ``metric``: a mapping, or a list of them."""
    if isinstance(node, Items):
        if not node.items:
            mistakes.add(node, "metric", "must hold at least one metric")
        metrics = [_metric(item, f"metric[{i}]", mistakes) for i, item in enumerate(node.items)]
        known: dict[str, Metric] = {}
        for i, metric in enumerate(metrics):
            if metric and metric.name in known:
                mistakes.add(node.items[i], f"metric[{i}]", "must be a metric that is not there yet")
            elif metric:
                known[metric.name] = metric
        return tuple(known.values()) if len(known) != 1 else next(iter(known.values()))
    return _metric(node, "metric", mistakes)


def _metric(node: Node, path: str, mistakes: Mistakes) -> Metric | None:
    if isinstance(node, Scalar):
        hint = f"write {path}: {{name: {node.text[:40]}}}" if node.value in GOALS else ""
        mistakes.add(node, path, "must be a mapping with the keys name, goal", hint=hint)
        return None
    values = read_keys(node, path, METRIC_KEYS, mistakes)
    if isinstance(node, Table) and "name" not in node.entries:
        mistakes.add(node, f"{path}.name", "must be given", hint=f"one of {', '.join(GOALS)}")
    if "name" not in values:
        return None
    best = GOALS[values["name"]]
    if isinstance(node, Table) and values.get("goal", best) != best:
        mistakes.add(node.entries["goal"], f"{path}.goal", f"must be {best} for {values['name']}")
        return None
    return Metric(values["name"], best)


def read_seeds(node: Node, mistakes: Mistakes) -> tuple[int, ...] | SeedSchedule | None:
    """Read ``seeds``: how many, a list of them, or a schedule."""
    if isinstance(node, Table):
        return _schedule(node, mistakes)
    if isinstance(node, Items):
        return _whole_numbers(node, "seeds", 0, 2**31 - 1, MAX_SEEDS, mistakes)
    count = _whole(node, 1, MAX_SEEDS)
    if count is None:
        must = f"must be an integer from 1 to {MAX_SEEDS:,}, a list of seeds, or {{start, step, max}}"
        mistakes.add(node, "seeds", must, hint=number_hint(node))
        return None
    return tuple(range(count))


def _schedule(node: Table, mistakes: Mistakes) -> SeedSchedule | None:
    values = read_keys(node, "seeds", SEEDS_KEYS, mistakes)
    for name in SEEDS_KEYS:
        if name not in node.entries:
            hint = "for example seeds: {start: 5, step: 5, max: 30}"
            mistakes.add(node, f"seeds.{name}", "must be given", hint=hint)
    if len(values) < len(SEEDS_KEYS):
        return None
    if values["max"] <= values["start"]:
        found = f"{values['max']}, start {values['start']}"
        mistakes.add(node.entries["max"], "seeds.max", "must be > start", found, "or write seeds: a number")
        return None
    return SeedSchedule(**values)


def _whole(node: Node, low: int, high: int) -> int | None:
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value) or value != int(value) or not low <= value <= high:
        return None
    return int(value)


def _whole_numbers(
    node: Items, path: str, low: int, high: int, most: int, mistakes: Mistakes
) -> tuple[int, ...] | None:
    """Return a list of distinct integers, or ``None`` after noting what is wrong."""
    before = len(mistakes)
    if not 1 <= len(node.items) <= most:
        mistakes.add(node, path, f"must hold 1 to {most:,} integers")
    numbers: list[int] = []
    seen: set[int] = set()
    for i, item in enumerate(node.items):
        number = _whole(item, low, high)
        if number is None:
            must = f"must be an integer from {low} to {high}"
            mistakes.add(item, f"{path}[{i}]", must, hint=number_hint(item))
        elif number in seen:
            mistakes.add(item, f"{path}[{i}]", "must be a number that is not there yet")
        else:
            numbers.append(number)
            seen.add(number)
    return tuple(numbers) if len(mistakes) == before else None


def read_probes(node: Node, mistakes: Mistakes) -> dict[str, dict[str, Any]] | None:
    """Read ``probes``; a probe with nothing beside it has its defaults."""
    if not isinstance(node, Table):
        mistakes.add(node, "probes", f"must be a mapping of probes: {', '.join(PROBES)}")
        return None
    unknown_keys(node, "probes", tuple(PROBES), mistakes)
    probes = {}
    for name, entry in node.entries.items():
        if name in PROBES:
            probes[name] = _probe(entry, name, mistakes)
    return probes


def _probe(node: Node, name: str, mistakes: Mistakes) -> dict[str, Any]:
    path, options = f"probes.{name}", PROBES[name]
    if isinstance(node, Scalar) and node.value is None and not node.broken:
        return {}
    if not isinstance(node, Table):
        must = f"must be a mapping with the keys {', '.join(options)}"
        mistakes.add(node, path, must, hint=f"for example {name}: {{every: 50}}")
        return {}
    unknown_keys(node, path, tuple(options), mistakes)
    values = {
        key: _OPTIONS[option.kind](node.entries[key], f"{path}.{key}", option, mistakes)
        for key, option in options.items()
        if key in node.entries
    }
    return {key: value for key, value in values.items() if value is not None}


def _every(node: Node, path: str, _: ProbeOption, mistakes: Mistakes) -> int | None:
    value = _whole(node, 1, 10_000_000)
    if value is None:
        mistakes.add(node, path, "must be an integer from 1 to 10000000", hint=number_hint(node))
    return value


def _layers(node: Node, path: str, _: ProbeOption, mistakes: Mistakes) -> str | list[int] | None:
    if isinstance(node, Items):
        layers = _whole_numbers(node, path, 1, MAX_LIST + 1, MAX_LIST, mistakes)
        return sorted(layers) if layers is not None else None
    if isinstance(node, Scalar) and node.value == "all":
        return "all"
    mistakes.add(node, path, "must be all, or a list of layers counted from 1")
    return None


def _numbers(node: Node, path: str, _: ProbeOption, mistakes: Mistakes) -> list[float] | None:
    before = len(mistakes)
    items = node.items if isinstance(node, Items) else ()
    if not 1 <= len(items) <= MAX_LIST:
        mistakes.add(node, path, f"must be a list of 1 to {MAX_LIST} numbers > 0")
        return None
    numbers: set[float] = set()
    for i, item in enumerate(items):
        value = item.value if isinstance(item, Scalar) else None
        legal = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e6
        if not legal:
            mistakes.add(item, f"{path}[{i}]", "must be a number > 0 and <= 1e6", hint=number_hint(item))
        elif value in numbers:
            mistakes.add(item, f"{path}[{i}]", "must be a number that is not there yet")
        else:
            numbers.add(float(value))  # type: ignore[arg-type]
    return sorted(numbers) if len(mistakes) == before else None


def _choice(node: Node, path: str, option: ProbeOption, mistakes: Mistakes) -> str | None:
    text = node.value if isinstance(node, Scalar) else None
    if isinstance(text, str) and text in option.choices:
        return text
    hint = nearest(text, option.choices) if isinstance(text, str) else ""
    mistakes.add(node, path, f"must be one of {', '.join(option.choices)}", hint=hint)
    return None


_OPTIONS: Mapping[str, Callable[[Node, str, ProbeOption, Mistakes], Any]] = {
    "int": _every,
    "layers": _layers,
    "numbers": _numbers,
    "choice": _choice,
}


def read_claims(node: Node, mistakes: Mistakes) -> tuple[Claim, ...] | None:
    """Read ``claims``: names, or a name with its thresholds."""
    if not isinstance(node, Items):
        mistakes.add(node, "claims", "must be a list of claims")
        return None
    claims: dict[str, Claim] = {}
    for i, item in enumerate(node.items):
        path = f"claims[{i}]"
        name, limits = _claim(item, path, mistakes)
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            mistakes.add(item, path, "must be the name of a claim, or {name: {min_effect, alpha}}")
        elif name in claims:
            mistakes.add(item, path, "must be a claim that is not there yet", name)
        else:
            claims[name] = Claim(name, limits.get("min_effect"), limits.get("alpha"), item.line)
    return tuple(claims.values())


def _claim(node: Node, path: str, mistakes: Mistakes) -> tuple[str, dict[str, float]]:
    if isinstance(node, Scalar):
        return (node.value if isinstance(node.value, str) else ""), {}
    if isinstance(node, Table) and len(node.entries) == 1:
        [(name, limits)] = node.entries.items()
        return name, read_keys(limits, f"{path}.{name[:64]}", CLAIM_KEYS, mistakes)
    return "", {}


def read_search(node: Node, mistakes: Mistakes) -> dict[str, Any]:
    """Read ``search``."""
    values = read_keys(node, "search", SEARCH_KEYS, mistakes, ("options",))
    options = node.entries.get("options") if isinstance(node, Table) else None
    if isinstance(options, Table):
        values["options"] = to_object(options)
    elif options is not None:
        mistakes.add(options, "search.options", "must be a mapping of the sampler's options")
    for name in ("storage", "warm_start"):
        if isinstance(node, Table) and _has_password(values.get(name, "")):
            hint = "libpq takes it from PGPASSWORD or ~/.pgpass, and it is stored nowhere"
            must = "must be without a password"
            mistakes.add(node.entries[name], f"search.{name}", must, "one", hint)
    if isinstance(node, Table) and "num_trials" not in node.entries:
        mistakes.add(node, "search.num_trials", "must be given", hint="the number of conditions to try")
    return values


def _has_password(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:
        return False


def read_early_stop(node: Node, mistakes: Mistakes) -> dict[str, Any]:
    """Read ``early_stop``."""
    values = read_keys(node, "early_stop", EARLY_STOP_KEYS, mistakes)
    if isinstance(node, Table) and "type" not in node.entries:
        mistakes.add(node, "early_stop.type", "must be given", hint="asha or median")
    return values


def read_resources(node: Node, mistakes: Mistakes) -> Resources | None:
    """Read ``resources``; whether a machine has that much is known when the sweep runs."""
    values = read_keys(node, "resources", RESOURCE_KEYS, mistakes)
    if not isinstance(node, Table):
        return None
    for name in ("cpus", "gpus"):
        value = values.get(name, 0)
        if value > 1 and value != int(value):
            must = "must be a whole number where it is above 1"
            mistakes.add(node.entries[name], f"resources.{name}", must)
    if values.get("device") == "cuda":
        values.setdefault("gpus", 1)
    clash = {("cuda", True): "must be > 0 for device cuda", ("cpu", False): "must be 0 for device cpu"}
    must = clash.get((values.get("device", "auto"), not values.get("gpus", 0)), "")
    if must:
        mistakes.add(node.entries["gpus"], "resources.gpus", must)
    return Resources(**values)


def read_tracking(node: Node, mistakes: Mistakes) -> str | None:
    """Read ``tracking`` and return its URI."""
    if isinstance(node, Scalar) and node.text == "none":
        mistakes.add(
            node, "tracking", "must be a mapping with the key uri", hint="write tracking: {uri: none}"
        )
        return None
    uri = read_keys(node, "tracking", TRACKING_KEYS, mistakes).get("uri")
    if isinstance(node, Table) and isinstance(uri, str):
        _check_uri(uri, node.entries["uri"], mistakes)
    return uri


def _check_uri(uri: str, entry: Node, mistakes: Mistakes) -> None:
    """Refuse a password: the file is stored with the results and shown in MLflow."""
    server = uri.startswith("http")
    try:
        parts = urlsplit(uri)
        password = bool(
            parts.password or re.search("password|passwd|token|secret", parts.query, re.IGNORECASE)
        )
        user, whole = bool(parts.username), bool(parts.hostname and (parts.port or True))
    except ValueError:
        password, user, whole = False, False, False
    if password or (server and user):
        hint = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        if not server:
            hint = "leave it out, and set PGPASSWORD, or MLFLOW_TRACKING_URI to the same URI with it"
        found = "a password" if password else "a user name"
        mistakes.add(entry, "tracking.uri", "must be without credentials", found, hint)
    elif server and not whole:
        mistakes.add(entry, "tracking.uri", TRACKING_KEYS["uri"].must())


def read_constraints(node: Node, mistakes: Mistakes) -> tuple[str, ...] | None:
    """Read ``constraints``: a list of text."""
    if not isinstance(node, Items):
        hint = 'for example constraints: ["diverged_fraction <= 0.2"]'
        mistakes.add(node, "constraints", "must be a list of constraints", hint=hint)
        return None
    texts = []
    for i, item in enumerate(node.items):
        if isinstance(item, Scalar) and isinstance(item.value, str) and Constraint.parse(item.value):
            texts.append(item.value)
        else:
            must = f"must be NAME <= NUMBER or NAME >= NUMBER, where NAME is one of {', '.join(CONSTRAINED)}"
            mistakes.add(item, f"constraints[{i}]", must, describe(item))
    return tuple(texts)


READERS: dict[str, Callable[[Node, Mistakes], Any]] = {
    "metric": read_metric,
    "seeds": read_seeds,
    "probes": read_probes,
    "claims": read_claims,
    "search": read_search,
    "early_stop": read_early_stop,
    "resources": read_resources,
    "tracking": read_tracking,
    "constraints": read_constraints,
}
"""How each section is read; ``parameters`` needs more and is read in ``values.py``."""
