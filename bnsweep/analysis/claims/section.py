"""Verdicts as they are shown: the table and the evidence on the page, and tables for export."""

# ruff: noqa: RUF001 (dashes, primes and signs as they are printed)

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.claims.frozen import FrozenClaims
from bnsweep.analysis.claims.parts import Part, Side, interval_text, unit_text
from bnsweep.analysis.claims.verdicts import Verdict
from bnsweep.analysis.markup import html_table, latex_table

if TYPE_CHECKING:
    import pandas as pd

    from bnsweep.analysis.figures import FigureFile
    from bnsweep.analysis.statistics import PairedTest

__all__ = ["METHOD", "claims_section", "part_frame", "verdict_json", "verdict_latex", "verdict_text"]

HEADER = ("claim", "verdict", "effect [95 % interval]", "must exceed", "seeds", "p")
NUMERIC = (False, False, True, True, True, True)

METHOD = (
    "A claim is a set of paired differences, one a seed, each with a threshold set before: supported if "
    "every "
    "mean lies above its threshold, refuted if one lies below, else undecided. For claims that one thing is "
    "as good as another the threshold is below zero, the loss that would not matter: a test of "
    "non-inferiority, one of the two one-sided tests of equivalence. Below 10 seeds the test is a "
    "paired t test; from 10 on a sign-flip permutation test must reject as well. p is two-sided: of all "
    "parts "
    "the largest, or for refuted the smallest times their number, then corrected by Holm over the claims of "
    "the sweep. Intervals are 95 % Student-t intervals of the mean difference, uncorrected; where values lie "
    "on a grid (learning rates), or seeds of one condition train or fail, the standard deviation is at least "
    "half of what one trial changes. By simulation (python -m benchmarks.calibration) they cover 94 % or "
    "more "
    "for normal, moderately skewed, grid-valued and train-or-diverge data at 5, 10 and 29 seeds, and 87 "
    "to 92 % "
    "for strongly skewed data. Percentile and BCa bootstraps are not used for verdicts: at 5 seeds a "
    "percentile "
    "bootstrap covers 84 %. A divergence rarer than the seeds can show is not foreseen: 5 seeds without one "
    "leave rates up to 45 % possible. Diverged trials count at chance level."
)


def _effect(part: Part | Side, test: PairedTest) -> str:
    return interval_text(test.mean, test.low, test.high, part.unit)


def _p(verdict: Verdict) -> str:
    if not verdict.judged.tests:
        return "–"
    value = min(verdict.p_supported, verdict.p_refuted)
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _deciding(verdict: Verdict) -> tuple[Part, PairedTest] | None:
    """Return the part that a verdict hangs on: the most doubtful, or the one that refutes."""
    pairs = list(zip(verdict.judged.findings.parts, verdict.judged.tests, strict=True))
    if not pairs:
        return None
    if verdict.word == "refuted":
        return min(pairs, key=lambda pair: pair[1].p_below)
    return max(pairs, key=lambda pair: pair[1].p_above)


def _row(verdict: Verdict) -> tuple[str, ...]:
    pair = _deciding(verdict)
    if pair is None:
        return (verdict.key, verdict.word, "–", "–", "–", "–")
    part, test = pair
    threshold = unit_text(part.threshold, part.unit)
    return (verdict.key, verdict.word, _effect(part, test), threshold, str(test.n), _p(verdict))


def verdict_text(verdicts: Sequence[Verdict]) -> list[str]:
    """Return one line a verdict, for a terminal."""
    lines = []
    for verdict in verdicts:
        pair = _deciding(verdict)
        said = f"  {_effect(*pair)}" if pair else ""
        reason = f"  ({verdict.reason})" if verdict.reason else ""
        marks = f"  ({verdict.cautions[0]})" if verdict.cautions else ""
        lines.append(f"{verdict.key}: {verdict.word}{said}{reason}{marks}")
    return lines


