"""Where results lie: a folder, or a prefix in an S3 bucket that is used like one.

An :class:`ObjectPath` has those methods of :class:`pathlib.Path` that the ledger needs, with the same
meaning as far as a store without folders has one: every folder exists, and is empty until something
lies in it. It has no path in the file system, so that nothing takes it for one.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from bnsweep.errors import LedgerError
from bnsweep.sweep.object_store import Conflict, Facts, connection, in_parallel

__all__ = ["ObjectPath", "ObjectStat", "Place", "is_url", "local_folder", "local_state", "place", "version"]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class ObjectStat:
    """What :meth:`pathlib.Path.stat` tells, as far as a store knows it.

    Attributes:
        st_size: Size in bytes.
        etag: What differs between two versions.
    """

    st_size: int
    etag: str


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or all objects below a prefix.

    Attributes:
        bucket: Name of the bucket.
        key: The object's key, or the prefix without a slash at its end.
    """

    bucket: str
    key: str = ""

    # -- names -----------------------------------------------------------------------------------

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str | PurePosixPath) -> ObjectPath:
        return ObjectPath(self.bucket, f"{self.key}/{name}".strip("/"))

    def joinpath(self, *names: str) -> ObjectPath:
        """Return what has these names below it, one in the other."""
        return self / "/".join(names)

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's last suffix."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        """What it lies in."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def relative_to(self, other: ObjectPath) -> PurePosixPath:
        """Return the key below ``other``."""
        return PurePosixPath(f"/{self.bucket}/{self.key}").relative_to(f"/{other.bucket}/{other.key}")

    def resolve(self) -> ObjectPath:
        """Return itself: there is one name for it, wherever one is."""
        return self

    absolute = expanduser = resolve

    # -- what is there ---------------------------------------------------------------------------

    def stat(self) -> ObjectStat:
        """Return size and version of an object.

        Raises:
            FileNotFoundError: If it is absent.
        """
        facts = connection().head(self.bucket, self.key)
        return ObjectStat(facts.size, facts.etag)

    def is_file(self) -> bool:
        """Tell whether there is such an object."""
        try:
            return bool(self.stat())
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Tell whether something lies below it."""
        return bool(connection().list(self.bucket, self._below, most=1)[0])

    def exists(self) -> bool:
        """Tell whether it is an object, or something lies below it."""
        return (bool(self.key) and self.is_file()) or self.is_dir()

    def is_symlink(self) -> bool:
        """Tell that a store has no links."""
        return False

    @property
    def _below(self) -> str:
        return f"{self.key}/" if self.key else ""

    def iterdir(self) -> Iterator[ObjectPath]:
        """Return what lies directly in it; nothing where it is absent."""
        yield from self._children("")

    def _children(self, beginning: str) -> Iterator[ObjectPath]:
        objects, folders = connection().list(self.bucket, self._below + beginning, flat=False)
        for key in sorted([facts.key for facts in objects] + [folder.rstrip("/") for folder in folders]):
            if key.strip("/") != self.key:
                yield ObjectPath(self.bucket, key)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Return what matches; a star stands for a part of one name."""
        first, _, rest = pattern.partition("/")
        fixed = re.split(r"[*?\[]", first, maxsplit=1)[0]
        found = [self / first] if fixed == first else list(self._children(fixed))
        found = [child for child in found if fixed == first or fnmatchcase(child.name, first)]
        for child in found:
            if rest:
                yield from child.glob(rest)
            elif fixed != first or child.exists():
                yield child

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """Return every object below it whose name matches."""
        for path in self.walk():
            if fnmatchcase(path.name, pattern):
                yield path

    def walk(self, named: str = "") -> dict[ObjectPath, Facts]:
        """Return every object below it with its size and version.

        Args:
            named: Where there are thousands, return those whose names begin with one of these characters,
                listed side by side.
        """
        objects, _ = connection().list(self.bucket, self._below, goes_on=named)
        return {ObjectPath(self.bucket, facts.key): facts for facts in objects}

    # -- reading and writing ---------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Return an object's bytes.

        Raises:
            FileNotFoundError: If it is absent.
        """
        return connection().get(self.bucket, self.key)

    def read_text(self) -> str:
        """Return an object's text, which is UTF-8."""
        return self.read_bytes().decode()

    def open(self, mode: str = "rb") -> io.BytesIO:
        """Open an object for reading; it is read at once.

        Raises:
            ValueError: If it is to be written: see :meth:`write_bytes`.
        """
        if mode != "rb":
            raise ValueError(f"mode must be rb, but found {mode}")
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, content: bytes) -> int:
        """Write an object in one step, in place of one that is there."""
        connection().put(self.bucket, self.key, content)
        return len(content)

    def write_text(self, text: str) -> int:
        """Write text as UTF-8."""
        return self.write_bytes(text.encode())

    def upload(self, file: BinaryIO) -> None:
        """Write an object of any size from a file on the disk; it appears whole."""
        connection().upload(self.bucket, self.key, file)

    def create(self, content: bytes) -> bool:
        """Write an object unless it is there, and tell whether this call did: the first writer wins."""
        return connection().create(self.bucket, self.key, content)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: there are no folders to make."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete an object.

        Raises:
            FileNotFoundError: If it is absent, unless ``missing_ok``.
        """
        if not missing_ok:
            self.stat()
        connection().delete(self.bucket, self.key)

    def rename(self, target: ObjectPath) -> ObjectPath:
        """Copy an object and delete it; one that is written anew meanwhile stays.

        Raises:
            FileNotFoundError: If it is absent.
        """
        try:
            connection().move(self.bucket, self.key, target.key)
        except Conflict as error:
            raise FileExistsError(17, "Was written anew while it was moved", str(self)) from error
        return target

    def remove_all(self) -> None:
        """Delete every object below it."""
        for _ in in_parallel(lambda path: path.unlink(missing_ok=True), self.walk()):
            pass


Place = Path | ObjectPath


def is_url(text: object) -> bool:
    """Tell whether ``text`` names a store in place of a folder."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(text)))


