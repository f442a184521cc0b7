"""What users wrote is shown in MLflow as it is: its Markdown has no link, image, code or HTML of theirs."""

from __future__ import annotations

import re
from html import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnsweep.tracking.content import describe

markdown_it = pytest.importorskip("markdown_it")

EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "![x](https://elsewhere.example/pixel.png)",
    "<javascript:alert(1)> &lt;b&gt; &#60;b&#62;",
    "`code` ``more`` ~~~\n```html\n<b>\n```",
    "[x]: javascript:alert(1)\n[x]",
    "\\[x\\](javascript:alert(1)) \\<b>",
    "# heading\n===\n---\n- list\n+ list\n* list\n    indented\n| a | b |\n|---|---|\n| c | d |",
    "*a* _b_ **c** ~~d~~ {e}",
]


def rendered(description: str) -> tuple[str, str]:
    """Return the description's part of the note as HTML, and what follows it."""
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    whole = parser.render(describe({"description": description}, "7"))
    part, mark, rest = whole.partition("<ul>")
    return part, mark + rest


@pytest.mark.parametrize("text", EVIL)
def test_the_description_is_shown_as_it_was_written(text: str) -> None:
    part, rest = rendered(text)
    assert set(re.findall(r"<[^>]*>", part)) <= {"<p>", "</p>"}, part
    shown = " ".join(re.sub(r"</?p>", "", part).split())
    assert shown == " ".join(escape(text, quote=False).replace("\\", "\\").split()).replace('"', "&quot;")
    assert rest.count("<a href=") == 2 and rest == rendered("plain")[1], "our own links stay"


@given(st.lists(st.sampled_from([*EVIL, "plain words", "<", "]", "(", "`", "\\", "\n", "a_b"]), max_size=8))
def test_no_mixture_becomes_a_tag(parts: list[str]) -> None:
    part, rest = rendered("".join(parts))
    assert set(re.findall(r"<[^>]*>", part)) <= {"<p>", "</p>", "<ol>", "</ol>", "<li>", "</li>", "<br>"}
    assert rest.count("<a href=") == 2


@pytest.mark.parametrize("letter", ["<", "&", "_", "x"])
def test_a_long_description_is_cut_between_letters(letter: str) -> None:
    note = describe({"description": letter * 20_000}, "7")
    assert len(note) < 5000
    part, rest = rendered(letter * 20_000)
    assert set(re.sub(r"</?p>|\s|…|\.", "", part)) <= set(escape(letter)), "no half of an entity"
    assert rest.count("<a href=") == 2
