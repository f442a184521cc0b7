"""A sweep file as a tree of nodes that know their line, and the list of what is wrong with it.

YAML text and Python dictionaries both become such a tree, so that one set of checks serves both.
Scalars are read as YAML 1.2 reads them: ``1e-3`` is a number; ``no``, ``1:30`` and ``010``, which
older YAML turns into false, 90 and 8, stay text and are refused wherever a number is needed.
"""

from __future__ import annotations

import difflib
import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from bnsweep.errors import Mistake, SpecError

__all__ = [
    "MAX_DEPTH",
    "MAX_NODES",
    "Items",
    "Mistakes",
    "Node",
    "Scalar",
    "Table",
    "describe",
    "from_object",
    "nearest",
    "number_hint",
    "plain_value",
    "to_object",
]

MAX_DEPTH = 32
"""Deepest nesting of a sweep file."""

MAX_NODES = 20_000
"""Most values and keys of a sweep file."""

MAX_MISTAKES = 100
"""Most mistakes that are listed; the rest are counted."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_OLD_BOOL = frozenset({"yes", "no", "on", "off", "y", "n"})
_LONGEST_INTEGER = 300


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value.

    Attributes:
        value: The value: ``None``, a bool, an int, a float (perhaps not finite) or text.
        text: As it was written.
        plain: Whether it was written without quotes.
        broken: Whether a mistake was noted here already, so that no check need speak again.
        line: 1-based line, or ``None`` where there is no file.
        order: Position in the document, by which mistakes are sorted.
    """

    value: object
    text: str
    plain: bool = True
    broken: bool = False
    line: int | None = None
    order: int = 0


@dataclass(frozen=True, slots=True)
class Items:
    """A list of nodes."""

    items: tuple[Node, ...]
    line: int | None = None
    order: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping: nodes by key, in file order, and the node of each key."""

    entries: Mapping[str, Node]
    keys: Mapping[str, Scalar]
    line: int | None = None
    order: int = 0


Node = Scalar | Items | Table


@dataclass
class Mistakes:
    """Everything that is wrong with one sweep file, collected in any order.

    Attributes:
        source: The file's name as the user gave it.
    """

    source: str = ""
    _found: list[tuple[int, Mistake]] = field(default_factory=list)

    def __len__(self) -> int:
        """Return how many were noted."""
        return len(self._found)

    def add(self, node: Node | None, path: str, must: str, found: str = "", hint: str = "") -> None:
        """Note one mistake; a node that is broken already is passed over.

        Args:
            node: Where it stands; ``None`` for the file as a whole.
            path: Key path, such as ``parameters.lr``.
            must: What must hold, as in *must be a number > 0*.
            found: What stands there; by default the node itself in short.
            hint: What to do.
        """
        if isinstance(node, Scalar) and node.broken:
            return
        line, order = (node.line, node.order) if node is not None else (None, -1)
        found = found or (describe(node) if node is not None else "nothing")
        self._found.append((order, Mistake(path, must, found, hint, line)))

    def stop(self, node: Node | None, path: str, must: str, found: str = "", hint: str = "") -> NoReturn:
        """Note one mistake past which nothing can be read, and raise all.

        Raises:
            SpecError: Always.
        """
        self.add(node, path, must, found, hint)
        raise SpecError(self.in_order(), self.source)

    def in_order(self) -> tuple[Mistake, ...]:
        """Return every mistake in file order, each once; a long list ends in a count."""
        ordered = [mistake for _, mistake in sorted(self._found, key=lambda pair: pair[0])]
        unique = list(dict.fromkeys(ordered))
        if len(unique) <= MAX_MISTAKES:
            return tuple(unique)
        rest = f"{len(unique) - MAX_MISTAKES} more mistakes"
        return (*unique[:MAX_MISTAKES], Mistake("", "must have no mistakes", rest))

    def raise_if_any(self) -> None:
        """Raise every mistake at once.

        Raises:
            SpecError: If there is any.
        """
        if self._found:
            raise SpecError(self.in_order(), self.source)


def plain_value(text: str) -> object:
    """Return what unquoted ``text`` means in YAML 1.2; anything doubtful stays text.

    Example:
        >>> [plain_value(text) for text in ("1e-3", "12", "true", "~")]
        [0.001, 12, True, None]
        >>> [plain_value(text) for text in ("no", "1:30", "010", "0x1F", "1_000")]
        ['no', '1:30', '010', '0x1F', '1_000']
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= _LONGEST_INTEGER else math.inf
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def number_hint(node: Node) -> str:
    """Say what to do about a scalar that stands where a number or true/false is needed."""
    if not isinstance(node, Scalar):
        return ""
    text = node.text.strip()
    if isinstance(node.value, float) and not math.isfinite(node.value):
        return "a finite number is needed"
    if not isinstance(node.value, str):
        return ""
    if not isinstance(plain_value(text), str) and text:
        return "remove the quotes"
    if text.lower() in _OLD_BOOL:
        meaning = "true" if text.lower() in ("yes", "on", "y") else "false"
        return f"older YAML reads {text} as {meaning}: write what is meant"
    if re.fullmatch(r"[-+]?[0-9]+(:[0-9]+)+", text):
        return f"older YAML reads {text} in base 60: write the number itself"
    if re.fullmatch(r"[-+]?0[0-9]+(\.[0-9]*)?", text):
        return f"a leading 0 means octal to some: write {text.lstrip('+-').lstrip('0') or '0'}"
    if re.fullmatch(r"[-+]?0[xob][0-9a-fA-F]+", text):
        return "write the number in decimal digits"
    if re.fullmatch(r"[-+]?[0-9][0-9_,]*(\.[0-9_]*)?", text):
        return "write the digits without separators"
    return ""


