"""Reading YAML that a stranger may have written: limits first, objects afterwards.

PyYAML's parser delivers a stream of events; the tree is built here, from the events, so that size,
depth, aliases, merge keys, tags and duplicate keys are judged before any object exists. Nothing in
the text can name a Python type, and nothing can be repeated by reference, which is what makes the
known bombs explode.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import yaml

from bnsweep.sweep.nodes import MAX_DEPTH, MAX_NODES, Items, Mistakes, Node, Scalar, Table, plain_value

__all__ = ["MAX_BYTES", "parse_text", "read_text"]

MAX_BYTES = 1 << 20
"""Largest sweep file."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MERGE = "<<"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: Path, mistakes: Mistakes) -> str:
    """Return the text of a sweep file.

    Args:
        path: A regular file.
        mistakes: Receives what is wrong.

    Raises:
        SpecError: If there is no such file, or it is a directory, too large or not UTF-8.
    """
    try:
        content = _read_bytes(path, mistakes)
    except FileNotFoundError:
        mistakes.stop(None, "", "must exist", "no such file", "check the path and the current directory")
    except OSError as error:
        mistakes.stop(None, "", "must be readable", error.strerror or type(error).__name__)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = Scalar(None, "", line=content.count(b"\n", 0, error.start) + 1)
        byte = f"byte 0x{content[error.start]:02x}"
        mistakes.stop(where, "", "must be UTF-8 text", byte, "save the file as UTF-8")


def _read_bytes(path: Path, mistakes: Mistakes) -> bytes:
    if "\0" in str(path):
        mistakes.stop(None, "", "must be a path", "a NUL byte")
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        kind = "a directory" if stat.S_ISDIR(info.st_mode) else "neither a file nor a directory"
        mistakes.stop(None, "", "must be a sweep file", kind)
    if info.st_size > MAX_BYTES:
        mistakes.stop(None, "", f"must be at most {MAX_BYTES:,} bytes", f"{info.st_size:,} bytes")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def parse_text(text: str, mistakes: Mistakes) -> Node:
    """Return the node tree of one YAML document.

    Args:
        text: The document.
        mistakes: Receives tags, anchors, aliases, merge keys and duplicate keys; reading goes on
            past those.

    Raises:
        SpecError: If the text is too large, too deep, not YAML, empty, or holds characters that
            YAML does not allow.
    """
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        mistakes.stop(None, "", f"must be at most {MAX_BYTES:,} bytes", f"{size:,} bytes")
    illegal = _UNPRINTABLE.search(text)
    if illegal:
        where = Scalar(None, "", line=text.count("\n", 0, illegal.start()) + 1)
        mistakes.stop(where, "", "must be printable text", f"character {illegal[0]!a}")
    builder = _Builder(mistakes)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        _syntax_mistake(error, mistakes, builder.count, text)
    except yaml.YAMLError as error:
        mistakes.stop(None, "", "must be YAML", str(error).partition("\n")[0][:200])
    if builder.root is None:
        mistakes.stop(None, "", "must hold a sweep", "an empty file", "docs/sweep-file.md has an example")
    return builder.root


def _syntax_mistake(error: yaml.MarkedYAMLError, mistakes: Mistakes, order: int, text: str) -> NoReturn:
    mark = error.problem_mark or error.context_mark
    problem = (error.problem or "a syntax error").removeprefix("found ")[:200]
    last = len(text.splitlines())
    where = Scalar(None, "", line=min(mark.line + 1, last) if mark else None, order=order)
    if error.context and error.context_mark:
        problem += f", {error.context[:80]} that begins on line {error.context_mark.line + 1}"
    hint = ""
    if "cannot start any token" in problem:
        hint = "indent with spaces, not tabs, and quote text that begins with a special character"
    mistakes.stop(where, "", "must be YAML", problem, hint)


