"""From a sweep file to a :class:`~bnsweep.sweep.spec.SweepSpec`, with every mistake at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import yaml

from bnsweep.sweep.agreement import check_agreement
from bnsweep.sweep.keys import SECTIONS, TOP_KEYS, unknown_keys
from bnsweep.sweep.nodes import Mistakes, Node, Scalar, Table, from_object
from bnsweep.sweep.searching import check_search
from bnsweep.sweep.sections import READERS, read_top
from bnsweep.sweep.spec import Metric, SweepSpec
from bnsweep.sweep.values import read_settings
from bnsweep.sweep.yaml_reader import parse_text, read_text

__all__ = ["load_spec", "load_text", "to_yaml"]


def load_spec(source: str | PathLike[str] | Mapping[str, Any]) -> SweepSpec:
    """Read a sweep file, or the same content as a Python dictionary, and check all of it.

    Args:
        source: A path; YAML text, recognised by its line break; or a dictionary.

    Returns:
        The spec. Nothing else has happened: no folder was made, no data read.

    Raises:
        SpecError: If anything is wrong; it carries every mistake, in file order.

    Example:
        >>> spec = load_spec({"name": "tiny", "parameters": {"lr": [0.01, 1e-1]}, "seeds": 2})
        >>> spec.setting("lr").values, spec.seeds
        ((0.01, 0.1), (0, 1))
    """
    if isinstance(source, Mapping):
        mistakes = Mistakes()
        root = from_object(source, mistakes)
        spec = _read(root, mistakes, "")
        return _with_text(spec, to_yaml(spec.to_dict()))
    if isinstance(source, str) and "\n" in source:
        return load_text(source)
    name = fspath(source)
    mistakes = Mistakes(name)
    return load_text(read_text(Path(name), mistakes), name)


def load_text(text: str, source: str = "", data_root: str | None = None) -> SweepSpec:
    """Read the text of a sweep file.

    Args:
        text: YAML.
        source: The file's name, for messages.
        data_root: Folder of the data sets in place of the file's, where that names one.

    Raises:
        SpecError: As :func:`load_spec` does.
    """
    mistakes = Mistakes(source)
    root = parse_text(text, mistakes)
    if data_root and isinstance(root, Table):
        node = root.entries.get("data_root")
        if isinstance(node, Scalar):
            node = replace(node, value=data_root, text=data_root)
            root = replace(root, entries={**root.entries, "data_root": node})
    return _read(root, mistakes, text)


def _read(root: Node, mistakes: Mistakes, text: str) -> SweepSpec:
    if not isinstance(root, Table):
        hint = "it begins with name: and parameters:"
        mistakes.stop(root, "", "must be a mapping of keys to values", hint=hint)
    unknown_keys(root, "", (*TOP_KEYS, *SECTIONS), mistakes)
    values = read_top(root, mistakes)
    for name, reader in READERS.items():
        if name in root.entries:
            value = reader(root.entries[name], mistakes)
            if value is not None:
                values[name] = value
    enumerated = values.get("method", "grid") == "grid"
    settings = read_settings(root, enumerated, mistakes)
    check_search(root, values, settings, mistakes)
    regression = check_agreement(root, values, settings, mistakes)
    mistakes.raise_if_any()
    if regression:
        values.setdefault("metric", Metric("test_loss", "minimize"))
    if isinstance(metrics := values.get("metric"), tuple):
        values |= {"metric": metrics[0], "objectives": metrics if len(metrics) > 1 else ()}
    given = frozenset(root.entries)
    fields = values | {"parameters": tuple(settings.legal), "source": mistakes.source, "text": text}
    return SweepSpec(**fields, given=given)


def _with_text(spec: SweepSpec, text: str) -> SweepSpec:
    """Return the same spec with the text that it stands for."""
    return SweepSpec(**{**vars(spec), "text": text})


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes, so that no version of YAML takes it for anything else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if re.fullmatch("[A-Za-z_][A-Za-z0-9_-]*", text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]


def to_yaml(content: Mapping[str, Any]) -> str:
    """Return the text of a sweep file with this content; :func:`load_text` reads it back.

    Example:
        >>> print(to_yaml({"name": "tiny", "seeds": [0, 1]}), end="")
        name: tiny
        seeds:
        - 0
        - 1
    """
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
