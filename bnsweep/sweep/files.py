"""Writing files so that a reader, or the next start, sees all of one or nothing of it.

In a folder, a file is written under another name in a scratch folder of the same file system, flushed
to the disk, and then given its name in one step; the folder that names it is flushed too. A process that
is killed leaves at most a file in the scratch folder, which the next start removes. In an object store a
file appears whole or not at all by itself, and the store decides who was first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from bnsweep.errors import LedgerError
from bnsweep.sweep.object_store import in_parallel
from bnsweep.sweep.places import ObjectPath, Place

__all__ = [
    "clean_scratch",
    "decode_json",
    "digest_file",
    "encode_json",
    "link_bytes",
    "move_file",
    "names_in",
    "on_disk",
    "read_each",
    "read_json",
    "remove_folder",
    "replace_bytes",
    "scratch_file",
    "sync_folder",
]

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def encode_json(content: object) -> bytes:
    """Return ``content`` as UTF-8 JSON for people and machines: indented, no NaN or infinity.

    Raises:
        ValueError: If a number in it is not finite.
        TypeError: If something in it has no JSON form.
    """
    return (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_json(path: Place | str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: If the file does not hold one whole JSON object.
        OSError: If the file cannot be read.
    """
    if isinstance(path, ObjectPath):
        return decode_json(path.read_bytes())
    with open(path, "rb", buffering=0) as file:
        return decode_json(file.read())


def decode_json(text: bytes | OSError) -> dict[str, Any]:
    """Return the JSON object in a file's bytes; see :func:`read_json`.

    Args:
        text: The bytes, or the error that reading them met, which is raised.
    """
    if isinstance(text, OSError):
        raise text
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"must hold a JSON object, but holds a {type(content).__name__}")
    return content


def read_each(paths: Iterable[Place]) -> Iterator[bytes | OSError]:
    """Return the bytes of many files in order, or the error that reading one met; of a store in parallel."""

    def read(path: Place) -> bytes | OSError:
        try:
            return path.read_bytes()
        except OSError as error:
            return error

    paths = list(paths)
    if len(paths) > 1 and isinstance(paths[0], ObjectPath):
        yield from in_parallel(read, paths)
    else:
        yield from map(read, paths)


def names_in(folder: Place) -> list[str]:
    """Return the names of what lies in a folder, in no order; none where there is no such folder."""
    if isinstance(folder, ObjectPath):
        return [path.name for path in folder.iterdir()]
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def on_disk(path: Place) -> Iterator[Path]:
    """Give a file or folder as one on the disk, for programs that take a path; a store's is copied.

    Yields:
        A path with the same name.
    """
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bnsweep-") as folder:
        copy = Path(folder) / path.name
        inside = list(path.walk())
        targets = [copy / str(each.relative_to(path)) for each in inside] or [copy]
        for target, content in zip(targets, read_each(inside or [path]), strict=True):
            if isinstance(content, OSError):
                raise content
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        yield copy


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def scratch_file(scratch: Place) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a new file of this process to write to; it is removed at the end unless it was moved.

    Args:
        scratch: Folder for such files, made where absent; for a store, a temporary file of this machine
            takes its place.

    Yields:
        The file's path, and the file open for writing; flush it before :func:`move_file`.

    Raises:
        LedgerError: If the disk refuses.
    """
    where = scratch if isinstance(scratch, Path) else Path(tempfile.gettempdir())
    path = where / f"{_HOST}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        where.mkdir(exist_ok=True)
        with path.open("xb") as file:
            yield path, file
    except LedgerError:
        raise
    except OSError as error:
        raise _refused(f"writing in {where.parent}", error) from error
    finally:
        with suppress(OSError):  # what cannot be removed now goes with the next process that starts
            path.unlink(missing_ok=True)


def _refused(what: str, error: OSError) -> LedgerError:
    return LedgerError(
        f"The results folder must be writable, but {what} failed: {error.strerror or error}. Free space or "
        "mend the permissions, then run again."
    )


def _fill(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def move_file(path: Path, target: Place) -> None:
    """Give a scratch file that was flushed its name, in place of a file that has it."""
    if isinstance(target, ObjectPath):
        with path.open("rb") as file:
            target.upload(file)
    else:
        path.replace(target)
        sync_folder(target.parent)


def replace_bytes(target: Place, content: bytes, scratch: Place) -> None:
    """Give ``target`` new contents: a reader sees the old ones or the new ones, whole.

    Raises:
        LedgerError: If the disk or the store refuses.
    """
    if isinstance(target, ObjectPath):
        target.write_bytes(content)
        return
    with scratch_file(scratch) as (path, file):
        _fill(file, content)
        move_file(path, target)


def link_bytes(target: Place, content: bytes, scratch: Place) -> bool:
    """Create ``target`` with ``content`` unless it exists already: the first writer wins.

    Returns:
        Whether this call created it, also where the answer to that was lost on the way.

    Raises:
        LedgerError: If the disk or the store refuses.
    """
    if isinstance(target, ObjectPath):
        return target.create(content)
    with scratch_file(scratch) as (path, file):
        _fill(file, content)
        try:
            os.link(path, target)
        except FileExistsError:
            if not _same_file(path, target):
                return False
        sync_folder(target.parent)
        return True


def _same_file(path: Path, target: Path) -> bool:
    """Tell whether a link that is said to exist is our own: NFS repeats a request whose answer was lost."""
    try:
        return os.path.samefile(path, target)
    except FileNotFoundError:
        return False


def clean_scratch(scratch: Place) -> int:
    """Remove what killed processes of this host left in the scratch folder.

    Returns:
        The number of files removed. Files of live processes and of other hosts stay.
    """
    removed = 0
    if isinstance(scratch, ObjectPath):
        return removed  # nothing is ever written there
    for path in scratch.glob("*.*.*") if scratch.is_dir() else ():
        host, process, _ = path.name.split(".", 2)
        if host == _HOST and process.isdigit() and not _is_alive(int(process)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed += 1
    return removed


def _is_alive(process: int) -> bool:
    """Tell whether a process of this host exists, whoever owns it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def remove_folder(folder: Place, scratch: Place, first: str) -> None:
    """Remove a folder with all it holds, in one step as far as readers can see.

    Args:
        folder: The folder.
        scratch: Folder for what is being removed, on the same file system.
        first: The file in it without which readers see no such folder; a store has no other way to
            remove several objects at once than to remove that one first.

    Raises:
        LedgerError: If the disk or the store refuses.
    """
    if isinstance(folder, ObjectPath):
        (folder / first).unlink(missing_ok=True)
        folder.remove_all()
        return
    assert isinstance(scratch, Path)
    doomed = scratch / f"{_HOST}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        scratch.mkdir(exist_ok=True)
        folder.rename(doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(f"removing {folder}", error) from error
    shutil.rmtree(doomed, ignore_errors=True)


def as_mapping(content: object, what: str) -> Mapping[str, Any]:
    """Return ``content`` if it is a mapping with text keys.

    Raises:
        ValueError: If it is not, naming ``what``.
    """
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{what} must be a mapping with text keys")
    return content
