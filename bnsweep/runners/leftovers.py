"""What a driver needs on its machine outside the ledger; what a killed one left is removed by the next."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["driver_folder", "ray_folder"]

_NAME = re.compile(r"bnsweep-p(\d+)(-\w+)?")
"""A driver's folders: the one of this module, and that of the token that it made."""

_LONGEST = 42
"""Characters of a folder in which Ray may make its sockets, whose paths have 107 at most."""


@contextmanager
def driver_folder() -> Iterator[Path]:
    """Give a temporary folder named after this process, for what nobody reads when it has ended.

    After an error it stays, with the logs that Ray wrote, until another driver of this machine starts.
    """
    base = Path(tempfile.gettempdir())
    for path in base.glob("bnsweep-p*"):
        found = _NAME.fullmatch(path.name)
        with suppress(OSError):
            ours = path.lstat().st_uid == os.geteuid() and not path.is_symlink()
            if found and ours and not Path(f"/proc/{found[1]}").exists():
                shutil.rmtree(path, ignore_errors=True)
    folder = base / f"bnsweep-p{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def ray_folder(folder: Path) -> str:
    """Return where a Ray that is started here keeps its session: ``/tmp/ray`` where the path is too long.

    There Ray keeps every session's logs for ever, in a folder that all of its users share.
    """
    return str(folder) if len(str(folder)) <= _LONGEST else "/tmp/ray"
