"""The folder of one sweep: whether it is ours, whether it can be written, what is damaged in it."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from bnsweep.errors import LedgerError, StorageError
from bnsweep.sweep.files import clean_scratch, encode_json, link_bytes, read_json, scratch_file
from bnsweep.sweep.lease import EXPIRY_SECONDS, RENEW_SECONDS, Holder, Lease
from bnsweep.sweep.places import ObjectPath, Place, place
from bnsweep.sweep.records import SCHEMA, check_schema, now

__all__ = ["NAME", "SweepFolder", "unreadable"]

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""What names of sweeps and packs match, so that none leads out of its folder."""

_MARKER = "ledger.json"


def unreadable(path: Place, error: OSError) -> LedgerError:
    """Say that a file could not be read now: no reason to mistrust what stands in it."""
    if isinstance(error, LedgerError):
        return error
    return LedgerError(
        f"The ledger's files must be readable, but {path} is not: {error.strerror or error}. Nothing was "
        "changed; mend the cause and try again."
    )


def _foreign(root: Place) -> str:
    return (
        f"The results folder must be empty or a ledger of bnsweep, but {root} holds other files "
        f"and no {_MARKER}. Nothing was changed; choose another storage folder or sweep name."
    )


def check_conditional_writes(root: Place) -> None:
    """Refuse a store that lets two writers believe that each was the first; a folder is none.

    Raises:
        LedgerError: If the store at ``root`` overwrites an object that must not be there.
    """
    if isinstance(root, ObjectPath):
        probe = root / "tmp" / "probe"  # never deleted, so that one request is enough from the second time on
        if probe.create(b"") and probe.create(b""):
            raise LedgerError(
                f"The store of {root} must honour If-None-Match, so that of two writers one wins, but it "
                "wrote one object twice. Use Amazon S3, MinIO or another store with conditional writes, or "
                "a folder."
            )


def _marker(name: str) -> bytes:
    return encode_json({"schema": SCHEMA, "name": name, "id": uuid.uuid4().hex})


