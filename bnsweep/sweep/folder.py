"""The folder of one sweep: whether it is ours, whether it can be written, what is damaged in it."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from bnsweep.errors import LedgerError
from bnsweep.sweep.files import clean_scratch, encode_json, link_bytes, read_json, replace_bytes, scratch_file
from bnsweep.sweep.lease import EXPIRY_SECONDS, RENEW_SECONDS, Lease
from bnsweep.sweep.records import SCHEMA, check_schema, now

__all__ = ["NAME", "SweepFolder", "unreadable"]

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""What names of sweeps and packs match, so that none leads out of its folder."""

_MARKER = "ledger.json"


def unreadable(path: Path, error: OSError) -> LedgerError:
    """Say that a file could not be read now: no reason to mistrust what stands in it."""
    return LedgerError(
        f"The ledger's files must be readable, but {path} is not: {error.strerror or error}. Nothing was "
        "changed; mend the cause and try again."
    )


def _foreign(root: Path) -> str:
    return (
        f"The results folder must be empty or a ledger of bnsweep, but {root} holds other files "
        f"and no {_MARKER}. Nothing was changed; choose another storage folder or sweep name."
    )


def _marker(name: str) -> bytes:
    return encode_json({"schema": SCHEMA, "name": name, "id": uuid.uuid4().hex})


class SweepFolder:
    """A folder that holds a ledger's marker.

    Attributes:
        root: The folder.
        name: The sweep's name.
        id: Tells apart sweeps of one name that different people run; empty where it was made without one.
        warnings: What was found damaged since the ledger was opened, one sentence each.
    """

    def __init__(self, root: Path | str) -> None:
        """Use the existing ledger at ``root``.

        Raises:
            LedgerError: If there is none, or it is not one that this version can use.
        """
        self.root = Path(root)
        self.warnings: list[str] = []
        self._lease: Lease | None = None
        marker = self._read_marker()
        self.name = str(marker["name"])
        self.id = str(marker.get("id", ""))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy in another process has: everything but the right to write, held by one."""
        return {**self.__dict__, "_lease": None}

    @classmethod
    def open(cls, storage: str | Path, name: str, create: bool = False) -> Self:
        """Open the ledger of sweep ``name`` in the folder ``storage``.

        Args:
            storage: Folder that holds the ledgers of several sweeps.
            name: The sweep's name: lower-case letters, digits and hyphens.
            create: Whether to make it where it is absent, and insist that it can be written.

        Raises:
            LedgerError: If the place cannot be a folder of ours, is not one, or cannot be written.
        """
        if "://" in str(storage):
            raise LedgerError(
                f"storage must be a folder, but found {storage}: s3 and other remote stores are not "
                "supported yet. Name a folder that driver and workers share, such as results."
            )
        if not NAME.fullmatch(name):
            raise LedgerError(
                f"A sweep's name must match {NAME.pattern}, but found {name!r}. Use lower-case letters, "
                "digits and hyphens."
            )
        root = Path(storage).expanduser() / name
        if create:
            cls._create(root, name)
        ledger = cls(root)
        if create:
            clean_scratch(root / "tmp")
            ledger._check_writable()
        return ledger

    @staticmethod
    def check_place(root: Path) -> None:
        """Check, without writing, that a new ledger could be made at ``root``.

        Raises:
            LedgerError: If something else is there, or nothing could be written there.
        """
        existing = next(place for place in (root, *root.absolute().parents) if place.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise LedgerError(
                f"The results folder must be a folder that can be written, but {existing} is none. Choose "
                "another storage folder."
            )
        if root.is_dir() and any(path.name != "tmp" for path in root.iterdir()):
            raise LedgerError(_foreign(root))

    @classmethod
    def _create(cls, root: Path, name: str) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            foreign = not (root / _MARKER).exists() and any(path.name != "tmp" for path in root.iterdir())
        except OSError as error:
            raise LedgerError(
                f"The results folder must be a folder that can be written, but {root} cannot be made: "
                f"{error.strerror or error}. Choose another storage folder."
            ) from error
        if foreign:
            raise LedgerError(_foreign(root))
        if not (root / _MARKER).exists():
            link_bytes(root / _MARKER, _marker(name), root / "tmp")

    def _read_marker(self) -> dict[str, Any]:
        path = self.root / _MARKER
        try:
            marker = read_json(path)
            check_schema(marker, path)
            _ = marker["name"]
            return marker
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LedgerError(
                f"A sweep's folder must hold {_MARKER}, but {self.root} has none: no sweep was run there. "
                "Check the name and the storage folder."
            ) from error
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
        lease = Lease(self.root, self.name, renew, expiry)
        lease.take(wait)
        self._lease = lease
        try:
            yield
        finally:
            self._lease = None
            lease.release()
            if lease.lost:
                lease.check()

    def _fence(self) -> None:
        """Refuse to write for a driver whose lease another one has taken over; workers hold none."""
        if self._lease is not None:
            self._lease.check()

    def _check_writable(self) -> None:
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
    def _scratch(self) -> Path:
        return self.root / "tmp"

    def _make(self, folder: Path) -> Path:
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

    def _reject(self, paths: Sequence[Path], what: str, reason: str) -> None:
        """Move damaged files to ``quarantine/`` with the reason, and warn."""
        place = what.replace(" ", "-")
        number = 1
        try:
            while (self.root / "quarantine" / f"{place}.{number}").exists():
                number += 1
            folder = self._make(self.root / "quarantine" / f"{place}.{number}")
            for path in paths:
                if path.exists() or path.is_symlink():
                    path.rename(folder / path.name)
            content = {"what": what, "reason": reason, "found_at": now()}
            replace_bytes(folder / "reason.json", encode_json(content), self._scratch)
            moved = f"it was moved to {folder.relative_to(self.root)}"
        except (OSError, LedgerError) as error:
            moved = f"it could not be moved aside ({error})"
        self.warnings.append(f"In {self.root}, {what} is damaged and does not count: {reason}; {moved}.")
