"""The report as one HTML page that needs nothing else: no network, no script, no other file."""

# ruff: noqa: RUF001 (dashes, primes and signs as they are printed)

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.aggregates import NOTE, aggregate_rows
from bnsweep.analysis.cautions import cautions
from bnsweep.analysis.claims.section import METHOD as CLAIMS_METHOD
from bnsweep.analysis.claims.section import claims_section
from bnsweep.analysis.effort import best_curves, efforts
from bnsweep.analysis.figures import FigureFile
from bnsweep.analysis.intervals import LEVEL, METHOD
from bnsweep.analysis.markup import html_table
from bnsweep.analysis.scores import HEADLINES
from bnsweep.analysis.searches import MOST_BEST, Found
from bnsweep.analysis.summary import HEADER, best_note, near_text, range_cells, status_text
from bnsweep.analysis.tables import lr_text, number_text

if TYPE_CHECKING:
    from bnsweep.analysis.results import Results

__all__ = ["render_page"]

MOST_ROWS = 400
"""Conditions listed on the page; the CSV file holds all of them."""

MOST_INLINE = 400_000
"""Bytes up to which a figure is embedded as SVG; larger ones are embedded as PNG."""

_RANGES = (
    "The threshold is half way between an untrained network and the best mean of any arm, at least 5 points "
    "above the former (for losses: on a logarithmic scale, at least a factor of 2). An asterisk marks the "
    "edge of the grid. The best learning rate is chosen and shown on the same trials, so its mean is a "
    "little too good: see the figure for every learning rate."
)

_STYLE = """
:root { --ink: #1b1b1b; --quiet: #5f5f5f; --rule: #d9d9d9; --tint: #f6f5f1; --warn: #8a4b00; }
* { box-sizing: border-box; }
html { color-scheme: light; }
body { margin: 0 auto; padding: 2.6rem 1.4rem 4rem; max-width: 58rem; color: var(--ink);
  background: #fff; font: 16px/1.5 "Source Serif 4", "Iowan Old Style", Charter, Georgia, serif; }
h1 { font-size: 2rem; line-height: 1.15; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .7rem; padding-bottom: .25rem; border-bottom: 1px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; max-width: 44rem; }
.lede { font-size: 1.1rem; color: var(--quiet); white-space: pre-line; overflow-wrap: anywhere; }
.status { font-variant-numeric: tabular-nums; margin-top: .9rem; }
.warnings { margin: 1.4rem 0 0; padding: .7rem 1.1rem .8rem; background: #fff8ec;
  border-left: 3px solid var(--warn); }
.warnings h2 { margin: 0 0 .2rem; border: 0; padding: 0; font-size: 1rem; color: var(--warn); }
.warnings ul { margin: 0; padding-left: 1.1rem; }
td.supported { color: #14663b; font-weight: 600; }
td.refuted { color: #b3261e; font-weight: 600; }
td.undecided, td.no { color: var(--quiet); font-weight: 600; white-space: nowrap; }
.caution { color: var(--warn); }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: 100%; font: 13px/1.4 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .28rem .7rem .28rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid var(--ink); font-weight: 600; white-space: nowrap; }
td { border-bottom: 1px solid var(--rule); }
td.n, th.n { text-align: right; }
th.side { border-bottom: 1px solid var(--rule); width: 14rem; font-weight: 400; color: var(--quiet); }
td.wide { overflow-wrap: anywhere; }
figure { margin: 1.6rem 0 2.2rem; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: var(--quiet); max-width: 44rem; margin-top: .5rem; }
figcaption b { color: var(--ink); }
.note { font-size: .9rem; color: var(--quiet); }
pre { background: var(--tint); padding: .8rem 1rem; overflow-x: auto; font: 12.5px/1.45 ui-monospace,
  "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
@media screen and (max-width: 40rem) {
  body { padding: 1.4rem .9rem 2rem; }
  th { white-space: normal; }
  td:first-child { min-width: 9rem; }
  figure { overflow-x: auto; }
  figure img { min-width: 34rem; }
}
@media print {
  @page { margin: 16mm; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .scroll { overflow: visible; }
}
"""