def claims_section(
    verdicts: Sequence[Verdict],
    frozen: FrozenClaims,
    figures: Mapping[str, FigureFile],
    draw: Callable[[FigureFile], str],
    looks: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the table of verdicts and the evidence of each as HTML; empty without claims.

    Args:
        verdicts: What was judged.
        frozen: The claims as stored.
        figures: The figure of a claim by its key.
        draw: Turns a figure into HTML.
        looks: Looks that a sequential sweep has taken.
    """
    if not verdicts:
        return ""
    table = html_table(HEADER, [_row(verdict) for verdict in verdicts], NUMERIC)
    for word in ("supported", "refuted", "undecided", "no verdict yet"):
        table = table.replace(f"<td>{word}</td>", f'<td class="{word.split()[0]}">{word}</td>')
    parts = [f"<section><h2>Verdicts</h2>{table}"]
    parts.append(
        '<p class="note">The effect shown is that of the part which decides. Claims were frozen with hash '
        f"{escape(frozen.hash)}"
        + (f", <b>changed after results</b> (first {escape(frozen.first)})" if frozen.changed else "")
        + ("; <b>exploratory</b>" if frozen.exploratory else "")
        + f".{escape(looks_text(frozen, looks))}</p></section>"
    )
    parts.extend(_evidence(verdict, figures.get(verdict.key), draw) for verdict in verdicts)
    return "\n".join(parts)


def looks_text(frozen: FrozenClaims, looks: Sequence[Mapping[str, Any]]) -> str:
    """Say how often a sequential sweep was looked at, and what that does to its numbers; else nothing."""
    if frozen.schedule is None:
        return ""
    own = [look for look in looks if look["hash"] == frozen.hash]
    at = ", ".join(str(look["seeds"]) for look in own) or "none"
    ends = {
        "more": "a claim is open, so that seeds are added",
        "clear": "it ended since every claim was decided",
        "cap": f"it ended at the most seeds, {frozen.schedule.max}",
        "stuck": "it ended since more seeds would not decide what is open",
    }
    end = f"; {ends[own[-1]['decision']]}" if own else ""
    return (
        f" Seeds were added look by look: {len(own)} of at most {frozen.looks} looks, at {at} seeds{end}. "
        f"Every p is the smallest of the looks times {frozen.looks}, and every interval one of "
        f"{100 * (1 - 0.05 / frozen.looks):.1f} %, so that it holds the truth at all looks in 95 % of sweeps."
    )


def _evidence(verdict: Verdict, figure: FigureFile | None, draw: Callable[[FigureFile], str]) -> str:
    definition = verdict.definition
    said = [f"<h3>{escape(verdict.key)}: {escape(verdict.word)}</h3>"]
    where = f'<span class="note">({escape(definition.where)})</span>'
    said.append(f"<p>{escape(definition.sentence)} {where}</p>")
    if verdict.reason:
        said.append(f"<p><b>{escape(verdict.reason[0].upper() + verdict.reason[1:])}.</b></p>")
    said.extend(f'<p class="caution">{escape(text[0].upper() + text[1:])}.</p>' for text in verdict.cautions)
    said.append(draw(figure) if figure else "")
    judged = verdict.judged
    rows = [
        (part.label, _effect(part, test), unit_text(part.threshold, part.unit))
        for part, test in zip(judged.findings.parts, judged.tests, strict=True)
    ]
    rows += [
        (side.label, _effect(side, test), "")
        for side, test in zip(judged.findings.sides, judged.sides, strict=True)
    ]
    if rows:
        header = ("measure", "mean over seeds [95 % interval]", "must exceed")
        said.append(html_table(header, rows, (False, True, True)))
    details = [f"Measured: {definition.estimand}"]
    if judged.findings.where:
        details.append(f"Here: {judged.findings.where}")
    if verdict.paper:
        details.append(f"The paper: {verdict.paper}")
    bounds = [bound for part in judged.findings.parts for bound in (part.at_least, part.at_most) if bound]
    details += dict.fromkeys(bounds)
    said.extend(f'<p class="note">{escape(text[0].upper() + text[1:])}.</p>' for text in details)
    return f"<section>{''.join(said)}</section>"


def part_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return one row for each part and side measure of every verdict."""
    import pandas as pd

    rows = []
    for verdict in verdicts:
        judged = verdict.judged
        fixed = {
            "claim": verdict.claim.name,
            "facet": verdict.facet,
            "verdict": verdict.word,
            "reason": verdict.reason,
            "p_supported": verdict.p_supported,
            "p_refuted": verdict.p_refuted,
            "alpha": verdict.claim.alpha,
            "min_effect": verdict.min_effect,
        }
        measured: list[tuple[Part | Side, PairedTest]] = [
            *zip(judged.findings.parts, judged.tests, strict=True),
            *zip(judged.findings.sides, judged.sides, strict=True),
        ]
        if not measured:
            rows.append(fixed)
        for one, test in measured:
            part = isinstance(one, Part)
            rows.append(
                {
                    **fixed,
                    "measure": one.label,
                    "decides": part,
                    "unit": one.unit,
                    "threshold": one.threshold if isinstance(one, Part) else math.nan,
                    "n": test.n,
                    "mean": test.mean,
                    "sd": test.sd,
                    "low": test.low,
                    "high": test.high,
                    "p_above": test.p_above if part else math.nan,
                    "p_below": test.p_below if part else math.nan,
                    "test": test.method if part else "",
                }
            )
    return pd.DataFrame(rows)


def verdict_latex(verdicts: Sequence[Verdict]) -> str:
    """Return the table of verdicts for LaTeX."""
    return latex_table(HEADER, [_row(verdict) for verdict in verdicts], NUMERIC)


def verdict_json(
    verdicts: Sequence[Verdict],
    frozen: FrozenClaims,
    last_record: str,
    looks: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """Return the verdicts as JSON, which the tracking mirror turns into tags and metrics.

    Args:
        verdicts: What was judged.
        frozen: The claims as stored.
        last_record: When the last trial was written; empty where there is none.
        looks: Looks that a sequential sweep has taken.
    """
    content: dict[str, Any] = {
        "hash": frozen.hash,
        "last_record": last_record,
        "changed_after_results": frozen.changed,
        "exploratory": frozen.exploratory,
        "verdicts": {},
    }
    if frozen.schedule is not None:
        said = ("number", "seeds", "decision", "words")
        content["looks"] = [{name: look[name] for name in said} for look in looks]
    for verdict in verdicts:
        entry: dict[str, Any] = {"verdict": verdict.word, "reason": verdict.reason}
        pair = _deciding(verdict)
        if pair is not None:
            test = pair[1]
            numbers = {
                "effect": test.mean, "low": test.low, "high": test.high, "threshold": pair[0].threshold,
                "p_supported": verdict.p_supported, "p_refuted": verdict.p_refuted, "seeds": test.n,
            }  # fmt: skip
            entry["numbers"] = {key: value for key, value in numbers.items() if math.isfinite(value)}
        content["verdicts"][verdict.key] = entry
    return (json.dumps(content, indent=1) + "\n").encode()
