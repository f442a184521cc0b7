"""The trials of a ledger in a store: told from listings, read many at a time.

A listing says which trials have a record, curves of which size, and failures, a thousand objects a
request; where there are more, requests for the 16 beginnings of an id go side by side. Whoever has read
many records one by one leaves them in the store as one more object of an index, so that a sweep of 10 000
trials is not 10 000 requests the next time, wherever that is. The index is never trusted: a text counts
where its MD5 is the version of the record in the listing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import string
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from bnsweep.errors import StorageError
from bnsweep.sweep.files import decode_json
from bnsweep.sweep.object_store import Facts, in_parallel
from bnsweep.sweep.places import ObjectPath, place
from bnsweep.sweep.records import Record, check_trial_id

__all__ = ["StoredTrials"]

_OBJECT = re.compile(r"([0-9a-f]{16})/(record\.json|curves\.parquet|failure\.[0-9]+\.json)")
_RECORD = "record.json"
_WORTH_INDEXING = 128
"""Records that are read one by one before they become an object of the index."""

Listing = dict[str, dict[str, Facts]]


class StoredTrials:
    """The trials below one ledger's root.

    Args:
        root: The ledger's root.
    """

    def __init__(self, root: ObjectPath) -> None:
        self._folder = root / "trials"
        self._index = root / "index"
        self._read: dict[str, str] = {}
        self._looked: Listing | None = None

    def is_file(self, url: str) -> bool:
        """Tell whether there is an object at a URL."""
        return place(url).is_file()

    def size(self, url: str) -> int:
        """Return the size of the object at a URL."""
        return place(url).stat().st_size

    def record(self, trial_id: str) -> Record:
        """Read one record.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged.
        """
        return Record.from_dict(decode_json(self._path(trial_id).read_bytes()))

    def _path(self, trial_id: str) -> ObjectPath:
        return self._folder / check_trial_id(trial_id) / _RECORD

    def listing(self) -> Listing:
        """Return the objects of each trial by name, from one listing."""
        if self._looked is not None:
            return self._looked
        found: Listing = {}
        for path, facts in self._folder.walk(string.hexdigits[:16]).items():
            if match := _OBJECT.fullmatch(str(path.relative_to(self._folder))):
                found.setdefault(match[1], {})[match[2]] = facts
        return found

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Answer what is asked within from one listing; a record is read none the less."""
        before = self._looked
        self._looked = self.listing()
        try:
            yield
        finally:
            self._looked = before

    def failed(self) -> dict[str, int]:
        """Return the number of failed attempts of each trial that has some and no record."""
        counts = {}
        for trial_id, own in sorted(self.listing().items()):
            number = sum(name.startswith("failure.") for name in own)
            if number and _RECORD not in own:
                counts[trial_id] = number
        return counts

    def records(
        self, trial_ids: Iterable[str] | None = None, but: Container[str] = ()
    ) -> Iterator[tuple[str, Record | None]]:
        """Return trials that have a record, of all or of those named, in order of id or as named.

        Args:
            trial_ids: Trials to read; all by default.
            but: Trials to leave out.

        Yields:
            The id, and the record where it is whole and goes with its curves as the listing has them;
            ``None`` where one has to look again, object by object.
        """
        listing = self.listing()
        wanted = sorted(listing) if trial_ids is None else [check_trial_id(each) for each in trial_ids]
        versions = {trial_id: own[_RECORD].etag for trial_id, own in listing.items() if _RECORD in own}
        there = [trial_id for trial_id in wanted if trial_id in versions and trial_id not in but]
        known = self._indexed(versions) if len(there) >= _WORTH_INDEXING else {}

        def read(trial_id: str) -> bytes | None:
            if trial_id in known:
                return known[trial_id].encode()
            with suppress(FileNotFoundError):
                return self._path(trial_id).read_bytes()
            return None

        several = in_parallel if len(there) - len(known) > 1 else map
        for trial_id, text in zip(there, several(read, there), strict=True):
            record = _whole(trial_id, text, listing[trial_id].get("curves.parquet"))
            if record is not None and text is not None and trial_id not in known:
                self._add(trial_id, text, versions[trial_id])
            yield trial_id, record

    def _indexed(self, versions: Mapping[str, str]) -> dict[str, str]:
        """Return the texts of the records that the index has in the version that is there."""
        found: dict[str, str] = {}
        for content in in_parallel(_entries, self._index.glob("*.json.gz")):
            for trial_id, text in content.items():
                if _version(text.encode()) == versions.get(trial_id):
                    found[trial_id] = text
        return found

    def _add(self, trial_id: str, text: bytes, version: str) -> None:
        """Remember a record that was read by itself; many become an object of the index."""
        if _version(text) != version:  # a store that does not name contents by MD5 cannot have an index
            return
        self._read[trial_id] = text.decode()
        if len(self._read) < _WORTH_INDEXING:
            return
        content = gzip.compress(json.dumps(self._read, ensure_ascii=False).encode(), mtime=0)
        name = hashlib.sha256(content).hexdigest()[:16]
        with suppress(OSError, StorageError):  # it saves time, and no more; readers may not write
            (self._index / f"{name}.json.gz").write_bytes(content)
        self._read = {}


def _version(text: bytes) -> str:
    """Return the version that a store gives an object with this text: the quotes belong to it."""
    return f'"{hashlib.md5(text, usedforsecurity=False).hexdigest()}"'


def _entries(path: ObjectPath) -> dict[str, str]:
    """Return the texts in one object of the index; nothing where it is damaged or gone."""
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        return {str(trial_id): str(text) for trial_id, text in content.items()}
    except (OSError, EOFError, zlib.error, ValueError, AttributeError):
        return {}


def _whole(trial_id: str, text: bytes | None, curves: Facts | None) -> Record | None:
    """Return the record that was found, unless something about it is not as it must be."""
    if text is None or curves is None:
        return None
    try:
        record = Record.from_dict(decode_json(text))
    except ValueError:
        return None
    return record if record.trial_id == trial_id and record.curves_bytes == curves.size else None