def render_page(
    results: Results, figures: Sequence[FigureFile], evidence: Mapping[str, FigureFile] | None = None
) -> str:
    """Return the whole page as HTML; everything that users wrote is escaped.

    Args:
        results: The sweep.
        figures: Its figures.
        evidence: The figure of each claim by the verdict's key; these stand first.
    """
    title = escape(results.name)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title} – bnsweep report</title><style>{_STYLE}</style></head><body>",
        f"<header><h1>{title}</h1>",
        f'<p class="lede">{escape(results.description)}</p>' if results.description else "",
        f'<p class="status">{escape(status_text(results))}.</p></header>',
        claims_section(results.verdicts, results.frozen, evidence or {}, _figure, results.looks),
        _warnings(results),
        _ranges(results) if results.found is None else _best(results.found),
        _aggregates(results),
        _effort(results),
        "".join(_figure(figure) for figure in figures),
        _conditions(results),
        _method("lr_range" if results.found is None else "search", bool(results.verdicts)),
        _provenance(results),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _warnings(results: Results) -> str:
    found = cautions(results)
    if not found:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in found)
    return f'<section class="warnings"><h2>Before reading on</h2><ul>{items}</ul></section>'


def _ranges(results: Results) -> str:
    parts = ["<section><h2>Learning rates that train</h2>"]
    if not results.ranges:
        return parts[0] + "<p>No finished trial has a reading to compare yet.</p></section>"
    for ranges in results.ranges:
        header = [cell.format(near=near_text(ranges)) for cell in HEADER]
        rows = [range_cells(ranges, arm) for arm in ranges.arms]
        caption = f"Final {ranges.metric.name.replace('_', ' ')}"
        caption += f", {ranges.facet}" if ranges.facet else ""
        parts.append(html_table(header, rows, (False, True, True, True, True, True), caption))
        parts.append(f'<p class="note">Trains: {escape(ranges.said_threshold())}. {_RANGES}</p>')
    return "\n".join([*parts, "</section>"])


def _aggregates(results: Results) -> str:
    """Return the arms over their whole grid."""
    if not results.aggregates:
        return ""
    parts = ["<section><h2>Over the whole grid</h2>"]
    for ranges in results.ranges:
        header, rows = aggregate_rows(results.aggregates, ranges)
        if rows:
            parts.append(html_table(header, rows, (False, True, True), ranges.facet))
    return "\n".join([*parts, f'<p class="note">{escape(NOTE)}</p></section>'])


