"""The report of a sweep: a page, figures and tables, made from the ledger alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bnsweep.errors import BnsweepError
from bnsweep.sweep.object_store import in_parallel
from bnsweep.sweep.places import ObjectPath, Place, place

if TYPE_CHECKING:
    import pandas as pd

    from bnsweep.analysis.figures import FigureFile
    from bnsweep.analysis.results import Results
    from bnsweep.sweep.ledger import Ledger
    from bnsweep.sweep.objectives import Weigh

__all__ = ["Report", "make_report"]


@dataclass(frozen=True)
class Report:
    """Where a report was written.

    Attributes:
        path: The HTML page; it needs no other file.
        figures: PNG, SVG and PDF files.
        tables: CSV and LaTeX files: ``trials.csv``, ``conditions.csv``, and ``lr_range.csv``; for a search
            ``search.csv`` in its place.
        summary: The plain-text table that ends a run.
    """

    path: Place
    figures: tuple[Place, ...]
    tables: tuple[Place, ...]
    summary: str


def make_report(ledger: Ledger, out: Place | str | None = None, weigh: Weigh | None = None) -> Report:
    """Write the report of a sweep, finished or not.

    The same ledger, read with the same versions of the libraries, gives the same bytes. Figures that
    an earlier report left in the ledger's own report folder, and this one does not have, are removed.

    Args:
        ledger: The sweep's ledger.
        out: Folder to write to; by default ``report`` inside the ledger.
        weigh: Says how much of a search's outcome each setting explains.

    Raises:
        BnsweepError: If the folder cannot be written.
        LedgerError: If the stored plan is damaged.
    """
    from bnsweep.analysis.gallery import draw_all, draw_claims
    from bnsweep.analysis.page import render_page
    from bnsweep.analysis.results import Results
    from bnsweep.analysis.searches import share_table
    from bnsweep.analysis.summary import text_summary

    results = Results.read(ledger)
    shares = results.found.shares(weigh) if results.found and weigh else ()
    figures, evidence = draw_all(results, shares), draw_claims(results)
    folder = place(out) if out is not None else ledger.report_dir
    contents = _figure_contents([*evidence.values(), *figures]) | _table_contents(results)
    if results.verdicts:
        from bnsweep.analysis.claims.section import verdict_json

        contents["verdicts.json"] = verdict_json(
            results.verdicts,
            results.frozen,
            max((one.written_at for one in results.records), default=""),
            results.looks,
        )
    if shares:
        contents["tables/importance.csv"] = _csv(share_table(shares))
    contents["report.html"] = render_page(results, figures, evidence).encode()
    try:
        _write_all(folder, contents)
        if out is None:
            _remove_stale(folder / "figures", contents)
    except BnsweepError:
        raise
    except OSError as error:
        raise BnsweepError(
            f"The report's folder must be writable, but writing in {folder} failed: "
            f"{error.strerror or error}. Mend the permissions, or name another folder."
        ) from error
    return Report(
        path=folder / "report.html",
        figures=tuple(folder / name for name in contents if name.startswith("figures/")),
        tables=tuple(folder / name for name in contents if name.startswith("tables/")),
        summary=text_summary(results),
    )


def _figure_contents(figures: list[FigureFile]) -> dict[str, bytes]:
    contents = {}
    for figure in figures:
        contents[f"figures/{figure.name}.png"] = figure.png
        contents[f"figures/{figure.name}.svg"] = figure.svg
        contents[f"figures/{figure.name}.pdf"] = figure.pdf
    return contents


def _table_contents(results: Results) -> dict[str, bytes]:
    from bnsweep.analysis.aggregates import aggregate_frame
    from bnsweep.analysis.effort import effort_frame
    from bnsweep.analysis.ranges import range_table

    tables = {
        "trials": results.trials,
        "conditions": results.conditions,
    }
    if results.found is None:
        tables["lr_range"] = range_table(results.ranges)
        tables["effort"] = effort_frame(results)
        tables["aggregates"] = aggregate_frame(results.aggregates)
    else:
        tables["search"] = results.found.table()
    contents = {f"tables/{name}.csv": _csv(table) for name, table in tables.items()}
    if results.verdicts:
        from bnsweep.analysis.claims.section import part_frame, verdict_latex

        contents["tables/verdicts.csv"] = _csv(part_frame(results.verdicts))
        contents["tables/verdicts.tex"] = verdict_latex(results.verdicts).encode()
    if results.ranges:
        contents["tables/lr_range.tex"] = _latex_ranges(results).encode()
    return contents


def _latex_ranges(results: Results) -> str:
    from bnsweep.analysis.markup import latex_table
    from bnsweep.analysis.summary import HEADER, near_text, range_cells

    several = len(results.ranges) > 1
    header = [cell.format(near=near_text(results.ranges[0])) for cell in HEADER]
    rows = [
        [*([ranges.facet] if several else []), *range_cells(ranges, arm)]
        for ranges in results.ranges
        for arm in ranges.arms
    ]
    first = ["setting"] if several else []
    return latex_table([*first, *header], rows, [False] * len(first) + [False] + [True] * 5)


def _csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV; numbers are written so that they read back exactly."""
    return str(table.to_csv(index=False, lineterminator="\n")).encode()


def _write_all(folder: Place, contents: dict[str, bytes]) -> None:
    if isinstance(folder, ObjectPath):
        for _ in in_parallel(lambda item: (folder / item[0]).write_bytes(item[1]), contents.items()):
            pass
    else:
        for name, content in contents.items():
            _write(folder / name, content)


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(path)


def _remove_stale(folder: Place, contents: dict[str, bytes]) -> None:
    for path in folder.glob("*.*") if folder.is_dir() else ():
        if path.suffix in (".png", ".svg", ".pdf") and f"figures/{path.name}" not in contents:
            path.unlink(missing_ok=True)
