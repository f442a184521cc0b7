"""The JSON Schema of a sweep file, generated from the tables that the loader reads by.

An editor that knows it completes keys and marks mistakes while one types. It says what can be said
of each key alone; what concerns several keys together is checked when the file is loaded.
"""

from __future__ import annotations

import math
from typing import Any

from bnsweep.names import NAMES
from bnsweep.parameters import CUSTOM_NORM, PROBES, Parameter, ProbeOption
from bnsweep.sweep.keys import (
    CLAIM_KEYS,
    EARLY_STOP_KEYS,
    METRIC_KEYS,
    RESOURCE_KEYS,
    SEARCH_KEYS,
    SECTIONS,
    SEEDS_KEYS,
    TOP_KEYS,
    TRACKING_KEYS,
    Key,
)
from bnsweep.sweep.samplers import OPTUNA_SAMPLERS
from bnsweep.sweep.settings import DISTRIBUTIONS, MAX_VALUES, SETTINGS
from bnsweep.sweep.spec import MAX_SEEDS

__all__ = ["schema"]

Schema = dict[str, Any]


def schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a sweep file.

    Example:
        >>> sorted(schema()["required"])
        ['name', 'parameters']
    """
    properties: Schema = {name: _key(key) for name, key in TOP_KEYS.items()}
    properties |= {name: _sections()[name] | {"description": text} for name, text in SECTIONS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bnsweep sweep file",
        "type": "object",
        "required": ["name", "parameters"],
        "additionalProperties": False,
        "properties": properties,
        "$defs": {"when": _when(), **{name: _value(parameter) for name, parameter in SETTINGS.items()}},
    }


def _sections() -> Schema:
    seed = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    metric = _object(METRIC_KEYS, ["name"])
    claim = {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"}
    return {
        "metric": {"anyOf": [metric, {"type": "array", "items": metric, "minItems": 1}]},
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: _entry(parameter) for name, parameter in SETTINGS.items()},
            "not": {"required": ["steps", "epochs"]},
        },
        "seeds": {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_SEEDS},
                _list(seed) | {"maxItems": MAX_SEEDS},
                _object(SEEDS_KEYS, list(SEEDS_KEYS)),
            ]
        },
        "probes": {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: _probe(options) for name, options in PROBES.items()},
        },
        "claims": {
            "type": "array",
            "items": {
                "anyOf": [
                    claim,
                    {
                        "type": "object",
                        "minProperties": 1,
                        "maxProperties": 1,
                        "propertyNames": claim,
                        "additionalProperties": _object(CLAIM_KEYS, []),
                    },
                ]
            },
        },
        "search": _search(),
        "early_stop": _object(EARLY_STOP_KEYS, ["type"]),
        "resources": _object(RESOURCE_KEYS, []),
        "tracking": _object(TRACKING_KEYS, []),
        "constraints": {"type": "array", "items": {"type": "string", "minLength": 1}},
    }


def _search() -> Schema:
    options = {name: _key(key) for facts in OPTUNA_SAMPLERS.values() for name, key in facts.options.items()}
    found = _object(SEARCH_KEYS, ["num_trials"])
    found["properties"]["options"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": options,
        "description": "Options of Optuna's sampler.",
    }
    return found


def _object(keys: dict[str, Key], required: list[str]) -> Schema:
    properties = {name: _key(key) for name, key in keys.items()}
    return {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": properties,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "uniqueItems": True}


def _key(key: Key) -> Schema:
    types = {
        "text": "string",
        "number": "number",
        "integer": "integer",
        "flag": "boolean",
        "choice": "string",
    }
    found: Schema = {"type": types[key.kind], "description": key.help}
    if key.choices:
        found["enum"] = list(key.choices)
    if key.pattern:
        found["pattern"] = f"^(?:{key.pattern})$"
    elif key.kind == "text" and not key.empty:
        found["minLength"] = 1
    return found | _ends(key.low, key.high, key.open_low, open_high=False)


def _ends(low: float, high: float, open_low: bool, open_high: bool) -> Schema:
    ends: Schema = {}
    if low > -math.inf:
        ends["exclusiveMinimum" if open_low else "minimum"] = low
    if high < math.inf:
        ends["exclusiveMaximum" if open_high else "maximum"] = high
    return ends


def _value(parameter: Parameter) -> Schema:
    """Return the schema of one value of a parameter."""
    text = parameter.help + (f" Only where {parameter.where}." if parameter.where else "")
    if parameter.kind == "bool":
        return {"type": "boolean", "description": text}
    if parameter.kind == "choice":
        names: Schema = {"enum": list(NAMES[parameter.name])}
        if parameter.name == "norm":
            names = {"anyOf": [names, {"type": "string", "pattern": f"^(?:{CUSTOM_NORM.pattern})$"}]}
        return names | {"description": text}
    ends = _ends(parameter.low, parameter.high, parameter.open_low, parameter.open_high)
    if parameter.kind == "size":
        return {"anyOf": [{"type": "integer"} | ends, {"const": "full"}], "description": text}
    return {"type": "number" if parameter.kind == "float" else "integer"} | ends | {"description": text}


def _entry(parameter: Parameter) -> Schema:
    """Return the schema of what may stand beside a parameter's name."""
    value = {"$ref": f"#/$defs/{parameter.name}"}
    ways: list[Schema] = [
        value,
        _list(value),
        _long({"value": value}, ["value"]),
        _long({"values": _list(value)}, ["values"]),
    ]
    if parameter.kind not in ("bool", "choice"):
        names = [name for name in DISTRIBUTIONS if parameter.kind == "float" or name != "uniform"]
        ends = {"min": {"type": "number"}, "max": {"type": "number"}}
        num = {"type": "integer", "minimum": 2, "maximum": MAX_VALUES}
        ways.append(_long({**ends, "num": num, "distribution": {"enum": names}}, ["min", "max"]))
    return {"anyOf": ways}


def _long(properties: Schema, required: list[str]) -> Schema:
    return {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": {**properties, "when": {"$ref": "#/$defs/when"}},
    }


def _when() -> Schema:
    values = {name: {"$ref": f"#/$defs/{name}"} for name in SETTINGS}
    return {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {name: {"anyOf": [value, _list(value)]} for name, value in values.items()},
        "description": "In which trials the parameter stands: a value or a list for each key.",
    }


def _probe(options: dict[str, ProbeOption]) -> Schema:
    kinds: dict[str, Schema] = {
        "int": {"type": "integer", "minimum": 1, "maximum": 10_000_000},
        "layers": {"anyOf": [{"const": "all"}, _list({"type": "integer", "minimum": 1})]},
        "numbers": _list({"type": "number", "exclusiveMinimum": 0, "maximum": 1e6}),
    }
    properties = {
        name: (kinds.get(option.kind) or {"enum": list(option.choices)}) | {"description": option.help}
        for name, option in options.items()
    }
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}