class SweepFolder:
    """A folder, or a prefix of a store, that holds a ledger's marker.

    Attributes:
        root: The folder.
        name: The sweep's name.
        id: Tells apart sweeps of one name that different people run; empty where it was made without one.
        warnings: What was found damaged since the ledger was opened, one sentence each.
    """

    def __init__(self, root: Place | str) -> None:
        """Use the existing ledger at ``root``.

        Raises:
            LedgerError: If there is none, or it is not one that this version can use.
        """
        self.root = place(root)
        self.warnings: list[str] = []
        self._lease: Lease | None = None
        self._served: Lease | None = None
        marker = self._read_marker()
        self.name = str(marker["name"])
        self.id = str(marker.get("id", ""))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy in another process has: everything but the right to write, held by one."""
        return {**self.__dict__, "_lease": None, "_served": None}

    @classmethod
    def open(cls, storage: str | Place, name: str, create: bool = False) -> Self:
        """Open the ledger of sweep ``name`` in the folder ``storage``.

        Args:
            storage: Folder, or ``s3://bucket/prefix``, that holds the ledgers of several sweeps.
            name: The sweep's name: lower-case letters, digits and hyphens.
            create: Whether to make it where it is absent, and insist that it can be written.

        Raises:
            LedgerError: If the place cannot be a folder of ours, is not one, or cannot be written.
        """
        if not NAME.fullmatch(name):
            raise LedgerError(
                f"A sweep's name must match {NAME.pattern}, but found {name!r}. Use lower-case letters, "
                "digits and hyphens."
            )
        root = place(storage) / name
        if create:
            check_conditional_writes(root)
            cls._create(root, name)
        ledger = cls(root)
        if create:
            clean_scratch(root / "tmp")
            ledger._check_writable()
        return ledger

    @staticmethod
    def check_place(root: Place) -> None:
        """Check, without writing, that a new ledger could be made at ``root``.

        Raises:
            LedgerError: If something else is there, or nothing could be written there.
        """
        if isinstance(root, ObjectPath):
            if any(path.name != "tmp" for path in root.iterdir()):
                raise LedgerError(_foreign(root))
            return
        existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise LedgerError(
                f"The results folder must be a folder that can be written, but {existing} is none. Choose "
                "another storage folder."
            )
        if root.is_dir() and any(path.name != "tmp" for path in root.iterdir()):
            raise LedgerError(_foreign(root))

    @classmethod
    def _create(cls, root: Place, name: str) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            known = (root / _MARKER).is_file()
            foreign = not known and any(path.name not in ("tmp", _MARKER) for path in root.iterdir())
        except StorageError:
            raise
        except OSError as error:
            raise LedgerError(
                f"The results folder must be a folder that can be written, but {root} cannot be made: "
                f"{error.strerror or error}. Choose another storage folder."
            ) from error
        if foreign:
            raise LedgerError(_foreign(root))
        if not known:
            link_bytes(root / _MARKER, _marker(name), root / "tmp")

    def _read_marker(self) -> dict[str, Any]:
        path = self.root / _MARKER
        try:
            marker = read_json(path)
            check_schema(marker, path)
            if not isinstance(marker["name"], str) or not NAME.fullmatch(marker["name"]):
                raise ValueError(f"its name must match {NAME.pattern}, but is {marker['name']!r:.80}")
            return marker
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LedgerError(
                f"A sweep's folder must hold {_MARKER}, but {self.root} has none: no sweep was run there. "
                "Check the name and the storage folder."
            ) from error
        except StorageError:
            raise
        except (ValueError, KeyError, OSError) as error:
            raise LedgerError(
                f"{path} must be the marker of a ledger, but it cannot be read: {error}. Restore it from a "
                f'backup, or write {{"schema": {SCHEMA}, "name": "{self.root.name}"}} there.'
            ) from error

    @contextmanager
    def exclusive(
        self, wait: float = 0.0, renew: float = RENEW_SECONDS, expiry: float = EXPIRY_SECONDS
    ) -> Iterator[None]:
        """Hold the sweep alone; a process that ends in any way gives it back, or loses it.

        Where another process has taken over meanwhile (this one was stopped for longer than ``expiry``),
        the main thread is interrupted as by Ctrl-C, and leaving raises :class:`LedgerBusyError`.

        Args:
            wait: Seconds to wait for a living holder, as a second attempt of a job does.
            renew: Seconds between two signs of life.
            expiry: Seconds without one after which another process takes over.

        Raises:
            LedgerBusyError: If another process holds it, or has taken over; the message says which.
        """
        check_conditional_writes(self.root)
        lease = Lease(self.root, self.name, renew, expiry)
        lease.take(wait)
        self._lease = lease
        try:
            self.sweep_packs()
            yield
        finally:
            self._lease = None
            with suppress(OSError):  # what workers that were killed meanwhile have left
                clean_scratch(self._scratch)
            lease.release()
            if lease.lost:
                lease.check()

    def sweep_packs(self) -> None:
        """Remove what is left of packs that were being closed; called by who holds the sweep."""

    @property
    def epoch(self) -> int:
        """The epoch of the lease that this process holds; 0 where it holds none."""
        return self._lease.epoch if self._lease else 0

    def holder(self) -> Holder | None:
        """Return who has the sweep, or had it last; ``None`` where nobody ever had."""
        return Lease(self.root, self.name).look()

    def serve(self, epoch: int) -> None:
        """Write for the driver that holds the sweep in ``epoch``, and no longer than it does.

        A worker whose driver was replaced may live on; from then on it can neither write checkpoints nor
        close packs. What it has finished counts: records are equal, whoever writes them.

        Args:
            epoch: The epoch; 0 where nobody holds the sweep.
        """
        self._served = Lease(self.root, self.name) if epoch else None
        if self._served is not None:
            self._served.follow(epoch)

    def _fence(self) -> None:
        """Refuse to write for a driver, or a worker of one, whose lease another one has taken over."""
        lease = self._lease or self._served
        if lease is not None:
            lease.check()

    def _check_writable(self) -> None:
        if isinstance(self.root, ObjectPath):
            return  # the marker and the conditional writes before it say so
        for folder in ("trials", "packs", "tracking"):
            path = self.root / folder
            try:
                path.mkdir(exist_ok=True)
            except OSError as error:
                raise LedgerError(
                    f"The results folder must be writable, but making {path} failed: "
                    f"{error.strerror or error}. Mend the permissions or choose another storage folder."
                ) from error
            if path.is_symlink():
                raise LedgerError(
                    f"The results folder must hold its own {folder}, but {path} is a symbolic link. Make the "
                    "whole sweep's folder a link instead, or remove this one."
                )
        with scratch_file(self._scratch) as (_, file):
            file.write(b"probe")

    @property
    def _scratch(self) -> Place:
        return self.root / "tmp"

    def _make(self, folder: Place) -> Place:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"The results folder must be writable, but making {folder} failed: "
                f"{error.strerror or error}. Free space or mend the permissions, then run again."
            ) from error
        if folder.is_symlink():
            raise LedgerError(
                f"The ledger must hold its own folders, but {folder} is a symbolic link. Remove it, then run "
                "again; nothing was written through it."
            )
        return folder

    def _reject(self, paths: Sequence[Place], what: str, reason: str) -> None:
        """Move damaged files to ``quarantine/`` with the reason, and warn."""
        content = encode_json({"what": what, "reason": reason, "found_at": now()})
        number = 0
        try:
            while True:
                number += 1
                name = f"quarantine/{what.replace(' ', '-')}.{number}"
                folder = self._make(self.root / name)
                if link_bytes(folder / "reason.json", content, self._scratch):
                    break
            for path in paths:
                if path.exists() or path.is_symlink():
                    path.rename(folder / path.name)  # type: ignore[arg-type]
            moved = f"it was moved to {name}"
        except (OSError, LedgerError) as error:
            moved = f"it could not be moved aside ({error})"
        self.warnings.append(f"In {self.root}, {what} is damaged and does not count: {reason}; {moved}.")
