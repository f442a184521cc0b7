"""Reading YAML from strangers: what is refused, with which line, at what cost."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bnsweep.errors import SpecError
from bnsweep.sweep import load_text, to_yaml
from bnsweep.sweep.nodes import Items, Mistakes, Scalar, Table, from_object, plain_value, to_object
from bnsweep.sweep.yaml_reader import MAX_BYTES, parse_text, read_text


def read(text):
    mistakes = Mistakes("x.yaml")
    node = parse_text(text, mistakes)
    mistakes.raise_if_any()
    return node


def refused(text):
    with pytest.raises(SpecError) as caught:
        read(text)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E3", 1000.0), ("1.0e-3", 0.001), (".5", 0.5), ("5.", 5.0), ("-0.1", -0.1),
        ("12", 12), ("+12", 12), ("-3", -3), ("0", 0),
        ("true", True), ("FALSE", False), ("~", None), ("null", None), ("", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("1:30", "1:30"), ("010", "010"), ("0x1F", "0x1F"),
        ("0o17", "0o17"), ("1_000", "1_000"), ("1,000", "1,000"), ("2024-01-01", "2024-01-01"), ("1e", "1e"),
        (".inf", float("inf")), ("9" * 5000, float("inf")), ("1e999", float("inf")),
    ],
)  # fmt: skip
def test_plain_scalars_follow_yaml_1_2(text, value):
    found = plain_value(text)
    assert found == value
    assert type(found) is type(value)


def test_nodes_know_their_lines():
    root = read("# comment\na: 1\nb:\n  - x\n  - {c: 'no'}\n")
    assert isinstance(root, Table)
    assert (root.keys["a"].line, root.keys["b"].line) == (2, 3)
    items = root.entries["b"]
    assert isinstance(items, Items)
    assert [item.line for item in items.items] == [4, 5]
    assert to_object(root) == {"a": 1, "b": ["x", {"c": "no"}]}


def test_quoted_text_stays_text():
    root = read("a: '1'\nb: \"true\"\nc: |\n  2\n")
    assert to_object(root) == {"a": "1", "b": "true", "c": "2\n"}


@pytest.mark.parametrize(
    ("text", "line", "path", "words"),
    [
        ("a: 1\nb: &x 2", 2, "b", "anchor"),
        ("a: 1\nb:\n  - *x", 3, "b[0]", "alias"),
        ("a: &x [1]\nb:\n  - *x", 3, "b[0]", "alias"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']", 2, "b", "python/object"),
        ("a: 1\nb: !custom 2", 2, "b", "!custom"),
        ("a: 1\nb: !!str 2", 2, "b", "tag"),
        ("a: 1\nb: {<<: {c: 1}}", 2, "b.<<", "merge"),
        ("a: 1\nb: 2\na: 3", 3, "a", "first on line 1"),
        ("a: 1\nb: {c: 1,\n  c: 2}", 3, "b.c", "first on line 2"),
        ("a: 1\n---\nb: 1", 2, "", "document"),
        ("", None, "", "empty"),
        ("# nothing\n", None, "", "empty"),
        ("a: 1\n\tb: 2", 2, "", "tab"),
        ("a: 1\nb: [1, 2", 2, "", "must be YAML"),
        ("a: 1\nb: }", 2, "", "must be YAML"),
        ("a: 1\n? [x]\n: 2", 2, "", "must have text as its keys"),
        ("a: 1\nb: \0", 2, "", "printable"),
        ("a: 1\nb: \x07", 2, "", "printable"),
        ("a: \ud800", 1, "", "printable"),
        ("a: 1\nb: " + "[" * 40 + "]" * 40, 2, "", "levels deep"),
    ],
    ids=lambda value: repr(value)[:24] if isinstance(value, str) else "",
)  # fmt: skip
def test_refusals(text, line, path, words):
    mistake = next(m for m in refused(text) if words in str(m))
    assert (mistake.line, mistake.path) == (line, path)


def test_refusals_are_collected():
    mistakes = refused("a: &x 1\nb: *x\nc: !t 1\na: 2\n<<: {}\n")
    assert [mistake.line for mistake in mistakes] == [1, 2, 3, 4, 5]


def test_a_flood_of_mistakes_is_cut_short():
    mistakes = refused("".join(f"k{i}: !t 1\n" for i in range(5000)))
    assert len(mistakes) == 101
    assert mistakes[-1].found == "4900 more mistakes"


BOMBS = {
    "alias": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
    ),
    "merge": "a: &a {x: 1, y: 2}\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{','.join(['*' + chr(97 + i)] * 8)}]}}\n" for i in range(12)
    ),
    "recursive": "&a [*a, *a]",
    "brackets": "[" * 100_000,
    "braces": "{a: " * 100_000,
    "dashes": "- " * 100_000,
    "questions": "? " * 100_000,
    "items": "[" + "1," * 250_000 + "]",
    "keys": "\n".join(f"k{i}: 1" for i in range(100_000)),
    "same key": "a: 1\n" * 100_000,
    "digits": "a: " + "9" * 1_000_000,
    "text": "a: '" + "x" * 1_000_000 + "'",
    "escapes": 'a: "' + "\\u0041" * 100_000 + '"',
    "comments": "#" * 1_000_000,
    "anchors": "".join(f"a{i}: &b{i} 1\n" for i in range(50_000)),
    "tags": "".join(f"a{i}: !b{i} 1\n" for i in range(50_000)),
    "directives": "%TAG !a! tag:b\n" * 50_000,
    "large": "a: 1\n" * (MAX_BYTES // 5 + 1),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly(name, least_cpu_seconds):
    def read() -> None:
        with pytest.raises(SpecError):
            load_text(BOMBS[name])

    assert least_cpu_seconds(read) < 1.0


def test_bombs_need_little_memory(tmp_path):
    path = tmp_path / "bombs.json"
    path.write_text(json.dumps(BOMBS))
    code = f"""
