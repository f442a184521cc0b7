"""Checkpoints of a pack on disk: committed whole, verified when read, the newest two kept.

A checkpoint is a data file and a manifest (step, file name, size, SHA-256). The manifest is written
last and is the commit; a data file without one does not count.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from bnsweep.sweep.files import digest_file, encode_json, move_file, read_json, replace_bytes, scratch_file
from bnsweep.sweep.places import Place
from bnsweep.sweep.records import SCHEMA, check_schema

__all__ = ["KEPT", "load_newest", "remove", "save"]

KEPT = 2
"""Checkpoints kept of a pack: the newest, and one to fall back to."""


def save(folder: Place, scratch: Place, step: int, write: Callable[[BinaryIO], object]) -> None:
    """Commit a checkpoint, then delete what is older than the newest two.

    Args:
        folder: The pack's folder.
        scratch: Folder for unfinished files, on the same file system.
        step: Optimizer updates done.
        write: Writes the checkpoint's bytes to an open file.

    Raises:
        ValueError: If ``step`` is negative.
        LedgerError: If the disk refuses.
    """
    if step < 0:
        raise ValueError(f"step must be >= 0, but found {step}")
    with scratch_file(scratch) as (path, file):
        write(file)
        file.flush()
        os.fsync(file.fileno())
        digest = digest_file(path)
        size = path.stat().st_size
        data = folder / f"checkpoint.{step}.{digest[:8]}.bin"
        move_file(path, data)
    manifest = {"schema": SCHEMA, "step": step, "file": data.name, "bytes": size, "sha256": digest}
    replace_bytes(folder / f"checkpoint.{step}.json", encode_json(manifest), scratch)
    with suppress(OSError):  # what cannot be deleted now is by the next one: this one is committed
        _prune(folder)


def _manifests(folder: Place) -> list[tuple[int, Place]]:
    """Return steps and manifests, newest first."""
    found: list[tuple[int, Place]] = []
    for path in folder.glob("checkpoint.*.json"):
        step = path.name.split(".")[1]
        if step.isdigit():
            found.append((int(step), path))
    return sorted(found, reverse=True)


def _prune(folder: Place) -> None:
    """Delete old manifests before their data, and data that no manifest of ours names."""
    kept = set()
    for index, (_, path) in enumerate(_manifests(folder)):
        if index >= KEPT:
            path.unlink(missing_ok=True)
            continue
        try:
            kept.add(str(read_json(path)["file"]))
        except (ValueError, KeyError, FileNotFoundError):
            continue
        except OSError:
            return  # what cannot be read now may name data that is whole
    for data in folder.glob("checkpoint.*.bin"):
        if data.name not in kept:
            data.unlink(missing_ok=True)


def load_newest(folder: Place, reject: Callable[[list[Place], str], None]) -> tuple[int, bytes] | None:
    """Return the newest checkpoint that verifies.

    Args:
        folder: The pack's folder.
        reject: Told of each damaged checkpoint: its files and the reason.

    Returns:
        Its step and bytes, or ``None`` where none verifies.

    Raises:
        LedgerError: If a newer version of bnsweep wrote it.
    """
    for step, path in _manifests(folder):
        files: list[Place] = [path]
        try:
            manifest = read_json(path)
            check_schema(manifest, path)
            data = _data_file(folder, step, manifest)
            files.append(data)
            return step, _verified(data, manifest)
        except FileNotFoundError:
            reject(files, "its data file is absent")
        except (ValueError, KeyError, TypeError) as error:
            reject(files, str(error))
    return None


def remove(folder: Place) -> None:
    """Delete every checkpoint in a folder, manifests first."""
    for _, path in _manifests(folder):
        path.unlink(missing_ok=True)
    for data in folder.glob("checkpoint.*.bin"):
        data.unlink(missing_ok=True)


def _data_file(folder: Place, step: int, manifest: dict[str, Any]) -> Place:
    name = manifest["file"]
    if manifest["step"] != step or not isinstance(name, str):
        raise ValueError("its manifest names another step")
    if not name.startswith(f"checkpoint.{step}.") or "/" in name:
        raise ValueError(f"its manifest names a file that is not the checkpoint's: {name!r}")
    return folder / name


def _verified(data: Place, manifest: dict[str, Any]) -> bytes:
    import hashlib

    content = data.read_bytes()
    if len(content) != manifest["bytes"]:
        raise ValueError(f"must have {manifest['bytes']} bytes, but has {len(content)}")
    if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
        raise ValueError("its SHA-256 differs from its manifest's")
    return content
