"""Tables as HTML and as LaTeX; whatever users wrote is escaped."""

# ruff: noqa: RUF001 (signs as they are printed)

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["html_table", "latex_table"]

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "×": r"$\times$",
    "÷": r"$\div$", "±": r"$\pm$", "‖": r"$\Vert$", "′": "$'$", "∞": r"$\infty$", "–": "--", "·": r"$\cdot$",
    "≥": r"$\geq$", "≤": r"$\leq$", "β": r"$\beta$", "→": r"$\to$", "√": r"$\surd$",
}  # fmt: skip
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))


def html_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool], caption: str = ""
) -> str:
    """Return a table that scrolls where it is too wide.

    Args:
        header: Names of the columns.
        rows: Cells, as many as columns.
        numeric: Which columns are set flush right.
        caption: Said above it.
    """
    kinds = [' class="n"' if number else "" for number in numeric]
    head = "".join(f"<th{kind}>{escape(cell)}</th>" for cell, kind in zip(header, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{k}>{escape(cell)}</td>" for cell, k in zip(row, kinds, strict=True))
        + "</tr>\n"
        for row in rows
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    table = f"<table>{said}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    r"""Return a table for LaTeX with the package ``booktabs``.

    Example:
        >>> print(latex_table(["claim", "n"], [["a_b", "5"]], [False, True]), end="")
        \begin{tabular}{lr}
        \toprule
        claim & n \\
        \midrule
        a\_b & 5 \\
        \bottomrule
        \end{tabular}
    """
    columns = "".join("r" if number else "l" for number in numeric)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _line(header), r"\midrule"]
    lines += [_line(row) for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(_SPECIAL.sub(lambda match: _LATEX[match[0]], cell) for cell in cells) + r" \\"