import json, re
from bnsweep.errors import SpecError
from bnsweep.sweep import load_text
for text in json.load(open({str(path)!r})).values():
    try:
        load_text(text)
    except SpecError:
        continue
    raise SystemExit("accepted")
print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1)) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200


@pytest.mark.parametrize(
    "kind", ["directory", "missing", "50 MB", "latin-1", "fifo", "NUL in path", "long path"]
)
def test_files_that_are_no_sweep_files(tmp_path, kind, least_cpu_seconds):
    path = tmp_path / "x.yaml"
    line = None
    if kind == "directory":
        path.mkdir()
    elif kind == "50 MB":
        with path.open("wb") as file:
            file.truncate(50 * 2**20)
    elif kind == "latin-1":
        path.write_bytes("name: a\ndescription: größer\n".encode("latin-1"))
        line = 2
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "NUL in path":
        path = tmp_path / "a\0b"
    elif kind == "long path":
        path = tmp_path / ("a" * 5000)

    def read() -> None:
        with pytest.raises(SpecError) as caught:
            read_text(path, Mistakes(str(path)))
        assert caught.value.mistakes[0].line == line

    assert least_cpu_seconds(read) < 1.0


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert to_object(read(read_text(path, Mistakes()))) == {"a": 1}


def test_python_data_becomes_the_same_tree():
    content = {"a": [1, 2.5, "x", True, None], "b": {"c": "1e-3"}}
    mistakes = Mistakes()
    assert to_object(from_object(content, mistakes)) == content
    assert len(mistakes) == 0


@pytest.mark.parametrize("kind", ["recursive", "wide", "key", "value"])
def test_python_data_that_cannot_be_a_file(kind):
    recursive = {}
    recursive["a"] = recursive
    contents = {"recursive": recursive, "wide": {"a": [0] * 30_000}, "key": {1: 2}, "value": {"a": object()}}
    mistakes = Mistakes()
    with pytest.raises(SpecError):
        _ = from_object(contents[kind], mistakes), mistakes.raise_if_any()


scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
)  # fmt: skip
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(keys, documents, max_size=4))
def test_what_is_written_is_read_back(content):
    assert to_object(read(to_yaml(content))) == content


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text("[]{}:-?&*!|>'\"%@`#,<\n\t ab1.", max_size=60))
def test_text_is_read_or_refused(text):
    try:
        node = read(text)
    except SpecError:
        return
    assert yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) is not None
    assert isinstance(node, Table | Items | Scalar)