def describe(node: Node) -> str:
    """Return a node in a few characters, for a message.

    Example:
        >>> describe(Scalar("a" * 100, "a" * 100))
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...'"
    """
    if isinstance(node, Items):
        return f"a list of {len(node.items)}" if node.items else "an empty list"
    if isinstance(node, Table):
        return f"a mapping of {len(node.entries)} keys" if node.entries else "an empty mapping"
    if node.value is None:
        return "nothing" if not node.text else node.text
    short = node.text if len(node.text) <= 42 else node.text[:39] + "..."
    return repr(short) if isinstance(node.value, str) else short


def nearest(word: str, names: Iterable[str]) -> str:
    """Return *did you mean ...?* for the legal name nearest to ``word``, or nothing.

    Example:
        >>> nearest("nosy_batch", ["batch", "noisy_batch"])
        'did you mean noisy_batch?'
    """
    close = difflib.get_close_matches(word[:64].lower(), list(names), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def from_object(content: object, mistakes: Mistakes) -> Node:
    """Return the node tree of plain Python data: dictionaries, lists, numbers and text.

    Args:
        content: The data; NumPy's scalars pass as numbers.
        mistakes: Receives what cannot stand in a sweep file.

    Raises:
        SpecError: If the data is nested too deeply (a structure may contain itself) or too large.
    """
    return _Objects(mistakes).node(content, "", 0)


class _Objects:
    """Turns Python data into nodes, counting them."""

    def __init__(self, mistakes: Mistakes) -> None:
        self.mistakes = mistakes
        self.count = 0

    def node(self, content: object, path: str, depth: int) -> Node:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NODES:
            limit = f"at most {MAX_DEPTH} levels deep and {MAX_NODES} values large"
            self.mistakes.stop(None, path[:120], f"must be {limit}", "more")
        order = self.count
        if isinstance(content, Mapping):
            return self._table(content, path, depth, order)
        if isinstance(content, Sequence) and not isinstance(content, str | bytes | bytearray):
            items = tuple(self.node(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(content))
            return Items(items, order=order)
        value = _scalar(content)
        if value is _UNKNOWN:
            kind = f"a value of type {type(content).__name__}"
            self.mistakes.add(None, path, "must be plain data: text, numbers, lists, dicts", kind)
            return Scalar(None, "", broken=True, order=order)
        return Scalar(value, str(value) if value is not None else "", plain=False, order=order)

    def _table(self, content: Mapping[Any, Any], path: str, depth: int, order: int) -> Table:
        entries: dict[str, Node] = {}
        keys: dict[str, Scalar] = {}
        for key, value in content.items():
            where = f"{path}.{key}" if path else f"{key}"
            if not isinstance(key, str):
                self.mistakes.add(None, where[:200], "must have text as its key", repr(key)[:42])
                continue
            self.count += 1
            keys[key] = Scalar(key, key, order=self.count)
            entries[key] = self.node(value, where, depth + 1)
        return Table(entries, keys, order=order)


_UNKNOWN = object()


def _scalar(content: object) -> object:
    """Return a scalar of Python's own types, or ``_UNKNOWN``."""
    if content is None or isinstance(content, bool):
        return content
    if isinstance(content, str):
        return str(content)
    if isinstance(content, numbers.Integral):
        number = int(content)
        return number if abs(number) < 10**_LONGEST_INTEGER else math.inf
    if isinstance(content, numbers.Real):
        return float(content)
    return _UNKNOWN


def to_object(node: Node) -> Any:
    """Return plain Python data; the inverse of :func:`from_object`."""
    if isinstance(node, Table):
        return {key: to_object(value) for key, value in node.entries.items()}
    if isinstance(node, Items):
        return [to_object(item) for item in node.items]
    return node.value
