"""Writing files so that a reader, or the next start, sees all of one or nothing of it.

A file is written under another name in a scratch folder of the same file system, flushed to the
disk, and then given its name in one step; the folder that names it is flushed too. A process that
is killed leaves at most a file in the scratch folder, which the next start removes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bnsweep.errors import LedgerError

__all__ = [
    "clean_scratch",
    "digest_file",
    "encode_json",
    "link_bytes",
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


def read_json(path: Path | str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: If the file does not hold one whole JSON object.
        OSError: If the file cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            content = json.loads(file.read())
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"must hold a JSON object, but holds a {type(content).__name__}")
    return content


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
def scratch_file(scratch: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a new file of this process to write to; it is removed at the end unless it was moved.

    Args:
        scratch: Folder for such files, made where absent.

    Yields:
        The file's path, and the file open for writing; call :func:`seal` through the writers
        below, which flush it before they name it.

    Raises:
        LedgerError: If the disk refuses.
    """
    path = scratch / f"{_HOST}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        scratch.mkdir(exist_ok=True)
        with path.open("xb") as file:
            yield path, file
    except OSError as error:
        raise LedgerError(
            f"The results folder must be writable, but writing in {scratch.parent} failed: "
            f"{error.strerror or error}. Free space or mend the permissions, then run again."
        ) from error
    finally:
        path.unlink(missing_ok=True)


def _fill(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def replace_bytes(target: Path, content: bytes, scratch: Path) -> None:
    """Give ``target`` new contents: a reader sees the old ones or the new ones, whole.

    Raises:
        LedgerError: If the disk refuses.
    """
    with scratch_file(scratch) as (path, file):
        _fill(file, content)
        path.replace(target)
        sync_folder(target.parent)


def link_bytes(target: Path, content: bytes, scratch: Path) -> bool:
    """Create ``target`` with ``content`` unless it exists already: the first writer wins.

    Returns:
        Whether this call created it.

    Raises:
        LedgerError: If the disk refuses.
    """
    with scratch_file(scratch) as (path, file):
        _fill(file, content)
        try:
            os.link(path, target)
        except FileExistsError:
            return False
        sync_folder(target.parent)
        return True


def clean_scratch(scratch: Path) -> int:
    """Remove what killed processes of this host left in the scratch folder.

    Returns:
        The number of files removed. Files of live processes and of other hosts stay.
    """
    removed = 0
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


def remove_folder(folder: Path, scratch: Path) -> None:
    """Remove a folder with all it holds, in one step as far as readers can see."""
    scratch.mkdir(exist_ok=True)
    doomed = scratch / f"{_HOST}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def as_mapping(content: object, what: str) -> Mapping[str, Any]:
    """Return ``content`` if it is a mapping with text keys.

    Raises:
        ValueError: If it is not, naming ``what``.
    """
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{what} must be a mapping with text keys")
    return content
