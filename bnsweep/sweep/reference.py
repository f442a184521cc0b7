"""The tables of ``docs/sweep-file.md``, generated from the code so that they cannot fall behind.

``python -m bnsweep.sweep.reference docs/sweep-file.md`` writes them anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from bnsweep.names import NAMES
from bnsweep.parameters import PROBES, Parameter, ProbeOption
from bnsweep.sweep.keys import (
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
from bnsweep.sweep.settings import SETTINGS

__all__ = ["fill", "render"]

_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: str) -> str:
    """Return ``page`` with every block between ``<!-- generated: NAME -->`` and ``<!-- end -->`` anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{render(match[2])}\n{match[3]}", page)


def render(name: str) -> str:
    """Return one table as Markdown.

    Args:
        name: ``parameters``, ``probes`` or ``keys``.

    Raises:
        KeyError: If there is no such table.
    """
    return {"parameters": _parameters, "probes": _probes, "keys": _keys}[name]()


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _parameters() -> str:
    rows = []
    for name, parameter in SETTINGS.items():
        where = parameter.where or "always"
        packed = "yes" if parameter.member else ""
        legal = parameter.must().removeprefix("must be ")
        rows.append((f"`{name}`", parameter.help, legal, _default(parameter), where, packed))
    return _table(("parameter", "meaning", "legal values", "default", "where", "varies in a pack"), rows)


def _default(parameter: Parameter) -> str:
    """Return the default, and where it depends on the model, both."""
    if parameter.name == "epochs":
        return "(`steps`)"
    values = {model: parameter.default_for({"model": model}) for model in NAMES["model"]}
    if len(set(values.values())) == 1:
        return _code(values["mlp"])
    return f"{_code(values['mlp'])}; {_code(values['dln'])} for dln"


def _code(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`"


def _probes() -> str:
    rows = [
        (f"`{probe}`", f"`{name}`", option.help, _legal(option), _code(option.default))
        for probe, options in PROBES.items()
        for name, option in options.items()
    ]
    return _table(("probe", "option", "meaning", "legal values", "default"), rows)


def _legal(option: ProbeOption) -> str:
    kinds = {
        "int": "an integer >= 1",
        "layers": "all, or a list of integers >= 1",
        "numbers": "a list of numbers > 0",
    }
    return kinds.get(option.kind) or f"one of {', '.join(option.choices)}"


def _keys() -> str:
    rows = [_row(name, key) for name, key in TOP_KEYS.items()]
    inner = {
        "metric": METRIC_KEYS, "seeds": SEEDS_KEYS, "search": SEARCH_KEYS, "early_stop": EARLY_STOP_KEYS,
        "resources": RESOURCE_KEYS, "tracking": TRACKING_KEYS,
    }  # fmt: skip
    for name, text in SECTIONS.items():
        rows.append((f"`{name}`", text, "", ""))
        rows.extend(_row(f"{name}.{sub}", key) for sub, key in inner.get(name, {}).items())
    return _table(("key", "meaning", "legal values", "default"), rows)


def _row(name: str, key: Key) -> tuple[str, ...]:
    default = "" if key.default is None else str(key.default)
    if isinstance(key.default, bool | int | float) or default in key.choices or default == "results":
        default = _code(key.default)
    return f"`{name}`", key.help, key.must().removeprefix("must be "), default


def _main(path: str) -> None:
    page = Path(path)
    page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1])
