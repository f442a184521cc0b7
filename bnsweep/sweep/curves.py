"""Readings by step and layer as Parquet files: how rows become a file, and files one table.

A row is a :class:`CurveRow`. Of two rows with the same step, name and layer the first counts: a
step that is done again after an interruption keeps the time at which it was first read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "CurveRow",
    "decode_table",
    "encode_curves",
    "encode_sealed",
    "first_rows",
    "join_tables",
    "keep_rows",
    "rows_of",
    "same_values",
    "stack_tables",
]


class CurveRow(NamedTuple):
    """One reading.

    Attributes:
        step: Optimizer updates done when it was taken.
        name: Its name, such as ``ics/l2``.
        layer: 1-based weight layer; 0 for a reading of the whole network.
        value: The value; may be NaN or infinite.
        time_ms: When it was taken, in milliseconds since 1970.
    """

    step: int
    name: str
    layer: int
    value: float
    time_ms: int


def first_rows(rows: Iterable[Sequence[Any]]) -> list[CurveRow]:
    """Drop every row whose step, name and layer were there before; order by step, else as given.

    Example:
        >>> rows = [(1, "a", 0, 0.5, 10), (0, "a", 0, 0.7, 5), (1, "a", 0, 0.5, 99)]
        >>> [(row.step, row.time_ms) for row in first_rows(rows)]
        [(0, 5), (1, 10)]
    """
    kept: dict[tuple[int, str, int], CurveRow] = {}
    for step, name, layer, value, time_ms in rows:
        kept.setdefault((step, name, layer), CurveRow(step, name, layer, value, time_ms))
    return sorted(kept.values(), key=lambda row: row.step)


def _columns(rows: Sequence[CurveRow]) -> dict[str, pyarrow.Array]:
    import pyarrow

    steps, names, layers, values, times = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return {
        "step": pyarrow.array(steps, pyarrow.int32()),
        "name": pyarrow.array(names, pyarrow.string()).dictionary_encode(),
        "layer": pyarrow.array(layers, pyarrow.int16()),
        "value": pyarrow.array([float(value) for value in values], pyarrow.float64()),
        "time_ms": pyarrow.array(times, pyarrow.int64()),
    }


def _encode(columns: Mapping[str, pyarrow.Array]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(
        pyarrow.table(dict(columns)), sink, compression="zstd", write_statistics=False, store_schema=True
    )
    return bytes(sink.getvalue())


def encode_curves(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return one trial's readings as a Parquet file: first rows only, by step.

    Raises:
        ValueError: If a row does not have the five fields of :class:`CurveRow`, of its kinds.
    """
    try:
        return _encode(_columns(first_rows(rows)))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a curve row must be (step, name, layer, value, time_ms): {error}") from error


def encode_sealed(rows: Mapping[str, Sequence[CurveRow]]) -> bytes:
    """Return the readings of a pack's trials as a Parquet file with a ``trial_id`` column."""
    import pyarrow

    trials = [trial_id for trial_id, own in rows.items() for _ in own]
    columns = _columns([row for own in rows.values() for row in own])
    return _encode({"trial_id": pyarrow.array(trials, pyarrow.string()).dictionary_encode()} | columns)


def decode_table(content: bytes, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """Return the table in the bytes of a Parquet file.

    Raises:
        ValueError: If the bytes are not a whole Parquet file with the columns of a curve.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(pyarrow.BufferReader(content)).read(columns, use_threads=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"is not a whole Parquet file: {error}") from error
    missing = set(columns or CurveRow._fields) - set(table.column_names)
    if missing:
        raise ValueError(f"lacks the columns {', '.join(sorted(missing))}")
    return table


def rows_of(table: pyarrow.Table) -> Iterator[CurveRow]:
    """Return the rows of a curve table in order."""
    return map(CurveRow._make, zip(*(table[name].to_pylist() for name in CurveRow._fields), strict=True))


def keep_rows(table: pyarrow.Table, names: Sequence[str] | None, layers: bool) -> pyarrow.Table:
    """Return the rows of a curve table that are asked for.

    Args:
        table: The table.
        names: Readings to keep; ``None``: all.
        layers: Whether to keep readings of single layers.
    """
    import pyarrow
    from pyarrow import compute

    if names is not None:
        table = table.filter(compute.is_in(table["name"], pyarrow.array(list(names), pyarrow.string())))
    return table if layers else table.filter(compute.equal(table["layer"], 0))


def join_tables(tables: Mapping[str, pyarrow.Table]) -> pyarrow.Table:
    """Return curve tables of several trials as one, with a dictionary-encoded ``trial_id`` first."""
    import numpy as np
    import pyarrow

    if not tables:
        return decode_table(encode_sealed({}))
    lengths = [len(table) for table in tables.values()]
    codes = np.repeat(np.arange(len(tables), dtype=np.int32), lengths)
    trials = pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array(list(tables)))
    return stack_tables(list(tables.values())).add_column(0, "trial_id", trials)


def stack_tables(tables: Sequence[pyarrow.Table]) -> pyarrow.Table:
    """Return tables with the same columns, one below the other."""
    import pyarrow

    return pyarrow.concat_tables(tables).unify_dictionaries().combine_chunks()


def same_values(one: bytes, other: bytes) -> bool:
    """Tell whether two curve files hold the same readings, whenever these were taken."""
    columns = ("step", "name", "layer", "value")
    try:
        first, second = (repr(decode_table(content, columns).to_pydict()) for content in (one, other))
    except ValueError:
        return False
    return first == second
