"""Reading ``parameters``: from what a user wrote to the canonical values of each setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bnsweep.names import NAMES
from bnsweep.parameters import Parameter, Value
from bnsweep.sweep.keys import unknown_keys
from bnsweep.sweep.nodes import Items, Mistakes, Node, Scalar, Table, describe, nearest, number_hint
from bnsweep.sweep.settings import DISTRIBUTIONS, MAX_VALUES, SETTINGS, Range, Setting

__all__ = ["LONG_KEYS", "Settings", "read_settings"]

LONG_KEYS = ("value", "values", "min", "max", "num", "distribution", "when")
"""Keys of a parameter's long form."""

_SYNONYMS = {
    "learning_rate": "lr", "epoch": "epochs", "bs": "batch_size", "normalization": "norm", "data": "dataset",
    "wd": "weight_decay", "network": "model", "noise_level": "noise", "arch": "model", "betas": "beta1",
}  # fmt: skip
_OTHER_DISTRIBUTIONS = {
    "constant": "write the value itself",
    "categorical": "list the values",
    "log_uniform": "its ends are exponents; log_uniform_values takes the values themselves",
    "inv_log_uniform_values": "use log_uniform_values",
    "normal": "it has no ends, so it cannot be enumerated",
    "log_normal": "it has no ends, so it cannot be enumerated",
}


@dataclass
class Settings:
    """What ``parameters`` held.

    Attributes:
        legal: Settings without a mistake, in file order.
        wrong: Names that stand there but could not be read; checks that depend on them are left out.
        nodes: Where each name stands.
    """

    legal: list[Setting] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    nodes: dict[str, Node] = field(default_factory=dict)


def read_settings(root: Table, enumerated: bool, mistakes: Mistakes) -> Settings:
    """Read every entry under ``parameters``.

    Args:
        root: The file.
        enumerated: Whether the method enumerates, so that a range needs ``num``.
        mistakes: Receives what is wrong.
    """
    found = Settings()
    node = root.entries.get("parameters")
    if not isinstance(node, Table):
        must = "must be given" if node is None else "must be a mapping of parameters to values"
        found_text = "nothing" if node is None else ""
        mistakes.add(
            node or root, "parameters", must, found_text, "for example parameters: {lr: [0.01, 0.1]}"
        )
        found.wrong.update(SETTINGS)
        return found
    for name, entry in node.entries.items():
        if name not in SETTINGS:
            found.wrong.update(_unknown(name, node.keys[name], mistakes))
            continue
        found.nodes[name] = node.keys[name]
        setting = _Reader(SETTINGS[name], node, enumerated, mistakes).read(entry)
        if setting is None:
            found.wrong.add(name)
        else:
            found.legal.append(setting)
    if "steps" in node.entries and "epochs" in node.entries:
        later = max((node.keys[name] for name in ("steps", "epochs")), key=lambda key: key.order)
        hint = "remove one of the two"
        mistakes.add(later, f"parameters.{later.text}", "must stand alone", "both steps and epochs", hint)
        found.legal = [setting for setting in found.legal if setting.name != later.text]
        found.wrong.add(later.text)
    _check_when(found, mistakes)
    return found


def _unknown(name: str, key: Scalar, mistakes: Mistakes) -> set[str]:
    """Note an unknown name; return the names it may have been meant for."""
    path = f"parameters.{name[:64]}"
    if name == "seed":
        mistakes.add(key, path, "must not be a parameter", "seed", "use seeds: at the top level")
        return set()
    meant = _SYNONYMS.get(name.lower(), "")
    hint = f"did you mean {meant}?" if meant else nearest(name, SETTINGS)
    mistakes.add(key, path, "must be a parameter", "an unknown name", hint or "docs/sweep-file.md lists them")
    return {hint.removeprefix("did you mean ").rstrip("?")} if hint else set()


def _check_when(found: Settings, mistakes: Mistakes) -> None:
    """Refuse cycles, and conditions that no value in the file can meet."""
    by_name = {setting.name: setting for setting in found.legal}
    for setting in found.legal:
        node, path = found.nodes[setting.name], f"parameters.{setting.name}.when"
        cycle = _cycle(setting.name, by_name)
        if cycle:
            mistakes.add(node, path, "must not lead back to itself", " -> ".join(cycle))
        for name, wanted in setting.when.items():
            target = by_name.get(name)
            if target and target.continuous:
                hint = f"list the values of {name}"
                mistakes.add(
                    node, f"{path}.{name}", "must name a parameter with listed values", "a range", hint
                )
            elif target and not set(wanted) & set(target.values):
                has = ", ".join(str(value) for value in target.values[:8])
                found_text = f"{', '.join(map(str, wanted[:8]))}, where {name} takes {has}"
                mistakes.add(node, f"{path}.{name}", "must hold for some trial", found_text[:200])
    cyclic = {setting.name for setting in found.legal if _cycle(setting.name, by_name)}
    found.legal = [setting for setting in found.legal if setting.name not in cyclic]
    found.wrong |= cyclic


