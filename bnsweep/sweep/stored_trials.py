"""The trials of a ledger in a store: told from listings, read many at a time, and each once.

A listing says which trials have a record, curves of which size, and failures, a thousand objects a
request. A record is read when its version is not known; those read before are kept on this machine, by
version and with a checksum, so that a sweep of 10 000 trials is not 10 000 requests each time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress

from bnsweep.errors import LedgerError
from bnsweep.sweep.files import decode_json, replace_bytes
from bnsweep.sweep.object_store import Facts, in_parallel
from bnsweep.sweep.places import ObjectPath, local_state, place
from bnsweep.sweep.records import Record, check_trial_id

__all__ = ["StoredTrials"]

_OBJECT = re.compile(r"([0-9a-f]{16})/(record\.json|curves\.parquet|failure\.[0-9]+\.json)")
_RECORD = "record.json"
_WORTH_KEEPING = 64
"""Records read at once from which on they are kept on this machine."""

Listing = dict[str, dict[str, Facts]]


class StoredTrials:
    """The trials below one ledger's root.

    Args:
        root: The ledger's root.
    """

    def __init__(self, root: ObjectPath) -> None:
        self._folder = root / "trials"
        self._cache = local_state(root) / "records"

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
        found: Listing = {}
        for path, facts in self._folder.walk().items():
            if match := _OBJECT.fullmatch(str(path.relative_to(self._folder))):
                found.setdefault(match[1], {})[match[2]] = facts
        return found

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
        kept = self._kept(versions) if len(there) >= _WORTH_KEEPING else {}

        def read(trial_id: str) -> tuple[str, bytes] | None:
            if trial_id in kept:
                return kept[trial_id]
            try:
                content, etag = self._path(trial_id).read_version()
            except FileNotFoundError:
                return None
            return etag, content

        unknown = [trial_id for trial_id in there if trial_id not in kept]
        several = in_parallel if len(unknown) > 1 else map
        for trial_id, found in zip(there, several(read, there), strict=True):
            record = _whole(trial_id, found, listing[trial_id].get("curves.parquet"))
            if record is not None and found is not None:
                kept[trial_id] = found
            yield trial_id, record
        if len(unknown) >= _WORTH_KEEPING:
            self._keep(kept)

    def _kept(self, versions: Mapping[str, str]) -> dict[str, tuple[str, bytes]]:
        """Return version and text of the records that were kept on this machine and are still the same."""
        try:
            digest, text = self._cache.read_bytes().split(b"\n", 1)
            if hashlib.sha256(text).hexdigest().encode() != digest:
                return {}
            content = json.loads(text)
            return {
                trial_id: (etag, record.encode())
                for trial_id, (etag, record) in content.items()
                if versions.get(trial_id) == etag
            }
        except (OSError, ValueError, AttributeError):
            return {}

    def _keep(self, kept: Mapping[str, tuple[str, bytes]]) -> None:
        content = {trial_id: (etag, text.decode()) for trial_id, (etag, text) in kept.items()}
        text = json.dumps(content, ensure_ascii=False).encode()
        with suppress(OSError, LedgerError):  # it saves time, and no more
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(
                self._cache,
                hashlib.sha256(text).hexdigest().encode() + b"\n" + text,
                self._cache.parent / "tmp",
            )


def _whole(trial_id: str, found: tuple[str, bytes] | None, curves: Facts | None) -> Record | None:
    """Return the record that was found, unless something about it is not as it must be."""
    if found is None or curves is None:
        return None
    try:
        record = Record.from_dict(decode_json(found[1]))
    except ValueError:
        return None
    return record if record.trial_id == trial_id and record.curves_bytes == curves.size else None
