"""Which spec and which ledger a user means: by a sweep's name, a folder, a URL or a sweep file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError, LedgerError
from bnsweep.sweep import SweepSpec, load_spec
from bnsweep.sweep.folder import NAME
from bnsweep.sweep.places import ObjectPath, Place, is_url, place

if TYPE_CHECKING:
    from bnsweep.sweep.ledger import Ledger

__all__ = ["Source", "find_ledger", "known_ledger", "load", "storage_folder"]

Source = str | PathLike[str] | Mapping[str, Any] | SweepSpec


def load(source: Source) -> SweepSpec:
    """Read and check a sweep file.

    Args:
        source: A path, a mapping like the file's content, or a spec, which is returned as it is.

    Raises:
        SpecError: With every mistake in it.
    """
    from bnsweep import analysis, search

    spec = source if isinstance(source, SweepSpec) else load_spec(source)
    search.check(spec)
    analysis.check(spec)
    return spec


def storage_folder(spec: SweepSpec | None = None, storage: str | None = None) -> Place:
    """Return the folder of results: as given, as the file says, ``$BNSWEEP_STORAGE``, or ``results``.

    Raises:
        LedgerError: If it is the address of a store of another kind than S3.
    """
    stated = spec.storage if spec is not None and "storage" in spec.given else None
    return place(storage or stated or os.environ.get("BNSWEEP_STORAGE") or "results")


def known_ledger(spec: SweepSpec, storage: str | None, root: Place | None = None) -> Ledger | None:
    """Return the ledger of a spec, where there is one: at ``root``, or in a folder of results."""
    from bnsweep.sweep.ledger import Ledger

    folder = root or storage_folder(spec, storage) / spec.name
    return Ledger(folder) if (folder / "ledger.json").is_file() else None


def find_ledger(name: str | PathLike[str] | ObjectPath, storage: str | None = None) -> Ledger:
    """Return the ledger that ``name`` means.

    Args:
        name: A sweep's name, a ledger's folder or URL, or a sweep file.
        storage: Folder of results to look in, for a name.

    Raises:
        LedgerError: If there is none.
        SpecError: If ``name`` is a sweep file with mistakes.
    """
    from bnsweep.sweep.ledger import Ledger

    if isinstance(name, ObjectPath) or is_url(name):
        return Ledger(place(name))
    try:
        found = _ledger_path(Path(name).expanduser(), storage)
    except BnsweepError:
        raise
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a home that is not there
        found = None
    if found is not None:
        return found
    folder = storage_folder(None, storage)
    if not NAME.fullmatch(str(name)) or not (folder / str(name)).is_dir():
        known = sorted(entry.parent.name for entry in folder.glob("*/ledger.json"))
        there = f"it holds {', '.join(known)}" if known else "it holds none"
        raise LedgerError(
            f"A sweep called {_shown(name)} must have been run in {folder}, but {there}. Name one of these, "
            "a ledger's folder or a sweep file, or say where to look with --storage."
        )
    return Ledger.open(folder, str(name))


def _ledger_path(path: Path, storage: str | None) -> Ledger | None:
    """Return the ledger that a path means: a sweep file's, or a folder's; ``None`` where it is none."""
    from bnsweep.sweep.ledger import Ledger

    here = path.resolve()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        spec = load(path)
        return Ledger.open(storage_folder(spec, storage), spec.name)
    if path.is_dir() and (len(path.parts) > 1 or (path / "ledger.json").exists()):
        return Ledger(here)
    return None


def _shown(name: object) -> str:
    """Return a name for a message: short, and without what a terminal would obey."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(name))
    return text if len(text) <= 80 else f"{text[:80]}..."