def _effort(results: Results) -> str:
    """Return what each arm was given, and what a budget of tries finds."""
    given, curves = efforts(results), best_curves(results)
    if not given or not results.ranges:
        return ""
    metrics = {ranges.facet: ranges.metric for ranges in results.ranges}
    header = ["arm", *given[0].given(), "best of 1", "of half", "of all"]
    rows = []
    for one in given:
        values = curves.get((one.facet, one.arm))
        cells = ["–"] * 3
        if values:
            metric = metrics[one.facet]
            chosen = (values[0], values[(len(values) + 1) // 2 - 1], values[-1])
            accuracy = metric.kind == "accuracy"
            cells = [f"{100 * value:.1f} %" if accuracy else f"{value:.3g}" for value in chosen]
        rows.append([f"{one.arm} {one.facet}".strip(), *one.given().values(), *cells])
    note = (
        "What was planned for each arm; differences are among the warnings. Best of 1, of half and of all of "
        "its learning rates: the mean final reading that so many tries, drawn from the grid, find. The whole "
        "curves are in tables/effort.csv."
    )
    numeric = [False, True, False, True, True, True, True, True]
    return (
        f"<section><h2>Tuning effort</h2>{html_table(header, rows, numeric)}"
        f'<p class="note">{note}</p></section>'
    )


def _best(found: Found) -> str:
    """Return the best conditions of a search."""
    if not found.complete:
        return "<section><h2>Best conditions</h2><p>No condition has finished yet.</p></section>"
    rows = [found.cells(rank, one) for rank, one in enumerate(found.ranked[:MOST_BEST], 1)]
    numeric = [True] * len(found.header())
    return (
        f"<section><h2>Best conditions</h2>{html_table(found.header(), rows, numeric)}"
        f'<p class="note">{escape(best_note(found))}</p></section>'
    )


def _figure(figure: FigureFile) -> str:
    small = len(figure.svg) <= MOST_INLINE
    kind, content = ("svg+xml", figure.svg) if small else ("png", figure.png)
    data = base64.b64encode(content).decode()
    return (
        f'<figure id="{escape(figure.name)}"><img width="{figure.width}" alt="{escape(figure.title)}" '
        f'src="data:image/{kind};base64,{data}">\n'
        f"<figcaption><b>{escape(figure.title)}.</b> {escape(figure.caption)}</figcaption></figure>\n"
    )


def _conditions(results: Results) -> str:
    table = results.conditions
    if table.empty:
        return ""
    extra = [name for name in results.varying if name not in ("norm", "lr", "seed")]
    names = [name for name in HEADLINES if f"{name}_mean" in table]
    header = ["norm", "lr", *extra, "done", "diverged", *(name.replace("_", " ") for name in names)]
    numeric = [False, True, *([True] * len(extra)), True, True, *([True] * len(names))]
    rows = []
    for row in table.head(MOST_ROWS).to_dict("records"):
        cells = [str(row["norm"]), lr_text(float(row["lr"])), *(_value(row[name]) for name in extra)]
        cells += [f"{row['done']} of {row['planned']}", str(row["diverged"])]
        rows.append(cells + [_spread(row, name) for name in names])
    left = len(table) - len(rows)
    note = f'<p class="note">{left} further conditions are in tables/conditions.csv.</p>' if left > 0 else ""
    said = (
        '<p class="note">Mean ± standard deviation over seeds of final readings; diverged seeds included.</p>'
    )
    return f"<section><h2>Conditions</h2>{said}{html_table(header, rows, numeric)}{note}</section>"


def _value(value: Any) -> str:
    absent = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if absent else number_text(value)


def _spread(row: Mapping[Any, Any], name: str) -> str:
    mean, sd = float(row[f"{name}_mean"]), float(row[f"{name}_sd"])
    if math.isnan(mean):
        return "–"
    accuracy = name.endswith("accuracy")
    text = f"{100 * mean:.1f}" if accuracy else f"{mean:.4g}"
    if not math.isnan(sd):
        text += f" ± {100 * sd:.1f}" if accuracy else f" ± {sd:.2g}"
    return text + (" %" if accuracy else "")


def _method(last: str, claims: bool) -> str:
    verdicts = f"<p>{escape(CLAIMS_METHOD)}</p>" if claims else ""
    return (
        f"<section><h2>How the numbers are made</h2>{verdicts}"
        f"<p>{escape(METHOD.format(level=100 * LEVEL))}</p><p>A "
        "trial whose training loss stops being finite has diverged: an outcome, not an error. It stays in "
        "every mean, as chance accuracy (1 / classes), or as the larger of ln(classes) and its last "
        "finite loss. In a regression, ranges and figures compare losses on a logarithmic scale, where a "
        "loss above the initial one counts as the initial one; a diverged trial too.</p><p>Final readings "
        "are the last of each trial. Tables in full: "
        f"tables/trials.csv, tables/conditions.csv, tables/{last}.csv. Figures as PNG, SVG "
        "and PDF: figures/.</p></section>"
    )


def _provenance(results: Results) -> str:
    records = results.records
    seeds = sorted({record.seed for record in records})
    prints = sorted({(str(one.parameters["dataset"]), one.fingerprint) for one in records})
    rows = [
        ("plan", f"{results.planned} trials, hash {results.plan_hash}"),
        ("seeds", " ".join(map(str, seeds)) or "–"),
        *((f"data {name}", fingerprint or "no fingerprint") for name, fingerprint in prints),
        ("results version", ", ".join(map(str, sorted({one.results_version for one in records}))) or "–"),
        ("first record", min((one.written_at for one in records), default="–")),
        ("last record", max((one.written_at for one in records), default="–")),
        *_flat(results.environment),
    ]
    body = "".join(
        f'<tr><th class="side" scope="row">{escape(key)}</th><td class="wide">{escape(value)}</td></tr>\n'
        for key, value in rows
    )
    text = f"<h3>Sweep file</h3><pre>{escape(results.sweep_text)}</pre>" if results.sweep_text else ""
    return f"<section><h2>Provenance</h2><table><tbody>{body}</tbody></table>{text}</section>"


def _flat(content: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Return nested mappings as lines of key and value."""
    lines: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            lines.extend(_flat(value, f"{name} "))
        elif isinstance(value, list | tuple):
            lines.append((name, ", ".join(map(str, value))))
        else:
            lines.append((name, "–" if value is None else str(value)))
    return lines
