"""The few lines that end a run: each arm's best learning rate, and how far its range reaches."""

# ruff: noqa: RUF001 (dashes, primes and signs as they are printed)

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnsweep.analysis.ranges import ArmRange, FacetRanges
from bnsweep.analysis.searches import MOST_BEST, Found
from bnsweep.analysis.tables import lr_text

if TYPE_CHECKING:
    from bnsweep.analysis.results import Results
    from bnsweep.sweep.ledger import Ledger

__all__ = ["HEADER", "range_cells", "span_text", "status_text", "text_summary"]

HEADER = ("arm", "best lr", "mean ± sd at best", "lr within {near}", "lr that train", "diverged")


def text_summary(source: Ledger | Results) -> str:
    """Return verdicts and every arm's learning-rate range as plain text, for a terminal.

    Args:
        source: The sweep's ledger, or what was read from it.

    Returns:
        Lines without a final line break. Learning rates on the grid's edge carry an asterisk.
    """
    from bnsweep.analysis.results import Results

    results = source if isinstance(source, Results) else Results.read(source)
    lines = [status_text(results)]
    if results.verdicts:
        from bnsweep.analysis.claims.section import verdict_text

        lines += ["", *verdict_text(results.verdicts)]
    for ranges in results.ranges:
        lines.append("")
        lines.append(f"{ranges.facet + ': ' if ranges.facet else ''}final {ranges.metric.name}")
        header = tuple(cell.format(near=near_text(ranges)) for cell in HEADER)
        lines.extend(_aligned([header, *(range_cells(ranges, arm) for arm in ranges.arms)]))
        lines.append(f"trains: {ranges.said_threshold()}; * = edge of the grid")
    if results.found is not None and results.found.complete:
        found = results.found
        rows = [found.cells(rank, one) for rank, one in enumerate(found.ranked[:MOST_BEST], 1)]
        lines += ["", *_aligned([found.header(), *rows]), best_note(found)]
    elif not results.ranges:
        lines.append("No finished trial has a reading to compare yet.")
    return "\n".join(lines)


def best_note(found: Found) -> str:
    """Say how the best conditions were chosen, and what to beware of."""
    stopped = len(found.tried) - len(found.complete)
    infeasible = sum(not one.worth.feasible for one in found.complete)
    over = "mean" if found.goal.quantile is None else f"{found.goal.quantile:g} quantile"
    text = f"{len(found.complete)} conditions ran to their end, ordered by the {over} over seeds"
    if len(found.goal.metrics) > 1:
        text += f", the {len(found.front)} of the Pareto front first"
    text += f"; {infeasible} break a constraint and come last" if infeasible else ""
    text += f"; {stopped} were stopped early and are not among them" if stopped else ""
    if found.known:
        text += (
            f"; the sampler knew {found.known['known']} conditions of {found.known['source']} before, which "
        )
        text += "are not among them"
    return f"{text}. The best of many is better than it will be again: its luck was chosen too."


def status_text(results: Results) -> str:
    """Say how many trials are done, diverged, stopped early, failed and missing.

    Example output: ``20 of 24 trials done (3 diverged), 4 missing (1 failed)``.
    """
    states = [record.state.value for record in results.records]
    inside = [
        f"{states.count(state)} {word}"
        for state, word in (("diverged", "diverged"), ("stopped", "stopped early"))
        if state in states
    ]
    text = f"{len(states)} of {results.planned} trials done"
    text += f" ({', '.join(inside)})" if inside else ""
    if results.missing:
        text += f", {results.missing} missing"
        text += f" ({len(results.failed)} failed)" if results.failed else ""
    return text


def near_text(ranges: FacetRanges) -> str:
    """Say how close to the best counts as good as the best."""
    return "2 points" if ranges.metric.kind == "accuracy" else "a factor of 2"


def range_cells(ranges: FacetRanges, arm: ArmRange) -> tuple[str, ...]:
    """Return one arm's line of the table, cell by cell as in :data:`HEADER`."""
    best = arm.means[arm.best]
    mean = ranges.metric.text(best.mean)
    if best.n > 1:
        accuracy = ranges.metric.kind == "accuracy"
        mean += f" ± {100 * best.sd:.1f}" if accuracy else f" ×/÷ {10**best.sd:.2g}"
    burst, total = sum(map(sum, arm.diverged)), sum(map(len, arm.values))
    return (
        arm.arm,
        _lr(arm, arm.lrs[arm.best]) if arm.trains else "–",
        f"{mean} (n={best.n})",
        span_text(arm, arm.within) if arm.trains else "–",
        span_text(arm, arm.trains),
        f"{burst} of {total}",
    )


def span_text(arm: ArmRange, lrs: Sequence[float]) -> str:
    """Write learning rates of an arm's grid as unbroken runs; an asterisk marks the grid's edge.

    Example output: ``0.003*–0.1, 1*``.
    """
    runs: list[list[float]] = []
    previous = -2
    for index, lr in enumerate(arm.lrs):
        if lr not in lrs:
            continue
        if index == previous + 1:
            runs[-1].append(lr)
        else:
            runs.append([lr])
        previous = index
    words = [_lr(arm, run[0]) + (f"–{_lr(arm, run[-1])}" if len(run) > 1 else "") for run in runs]
    return ", ".join(words) or "–"


def _lr(arm: ArmRange, lr: float) -> str:
    edge = len(arm.lrs) > 1 and lr in (arm.lrs[0], arm.lrs[-1])
    return lr_text(lr) + ("*" if edge else "")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    rule = "  ".join("-" * width for width in widths)
    return [line.rstrip() for line in (lines[0], rule, *lines[1:])]