@dataclass
class _Frame:
    """A list or mapping whose end has not been read yet."""

    mapping: bool
    path: str
    line: int
    order: int
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Scalar] = field(default_factory=dict)
    key: Scalar | None = None
    skip: bool = False

    def child_path(self) -> str:
        if not self.mapping:
            return f"{self.path}[{len(self.items)}]"
        name = (self.key.text if self.key else "")[:64]
        return f"{self.path}.{name}" if self.path else name

    def node(self) -> Node:
        if self.mapping:
            return Table(self.entries, self.keys, self.line, self.order)
        return Items(tuple(self.items), self.line, self.order)


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark else 1


class _Builder:
    """Builds nodes from events and notes what is not allowed."""

    def __init__(self, mistakes: Mistakes) -> None:
        self.mistakes = mistakes
        self.stack: list[_Frame] = []
        self.root: Node | None = None
        self.count = 0
        self.documents = 0

    def feed(self, event: yaml.Event) -> None:
        """Take one event."""
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._fail(event, "must be one document", "a second one", "remove the line ---")
        elif isinstance(event, yaml.NodeEvent):
            self._node(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self.stack.pop().node())

    def _node(self, event: yaml.NodeEvent) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            self._fail(event, f"must hold at most {MAX_NODES:,} values", "more")
        broken = self._forbidden(event)
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            self._add(Scalar(None, f"*{event.anchor}", broken=True, line=line, order=self.count))
        elif isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0]
            value = plain_value(event.value) if plain else event.value
            self._add(Scalar(value, event.value, plain, broken, line, self.count))
        else:
            self._open(event, line)

    def _open(self, event: yaml.NodeEvent, line: int) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self._fail(event, f"must be at most {MAX_DEPTH} levels deep", "deeper nesting")
        if self.stack and self.stack[-1].mapping and self.stack[-1].key is None:
            self._fail(event, "must have text as its keys", "a list or mapping as a key")
        path = self.stack[-1].child_path() if self.stack else ""
        self.stack.append(_Frame(isinstance(event, yaml.MappingStartEvent), path, line, self.count))

    def _forbidden(self, event: yaml.NodeEvent) -> bool:
        """Note anchors, aliases and tags; return whether the value can no longer be trusted."""
        tag = getattr(event, "tag", None)
        alias = isinstance(event, yaml.AliasEvent)
        if not (alias or event.anchor or tag):
            return False
        path = self.stack[-1].child_path() if self.stack else ""
        place = Scalar(None, "", line=_line(event), order=self.count)
        if alias:
            text = f"the alias *{event.anchor}"
            self.mistakes.add(place, path, "must be written out", text[:80], "aliases are not allowed")
            return True
        if event.anchor:
            text = f"the anchor &{event.anchor}"
            self.mistakes.add(place, path, "must be without anchors", text[:80], "remove it")
        if tag and not (isinstance(event, yaml.ScalarEvent) and tag == "!"):
            text = f"the tag {tag}"
            self.mistakes.add(place, path, "must be without tags", text[:80], "write the value itself")
            return True
        return False

    def _add(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        if not frame.mapping:
            frame.items.append(node)
        elif frame.key is None:
            assert isinstance(node, Scalar)
            frame.key = node
            frame.skip = not self._legal_key(frame, node)
        else:
            if not frame.skip:
                frame.keys[frame.key.text] = frame.key
                frame.entries[frame.key.text] = node
            frame.key = None

    def _legal_key(self, frame: _Frame, key: Scalar) -> bool:
        path = frame.child_path()
        if key.text == _MERGE and key.plain:
            hint = "merge keys are not allowed: write the keys out"
            self.mistakes.add(key, path, "must be without merge keys", "<<", hint)
            return False
        if key.text in frame.keys:
            first = f"it again (first on line {frame.keys[key.text].line})"
            self.mistakes.add(key, path, "must stand there once", first, "remove one of the two")
            return False
        return not key.broken

    def _fail(self, event: yaml.Event, must: str, found: str, hint: str = "") -> NoReturn:
        """Note what makes reading on pointless, and stop."""
        place = Scalar(None, "", line=_line(event), order=self.count)
        self.mistakes.stop(place, "", must, found, hint)
