"""The events of a search, one file each, in order: ``search/<sequence>.json``.

What a sampler suggested, what became of it and who was stopped is written down before anything is
done about it. From these files a search is rebuilt as it was, and goes on as if nothing had happened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from bnsweep.errors import LedgerBusyError
from bnsweep.sweep.files import decode_json, encode_json, link_bytes, names_in, read_each
from bnsweep.sweep.places import Place
from bnsweep.sweep.records import SCHEMA, check_schema, now

__all__ = ["SearchLog"]

_NAME = re.compile(r"[0-9]{8}\.json")


class SearchLog:
    """The events of one search, oldest first; each is a mapping with the key ``event``.

    Events: ``begin`` (settings that must not change, and what the sampler knew before), ``suggest``,
    ``rule``, ``rung`` (a report and what was decided), ``ran``, ``end``. Of a sequential sweep:
    ``look`` (what its claims' tests gave at a number of seeds, and whether more are added).

    Args:
        folder: Where they lie.
        scratch: Folder for files that are being written.
        reject: Moves damaged files aside, given them, what they are, and why.
    """

    def __init__(
        self, folder: Place, scratch: Place, reject: Callable[[Sequence[Place], str, str], None]
    ) -> None:
        self.folder, self._scratch, self._reject = folder, scratch, reject
        self._events: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return all events, also those that another process has written since the last look."""
        return iter(self.read())

    def read(self) -> list[dict[str, Any]]:
        """Return all events, oldest first.

        Events after one that is damaged or absent cannot be replayed: they are moved aside with it,
        and the search goes on from there. Finished trials are kept, as records of their own.
        """
        first = len(self._events)
        listed = [number for number in self._numbers() if number >= first]
        paths = [self._path(number) for number in range(first, first + len(listed))]
        for path, content in zip(paths, read_each(paths), strict=True):
            try:
                event = decode_json(content)
                check_schema(event, path)
                self._events.append(event)
            except FileNotFoundError:  # a later one was listed, which was written after it
                if len(self._events) not in self._numbers():
                    self._cut(len(self._events), "an event is absent")
                break  # else a file system shared by machines does not show it to this one yet
            except ValueError as error:
                self._cut(len(self._events), str(error))
                break
        return self._events

    def append(self, event: str, **content: Any) -> dict[str, Any]:
        """Write the next event.

        Raises:
            LedgerBusyError: If another process writes events of this search.
            LedgerError: If the disk refuses.
        """
        entry = {"schema": SCHEMA, "event": event, **content, "written_at": now()}
        with suppress(OSError):  # the write says it
            self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(len(self._events))
        if not link_bytes(path, encode_json(entry), self._scratch):
            raise LedgerBusyError(
                f"A search must be run by one process at a time, but {path} was written by another one. "
                "Wait for it, or stop it."
            )
        self._events.append(entry)
        return entry

    def planned(self) -> list[Mapping[str, Any]]:
        """Return the trials of every suggestion, as a stored plan lists them."""
        return [trial for event in self if event["event"] == "suggest" for trial in event["trials"]]

    @property
    def length(self) -> int:
        """Number of events on the disk, found without reading them."""
        number = len(self._events)
        while self._path(number).is_file():
            number += 1
        return number

    def _path(self, number: int) -> Place:
        return self.folder / f"{number:08d}.json"

    def _numbers(self) -> list[int]:
        return [int(name.partition(".")[0]) for name in names_in(self.folder) if _NAME.fullmatch(name)]

    def _cut(self, first: int, reason: str) -> None:
        found = [self._path(number) for number in sorted(self._numbers()) if number >= first]
        self._reject(found, f"search event {first}", reason)
