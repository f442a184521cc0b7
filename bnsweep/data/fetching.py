"""Getting files onto this machine: whole, the published ones, and into the right place.

A download goes into a folder of its own and is moved into place when it is whole, so that an
interrupted one leaves nothing that looks like data.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from bnsweep.errors import DataError

__all__ = ["check_md5", "default_root", "fetch", "file_md5", "unpack"]

DOWNLOAD_TIMEOUT = 10.0
"""Seconds without an answer after which a download is given up."""


def default_root() -> Path:
    """Return where data sets are kept: ``$BNSWEEP_DATA``, else ``~/.cache/bnsweep/data``."""
    given = os.environ.get("BNSWEEP_DATA")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "bnsweep" / "data"


def fetch(name: str, download: Callable[[Path], object], root: Path, folder: str, how: str) -> None:
    """Download a data set and move its folder into place.

    Args:
        name: The data set, for the message.
        download: Downloads it under the folder it is given.
        root: Folder of the data sets.
        folder: What the download makes, and what is moved, relative to ``root``.
        how: What the user can do where there is no network, for the message.

    Raises:
        DataError: If it cannot be downloaded, or ``root`` cannot be written to.
    """
    timeout = socket.getdefaulttimeout()
    with _staging(root) as staging:
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        try:
            download(staging)
        except (OSError, RuntimeError, EOFError, ValueError, HTTPException, tarfile.TarError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"the data set {name} must be in {root / folder}, but is not there, and could not be "
                f"downloaded ({reason}); {how}; the folder {root} is $BNSWEEP_DATA where that is set"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
        _move(staging / folder, root / folder)


def unpack(archive: Path, md5: str, folder: str) -> None:
    """Unpack a published ``.tar.gz`` beside itself.

    Args:
        archive: The archive.
        md5: Its published MD5 sum.
        folder: The folder in it.

    Raises:
        DataError: If it is not the published one, or its folder cannot be written to.
    """
    check_md5(archive, md5, file_md5(archive))
    with _staging(archive.parent) as staging:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(staging, filter="data")
        except (OSError, EOFError, tarfile.TarError) as error:
            raise DataError(f"the archive {archive} must unpack, but found: {error}") from error
        _move(staging / folder, archive.parent / folder)


def file_md5(path: Path) -> str:
    """Return the MD5 sum of a file in hex digits.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"the data file {path} must be readable, but found: {error}") from error


def check_md5(path: Path, published: str, found: str) -> None:
    """Refuse a file that is not the published one.

    Args:
        path: The file, for the message.
        published: The MD5 sum that it must have.
        found: The MD5 sum that it has.

    Raises:
        DataError: If the two differ.
    """
    if found != published:
        raise DataError(
            f"the data file {path} must be the published one, with the MD5 sum {published}, but has "
            f"{found}: it is truncated or another file; delete it and get it again"
        )


@contextmanager
def _staging(root: Path) -> Generator[Path]:
    """Make a folder inside ``root`` that is gone afterwards."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".arriving-", dir=root))
    except OSError as error:
        raise DataError(
            f"the data folder {root} must be writable, since a data set is to be put there, but found: "
            f"{error}; name another folder in $BNSWEEP_DATA"
        ) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(arrived: Path, place: Path) -> None:
    """Move a whole folder into place; files of an incomplete one there are replaced one by one."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            with suppress(OSError):  # somebody else may be first
                arrived.rename(place)
                return
        for file in arrived.iterdir():
            file.replace(place / file.name)
    except OSError as error:
        raise DataError(f"the data folder {place} must be writable, but found: {error}") from error