def place(text: str | PathLike[str] | ObjectPath) -> Place:
    """Return the place that ``text`` names: a folder, or ``s3://bucket/prefix``.

    Raises:
        LedgerError: If it is the address of another kind of store, or a malformed one.

    Example:
        >>> place("results") / "demo", str(place("s3://lab/sweeps/") / "demo")
        (PosixPath('results/demo'), 's3://lab/sweeps/demo')
    """
    if isinstance(text, ObjectPath):
        return text
    if not is_url(text):
        return Path(text).expanduser()
    scheme, _, rest = os.fspath(text).partition(":")
    bucket, _, key = rest.lstrip("/").rstrip("/").partition("/")
    if scheme != "s3":
        raise LedgerError(
            f"storage must be a folder or s3://bucket/prefix, but found {scheme}://. Stores that speak S3's "
            "protocol are reached with AWS_ENDPOINT_URL."
        )
    if not _BUCKET.fullmatch(bucket) or not all(
        part not in ("", ".", "..") for part in key.split("/") if key
    ):
        shown = re.sub(r"^[^/]*@", "***@", f"{bucket}/{key}")
        raise LedgerError(
            f"storage must be s3://bucket/prefix, without empty parts, but found s3://{shown}. A bucket's "
            "name has 3 to 63 lower-case letters, digits, dots and hyphens."
        )
    return ObjectPath(bucket, key)


def version(path: Place) -> int:
    """Return a number that differs whenever a file has been written anew.

    Raises:
        FileNotFoundError: If it is absent.
    """
    if isinstance(path, ObjectPath):
        return int(hashlib.sha256(path.stat().etag.encode()).hexdigest()[:15], 16)
    return path.stat().st_mtime_ns


def local_state(root: ObjectPath) -> Path:
    """Return the folder of this machine for what belongs to a ledger in a store, and can be lost."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "bnsweep" / "s3" / f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"


def local_folder(storage: Place) -> Path:
    """Return the folder on this machine for what cannot lie in a store: ``results`` beside no folder."""
    return storage if isinstance(storage, Path) else Path("results")