def _cycle(start: str, settings: Mapping[str, Setting]) -> list[str]:
    """Return the way from ``start`` back to itself along ``when``, or nothing."""
    stack: list[list[str]] = [[start]]
    seen: set[str] = set()
    while stack:
        way = stack.pop()
        setting = settings.get(way[-1])
        for name in setting.when if setting else ():
            if name == start:
                return [*way, name]
            if name not in seen:
                seen.add(name)
                stack.append([*way, name])
    return []


class _Reader:
    """Reads one entry."""

    def __init__(self, parameter: Parameter, table: Table, enumerated: bool, mistakes: Mistakes) -> None:
        self.parameter = parameter
        self.path = f"parameters.{parameter.name}"
        self.table = table
        self.enumerated = enumerated
        self.mistakes = mistakes

    def read(self, node: Node) -> Setting | None:
        """Return the setting, or ``None`` after noting what is wrong."""
        before = len(self.mistakes)
        when: dict[str, tuple[Value, ...]] = {}
        range_: Range | None = None
        values: tuple[Value, ...] = ()
        if isinstance(node, Table):
            unknown_keys(node, self.path, LONG_KEYS, self.mistakes)
            if "when" in node.entries:
                when = self._when(node.entries["when"])
            if set(node.entries) <= set(LONG_KEYS):
                values, range_ = self._long(node)
        elif isinstance(node, Items):
            values = self._list(node, self.path, self.parameter)
        else:
            values = self._values([node], [self.path], self.parameter)
        broken = isinstance(node, Scalar) and node.broken
        if len(self.mistakes) > before or broken or not (values or range_):
            return None
        return Setting(self.parameter.name, values, when, range_, self.table.keys[self.parameter.name].line)

    def _long(self, node: Table) -> tuple[tuple[Value, ...], Range | None]:
        """Read ``{value}``, ``{values}`` or a range: exactly one of them."""
        ways = [name for name in ("value", "values") if name in node.entries]
        ends = [name for name in ("min", "max", "num", "distribution") if name in node.entries]
        if len(ways) + bool(ends) != 1:
            must = "must have exactly one of value, values, or min and max"
            self.mistakes.add(node, self.path, must, ", ".join([*ways, *ends]) or "none of them")
            return (), None
        if ends:
            return self._range(node)
        entry, path = node.entries[ways[0]], f"{self.path}.{ways[0]}"
        if ways == ["value"]:
            return self._values([entry], [path], self.parameter), None
        if isinstance(entry, Items):
            return self._list(entry, path, self.parameter), None
        self.mistakes.add(entry, path, "must be a list of values", hint="for a single value write value:")
        return (), None

    def _list(self, node: Items, path: str, parameter: Parameter) -> tuple[Value, ...]:
        if not node.items:
            self.mistakes.add(node, path, "must hold at least one value")
        return self._values(node.items, [f"{path}[{i}]" for i in range(len(node.items))], parameter)

    def _values(self, nodes: Iterable[Node], paths: Iterable[str], parameter: Parameter) -> tuple[Value, ...]:
        """Return canonical values; one that is wrong, or there already, is noted and left out."""
        values: dict[Value, str] = {}
        for node, path in zip(nodes, paths, strict=True):
            value = _canonical(node, path, parameter, self.mistakes)
            if value is None:
                continue
            if value in values:
                twice = f"{describe(node)}, the same as {values[value]}"
                self.mistakes.add(node, path, "must be a value that is not there yet", twice)
            values.setdefault(value, describe(node))
        return tuple(values)

    def _when(self, node: Node) -> dict[str, tuple[Value, ...]]:
        path = f"{self.path}.when"
        if not isinstance(node, Table) or not node.entries:
            must = "must be a mapping of parameters to a value or a list"
            self.mistakes.add(node, path, must, hint="for example when: {norm: noisy_batch}")
            return {}
        when = {}
        for name, entry in node.entries.items():
            where, key = f"{path}.{name[:64]}", node.keys[name]
            if name not in SETTINGS:
                hint = nearest(name, self.table.entries)
                self.mistakes.add(key, where, "must name a parameter", "an unknown name", hint)
            elif name not in self.table.entries:
                missing = f"{name}, which has its default"
                self.mistakes.add(
                    key, where, "must name a parameter of this file", missing, "list its values"
                )
            elif isinstance(entry, Items):
                when[name] = self._list(entry, where, SETTINGS[name])
            else:
                when[name] = self._values([entry], [where], SETTINGS[name])
        return when

    def _range(self, node: Table) -> tuple[tuple[Value, ...], Range | None]:
        parameter = self.parameter
        if parameter.kind in ("bool", "choice"):
            self.mistakes.add(node, self.path, parameter.must(), "a range", "list the values")
            return (), None
        low, high = self._end(node, "min"), self._end(node, "max")
        distribution = self._distribution(node)
        num = self._num(node)
        if low is None or high is None or not distribution or num == 0:
            return (), None
        if low >= high:
            span = f"{low:g} and {high:g}"
            self.mistakes.add(node, self.path, "must have min < max", span, self._single(low))
            return (), None
        if distribution == "log_uniform_values" and low <= 0:
            self.mistakes.add(node.entries["min"], f"{self.path}.min", "must be > 0 for a logarithmic range")
            return (), None
        range_ = Range(low, high, num, distribution)
        whole = parameter.kind != "float" or distribution == "int_uniform"
        points = tuple(parameter.canonical(point) for point in range_.points(whole=whole))
        if len(set(points)) < len(points):
            found = f"{len(points)} points of which {len(set(points))} differ"
            rounding = "whole numbers" if whole else "6 significant digits"
            hint = f"points are rounded to {rounding}: lower num"
            self.mistakes.add(node, f"{self.path}.num", "must give points that differ", found, hint)
            return (), None
        return points, range_

    def _single(self, value: object) -> str:
        return f"for a single value write {self.parameter.name}: {value}"

    def _end(self, node: Table, name: str) -> int | float | None:
        path = f"{self.path}.{name}"
        entry = node.entries.get(name)
        if entry is None:
            self.mistakes.add(node, path, "must be given for a range")
            return None
        if isinstance(entry, Scalar) and isinstance(entry.value, str):
            self.mistakes.add(entry, path, "must be a number", hint=number_hint(entry))
            return None
        value = _canonical(entry, path, self.parameter, self.mistakes)
        return value if isinstance(value, int | float) else None

    def _num(self, node: Table) -> int | None:
        """Return the number of points; 0 after noting why it is not legal."""
        path = f"{self.path}.num"
        entry = node.entries.get("num")
        if entry is None:
            if not self.enumerated:
                return None
            hint = "num: 6 gives six points, both ends included"
            self.mistakes.add(node, path, "must be given where a grid is enumerated", hint=hint)
            return 0
        value = entry.value if isinstance(entry, Scalar) else None
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
        if whole and 2 <= value <= MAX_VALUES:  # type: ignore[operator]
            return int(value)  # type: ignore[call-overload, no-any-return]
        low = node.entries.get("min")
        hint = number_hint(entry) or (self._single(describe(low)) if low and value == 1 else "")
        self.mistakes.add(entry, path, f"must be an integer from 2 to {MAX_VALUES:,}", hint=hint)
        return 0

    def _distribution(self, node: Table) -> str:
        entry = node.entries.get("distribution")
        whole = self.parameter.kind != "float"
        if entry is None:
            return "int_uniform" if whole else "uniform"
        text = entry.text if isinstance(entry, Scalar) else ""
        path = f"{self.path}.distribution"
        if text not in DISTRIBUTIONS:
            hint = _OTHER_DISTRIBUTIONS.get(text) or nearest(text, DISTRIBUTIONS)
            if text.startswith("q_"):
                hint = "list the values, or give num: for evenly spaced points"
            self.mistakes.add(entry, path, f"must be one of {', '.join(DISTRIBUTIONS)}", hint=hint)
            return ""
        if whole and text == "uniform":
            hint = f"{self.parameter.name} takes integers"
            self.mistakes.add(entry, path, "must be int_uniform or log_uniform_values", hint=hint)
            return ""
        return text


def _canonical(node: Node, path: str, parameter: Parameter, mistakes: Mistakes) -> Value | None:
    """Return a value's canonical form, or ``None`` after noting why it is not legal."""
    if isinstance(node, Scalar):
        if not node.broken:
            try:
                return parameter.canonical(node.value)
            except ValueError:
                pass
    hint = number_hint(node)
    if parameter.kind == "choice" and isinstance(node, Scalar):
        hint = nearest(node.text, NAMES[parameter.name]) if node.text else ""
    mistakes.add(node, path, parameter.must(), hint=hint)
    return None
