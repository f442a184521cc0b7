"""What a killed driver leaves on its machine, outside the ledger: found and removed by the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["own_session", "temporary_folder"]

_PREFIX = "bnsweep-tune-"
_MARKER = "bnsweep-driver"


@contextmanager
def temporary_folder() -> Iterator[str]:
    """Give a folder for what Ray Tune writes, which nobody reads; those of dead drivers are removed."""
    base = Path(tempfile.gettempdir())
    for path in base.glob(f"{_PREFIX}*"):
        process = path.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not Path(f"/proc/{process}").exists() and _is_ours(path):
            shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield folder


@contextmanager
def own_session(folder: str) -> Iterator[None]:
    """Remove the session folder of a Ray that was started here when it has ended, and those of dead drivers.

    Ray keeps the logs of every session for ever. After an error they are kept until another driver of
    this machine starts Ray.

    Args:
        folder: The session's folder.
    """
    own = Path(folder)
    for marker in own.parent.glob(f"session_*/{_MARKER}"):
        with suppress(OSError):
            process = marker.read_text()
            if process.isdigit() and not Path(f"/proc/{process}").exists() and _is_ours(marker):
                shutil.rmtree(marker.parent, ignore_errors=True)
    with suppress(OSError):
        (own / _MARKER).write_text(str(os.getpid()))
    yield
    shutil.rmtree(own, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    """Tell whether a file belongs to the user that this process runs as; a link never does."""
    return path.lstat().st_uid == os.getuid() and not path.is_symlink()
