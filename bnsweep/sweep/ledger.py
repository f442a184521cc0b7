"""The ledger: the folder of files that says which trials of a sweep are done.

It is the only truth: everything else (MLflow, reports, Ray Tune's memory) can be thrown away and
made again from it. The folder is one on a disk, or a prefix in an S3 bucket. Records are immutable and
committed in one step; what is torn or foreign is moved to ``quarantine/`` with the reason, never
trusted. Files name each other by relative paths, so that the folder can be moved. The classes that this one
is made of are the only ones that know where things lie.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from bnsweep.errors import StorageError
from bnsweep.sweep.curves import (
    decode_table,
    encode_curves,
    join_tables,
    keep_rows,
    same_values,
    stack_tables,
)
from bnsweep.sweep.files import encode_json, link_bytes, names_in, read_each, read_json, replace_bytes
from bnsweep.sweep.folder import unreadable
from bnsweep.sweep.object_store import in_parallel
from bnsweep.sweep.places import ObjectPath, Place
from bnsweep.sweep.records import SCHEMA, Record, check_trial_id, now
from bnsweep.sweep.stored_trials import StoredTrials
from bnsweep.sweep.sweep_files import SweepFiles

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Ledger"]

_JOINED = 256
"""Curve files that are joined before what is not asked for is dropped: one by one would be slow, all at
once would hold every reading of the sweep."""

_IS_TRIAL = re.compile(r"[0-9a-f]{16}").fullmatch


class Ledger(SweepFiles):
    """One sweep's folder; make one with :meth:`open`."""

    def __init__(self, root: Place | str) -> None:
        """Use the existing ledger at ``root``.

        Raises:
            LedgerError: If there is none, or it is not one that this version can use.
        """
        super().__init__(root)
        self._done: set[str] = set()
        self._stored = StoredTrials(self.root) if isinstance(self.root, ObjectPath) else None

    def _trial(self, trial_id: str) -> Place:
        return self.root / "trials" / check_trial_id(trial_id)

    def write_record(self, record: Record, curves: Iterable[Sequence[Any]]) -> bool:
        """Commit a finished trial: its curves, then its record; the first writer wins.

        Args:
            record: The outcome; the hash of the curves is filled in here.
            curves: Rows like :class:`CurveRow`, in any order; repeated ones count once.

        Returns:
            Whether this call committed it; ``False`` where a record was there already.

        Raises:
            ValueError: If the record or a row is not well formed.
            LedgerError: If the disk refuses.
        """
        record.check()
        folder = self._trial(record.trial_id)
        if (folder / "record.json").is_file():
            return False
        content = encode_curves(curves)
        self._make(folder)
        path = folder / "curves.parquet"
        if not link_bytes(path, content, self._scratch):
            left = path.read_bytes()
            if same_values(left, content):
                content = left
            else:
                replace_bytes(path, content, self._scratch)
        digest = hashlib.sha256(content).hexdigest()
        done = replace(record, curves_sha256=digest, curves_bytes=len(content))
        return link_bytes(folder / "record.json", encode_json(done.to_dict()), self._scratch)

    def write_records(self, finished: Iterable[tuple[Record, Iterable[Sequence[Any]]]]) -> None:
        """Commit many finished trials: into a store, several at once; see :meth:`write_record`."""
        in_turn = map if self._stored is None else in_parallel
        for _ in in_turn(lambda item: self.write_record(*item), finished):
            pass

    def record(self, trial_id: str) -> Record | None:
        """Return a trial's record, or ``None`` where it is pending; a torn one is moved aside.

        Raises:
            LedgerError: If a newer version of bnsweep wrote it.
        """
        folder = f"{self.root}/trials/{check_trial_id(trial_id)}"  # text: 10 000 of these are read at once
        there = os.path.isfile if self._stored is None else self._stored.is_file
        for look in (1, 2):
            try:
                return self._read_record(folder, trial_id)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not there(f"{folder}/record.json"):
                    return None
                reason = f"its curves are absent ({error.strerror})"
            except ValueError as error:
                reason = str(error)
            except OSError as error:
                raise unreadable(self._trial(trial_id), error) from error
            if (
                look == 1
            ):  # a file system shared by machines may show a file of before: look at the folder anew
                names_in(self._trial(trial_id))
        self._reject_trial(trial_id, reason)
        return None

    def _read_record(self, folder: str, trial_id: str) -> Record:
        """Return a trial's record if it is whole and goes with its curves."""
        if self._stored is None:
            record = Record.from_dict(read_json(f"{folder}/record.json"))
        else:
            record = self._stored.record(trial_id)
        if record.trial_id != trial_id:
            raise ValueError(f"it is the record of {record.trial_id}")
        path = f"{folder}/curves.parquet"
        found = os.stat(path).st_size if self._stored is None else self._stored.size(path)
        if found != record.curves_bytes:
            raise ValueError(f"its curves must have {record.curves_bytes} bytes, but have {found}")
        return record

    def trial_ids(self) -> list[str]:
        """Return the ids of all trials of which there is a folder, sorted."""
        return sorted(filter(_IS_TRIAL, names_in(self.root / "trials")))

    def records(self, trial_ids: Iterable[str] | None = None) -> Iterator[Record]:
        """Return the records of finished trials, of all or of those named, in order of id or as named."""
        yield from self._records(trial_ids)

    def _records(self, trial_ids: Iterable[str] | None = None, but: Container[str] = ()) -> Iterator[Record]:
        """Return the records of :meth:`records` but of the trials in ``but``."""
        found: Iterable[tuple[str, Record | None]]
        if self._stored is not None:
            found = self._stored.records(trial_ids, but)
        else:
            ids = self.trial_ids() if trial_ids is None else trial_ids
            found = ((trial_id, None) for trial_id in ids if trial_id not in but)
        for trial_id, known in found:
            record = known or self.record(trial_id)
            if record is not None:
                yield record

    def one_look(self) -> AbstractContextManager[None]:
        """Return what makes one listing of a store answer all that is asked within; nothing for a folder."""
        return nullcontext() if self._stored is None else self._stored.one_look()

    def done(self) -> set[str]:
        """Return the ids of the trials with a whole record; a call after the first reads new ones only."""
        for record in self._records(but=self._done):
            self._done.add(record.trial_id)
        return set(self._done)

    def _curve_bytes(self, record: Record, content: bytes | OSError) -> bytes | None:
        """Return a trial's curve file if it verifies; a damaged one makes the trial pending."""
        if isinstance(content, FileNotFoundError):
            self._reject_trial(record.trial_id, "its curves are absent")
            return None
        if isinstance(content, OSError):
            raise unreadable(self._trial(record.trial_id), content) from content
        if hashlib.sha256(content).hexdigest() != record.curves_sha256:
            self._reject_trial(record.trial_id, "the SHA-256 of its curves differs from the record's")
            return None
        return content

    def curves(self, trial_id: str) -> pyarrow.Table | None:
        """Return a finished trial's readings with the columns of :class:`CurveRow`, by step.

        Returns:
            The table, or ``None`` where the trial is pending; damaged curves make it so.
        """
        record = self.record(trial_id)
        return None if record is None else self.curves_of(record)

    def curves_of(self, record: Record) -> pyarrow.Table | None:
        """Return the readings of a record that was just read; see :meth:`curves`."""
        ((_, content),) = self._all_curve_bytes([record])
        return None if content is None else decode_table(content)

    def _all_curve_bytes(self, records: Sequence[Record]) -> Iterator[tuple[str, bytes | None]]:
        """Return the verified curve file of each record; see :meth:`_curve_bytes`."""
        paths = [self._trial(record.trial_id) / "curves.parquet" for record in records]
        for record, content in zip(records, read_each(paths), strict=True):
            yield record.trial_id, self._curve_bytes(record, content)

    def curve_file(self, trial_id: str) -> Place:
        """Return where a trial's curves lie."""
        return self._trial(trial_id) / "curves.parquet"

    def read_all_curves(
        self,
        trial_ids: Iterable[str] | None = None,
        names: Sequence[str] | None = None,
        layers: bool = True,
    ) -> pyarrow.Table:
        """Return the readings of many trials as one table.

        Args:
            trial_ids: Trials to read; all finished ones by default. Pending ones are left out.
            names: Readings to keep; all by default.
            layers: Whether to keep readings of single layers beside those of the network.

        Returns:
            Columns ``trial_id`` and those of :class:`CurveRow`; ``trial_id`` and ``name`` are
            dictionary-encoded.
        """
        parts = [join_tables({})]
        records = self.records(trial_ids)
        while some := list(islice(records, _JOINED)):
            found = self._all_curve_bytes(some)
            tables = {trial_id: decode_table(content) for trial_id, content in found if content is not None}
            part = join_tables(tables)
            parts.append(keep_rows(part, names, layers))
        return stack_tables(parts)

    def write_failure(self, trial_id: str, traceback: str, **details: Any) -> int:
        """Store a failed attempt.

        Args:
            trial_id: The trial.
            traceback: The error as text.
            details: Anything of use: ``attempt``, ``cause``, ``step``, ``environment``.

        Returns:
            The number of this failure, from 1.

        Raises:
            LedgerBusyError: If another process has taken over the sweep.
        """
        self._fence()
        folder = self._make(self._trial(trial_id))
        content = {**details, "schema": SCHEMA, "trial_id": trial_id, "traceback": traceback}
        content.setdefault("written_at", now())
        number = 1
        while not link_bytes(folder / f"failure.{number}.json", encode_json(content), self._scratch):
            number += 1
        return number

    def failures(self, trial_id: str) -> list[dict[str, Any]]:
        """Return a trial's failed attempts, oldest first; damaged files are left out with a warning."""
        found = []
        for path in self._trial(trial_id).glob("failure.*.json"):
            try:
                found.append((int(path.name.split(".")[1]), read_json(path)))
            except StorageError:
                raise
            except (ValueError, OSError) as error:
                self.warnings.append(f"{path} was left out: {error}")
        return [content for _, content in sorted(found, key=lambda pair: pair[0])]

    def failed(self) -> dict[str, int]:
        """Return the number of failed attempts of each trial that has some and no record."""
        if self._stored is not None:
            return self._stored.failed()
        counts = {}
        for trial_id in self.trial_ids():
            folder = f"{self.root}/trials/{trial_id}"
            if os.path.exists(f"{folder}/record.json"):
                continue
            names = os.listdir(folder) if os.path.isdir(folder) else []
            number = sum(name.startswith("failure.") and name.endswith(".json") for name in names)
            if number:
                counts[trial_id] = number
        return counts

    def _reject_trial(self, trial_id: str, reason: str) -> None:
        folder = self._trial(trial_id)
        self._done.discard(trial_id)
        self._reject([folder / "record.json", folder / "curves.parquet"], f"trial {trial_id}", reason)
