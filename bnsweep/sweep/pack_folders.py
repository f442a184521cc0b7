"""A sweep's packs on disk: what was opened, its checkpoints, its sealed readings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from bnsweep.errors import LedgerError, StorageError
from bnsweep.sweep import checkpoints
from bnsweep.sweep.curves import CurveRow, decode_table, encode_sealed, first_rows, rows_of
from bnsweep.sweep.files import (
    as_mapping,
    decode_json,
    encode_json,
    link_bytes,
    names_in,
    read_each,
    read_json,
    remove_folder,
    replace_bytes,
)
from bnsweep.sweep.folder import NAME, SweepFolder, unreadable
from bnsweep.sweep.object_store import in_parallel
from bnsweep.sweep.places import ObjectPath, Place
from bnsweep.sweep.records import SCHEMA, check_schema, check_trial_id

__all__ = ["PackFolders"]


_PACK = "pack.json"
_OPENING = "opening.json"


class PackFolders(SweepFolder):
    """The part of a ledger that holds unfinished packs: ``packs/<pack_id>/``."""

    def pack_dir(self, pack_id: str) -> Place:
        """Return the folder of a pack.

        Raises:
            ValueError: If ``pack_id`` is not a name like a sweep's.
        """
        if not NAME.fullmatch(pack_id):
            raise ValueError(f"pack_id must match {NAME.pattern}, but found {pack_id!r}")
        return self.root / "packs" / pack_id

    def write_pack(self, pack_id: str, content: Mapping[str, Any]) -> bool:
        """Open a pack: store its members in order, and all that decides its arithmetic.

        Returns:
            Whether it is new; one that is there already stays as it is.

        Raises:
            LedgerBusyError: If another process has taken over the sweep.
        """
        self._fence()
        return self._write_pack(pack_id, content)

    def _write_pack(self, pack_id: str, content: Mapping[str, Any]) -> bool:
        folder = self._make(self.pack_dir(pack_id))
        encoded = encode_json({"schema": SCHEMA, **content})
        return link_bytes(folder / _PACK, encoded, self._scratch)

    def write_packs(self, contents: Mapping[str, Mapping[str, Any]]) -> None:
        """Open many packs: into a store, several at once; see :meth:`write_pack`.

        What is to be opened is written down first, so that after a kill in the middle
        :meth:`finish_opening` opens the others too, and no trial is packed with other trials than intended.

        Raises:
            LedgerBusyError: If another process has taken over the sweep.
        """
        self._fence()
        note = self.root / _OPENING
        if len(contents) > 1:
            replace_bytes(note, encode_json({"schema": SCHEMA, "packs": contents}), self._scratch)
        self._write_each(contents)
        if len(contents) > 1:
            note.unlink(missing_ok=True)

    def _write_each(self, contents: Mapping[str, Mapping[str, Any]]) -> None:
        in_turn = in_parallel if isinstance(self.root, ObjectPath) else map
        for _ in in_turn(lambda item: self._write_pack(*item), contents.items()):
            pass

    def finish_opening(self) -> None:
        """Open what a driver that was killed while it opened packs has not come to; for drivers.

        Raises:
            LedgerBusyError: If another process has taken over the sweep.
        """
        note = self.root / _OPENING
        try:
            content = read_json(note)
            check_schema(content, note)
            packs = as_mapping(content.get("packs"), "packs")
            contents = {
                name: as_mapping(packs[name], f"pack {name}") for name in packs if self.pack_dir(name)
            }
        except FileNotFoundError:
            return
        except ValueError as error:
            self._reject([note], "the list of packs to open", str(error))
            return
        except OSError as error:
            raise unreadable(note, error) from error
        self._fence()
        self._write_each(contents)
        note.unlink(missing_ok=True)

    def read_pack(self, pack_id: str) -> dict[str, Any]:
        """Return what :meth:`write_pack` stored.

        Raises:
            LedgerError: If the pack is absent or damaged.
        """
        path = self.pack_dir(pack_id) / _PACK
        try:
            content = read_json(path)
            check_schema(content, path)
        except StorageError:
            raise
        except (ValueError, OSError) as error:
            raise LedgerError(
                f"{path} must describe an open pack, but cannot be read: {error}. Run the sweep again."
            ) from error
        return content

    def pack_ids(self) -> list[str]:
        """Return the ids of the packs that were opened and not closed, sorted, without reading them."""
        folder = self.root / "packs"
        if isinstance(folder, ObjectPath):
            names = [path.parent.name for path in folder.walk() if path == folder / path.parent.name / _PACK]
            return sorted(filter(NAME.fullmatch, names))
        return [name for name in sorted(names_in(folder)) if NAME.fullmatch(name) and self.has_pack(name)]

    def open_packs(self) -> dict[str, dict[str, Any]]:
        """Return the contents of every pack that was opened and not closed, by id, sorted."""
        packs = {}
        paths = [self.pack_dir(pack_id) / _PACK for pack_id in self.pack_ids()]
        for path, text in zip(paths, read_each(paths), strict=True):
            pack_id = path.parent.name
            try:
                content = decode_json(text)
                check_schema(content, path)
                packs[pack_id] = content
            except FileNotFoundError:
                continue  # closed meanwhile
            except ValueError as error:
                self._reject(self._whole(path), f"pack {pack_id}", str(error))
            except OSError as error:
                raise unreadable(path, error) from error
        return packs

    def take_up_packs(self) -> dict[str, dict[str, Any]]:
        """Return the open packs, once what a killed driver was at is finished; for drivers.

        What it was opening is opened (:meth:`finish_opening`), and a pack of which parts are open is closed.

        Raises:
            LedgerBusyError: If another process has taken over the sweep.
        """
        self.finish_opening()
        packs = self.open_packs()
        for divided in {str(content.get("of")) for content in packs.values()} & packs.keys():
            if packs[divided].get("of") != divided:
                self.close_pack(divided)
                del packs[divided]
        return packs

    @staticmethod
    def _whole(path: Place) -> list[Place]:
        """Return what is moved aside with a damaged ``pack.json``: all of the pack."""
        if isinstance(path, ObjectPath):
            return [path, *(other for other in path.parent.walk() if other != path)]
        return [path.parent]

    def has_pack(self, pack_id: str) -> bool:
        """Tell whether a pack is open."""
        return (self.pack_dir(pack_id) / _PACK).is_file()

    def save_checkpoint(self, pack_id: str, step: int, write: Callable[[BinaryIO], object]) -> None:
        """Commit a checkpoint of a pack; the newest two are kept.

        Args:
            pack_id: The pack, opened before.
            step: Optimizer updates done.
            write: Writes the checkpoint's bytes to an open file.

        Raises:
            LedgerError: If the disk refuses, or another driver has taken over the sweep.
        """
        self._fence()
        checkpoints.save(self._make(self.pack_dir(pack_id)), self._scratch, step, write)

    def load_checkpoint(self, pack_id: str) -> tuple[int, bytes] | None:
        """Return step and bytes of a pack's newest checkpoint that verifies; damaged ones are moved aside."""
        return checkpoints.load_newest(
            self.pack_dir(pack_id),
            lambda files, reason: self._reject(files, f"a checkpoint of pack {pack_id}", reason),
        )

    def seal_readings(self, pack_id: str, n: int, rows: Mapping[str, Iterable[Sequence[Any]]]) -> None:
        """Store the readings since the previous checkpoint, before the next one is committed.

        Rows that were sealed before (a step done again after an interruption) are left out, so that a
        reading keeps the time at which it was first taken.

        Args:
            pack_id: The pack, opened before.
            n: Number of the file; where it is taken, the next free one is used.
            rows: Rows like :class:`CurveRow` by trial.

        Raises:
            LedgerError: If the disk refuses, or another driver has taken over the sweep.
        """
        self._fence()
        folder = self._make(self.pack_dir(pack_id))
        before = {(trial_id, *row[:3]) for trial_id, own in self.sealed(pack_id).items() for row in own}
        fresh = {
            check_trial_id(trial_id): [row for row in first_rows(own) if (trial_id, *row[:3]) not in before]
            for trial_id, own in rows.items()
        }
        content = encode_sealed(fresh)
        while not link_bytes(folder / f"readings.{n}.parquet", content, self._scratch):
            n += 1

    def sealed_files(self, pack_id: str) -> list[tuple[int, Place]]:
        """Return the numbers and files of a pack's sealed readings, oldest first."""
        found: list[tuple[int, Place]] = []
        for path in self.pack_dir(pack_id).glob("readings.*.parquet"):
            number = path.name.split(".")[1]
            if number.isdigit():
                found.append((int(number), path))
        return sorted(found)

    def sealed(self, pack_id: str, after: int = -1) -> dict[str, list[CurveRow]]:
        """Return a pack's sealed readings by trial, each once and by step.

        Args:
            pack_id: The pack.
            after: Leave out files numbered up to this.
        """
        rows: dict[str, list[CurveRow]] = {}
        paths = [path for number, path in self.sealed_files(pack_id) if number > after]
        for path, content in zip(paths, read_each(paths), strict=True):
            if isinstance(content, FileNotFoundError):
                continue
            if isinstance(content, OSError):
                raise unreadable(path, content) from content
            try:
                table = decode_table(content, ("trial_id", *CurveRow._fields))
            except ValueError as error:
                self._reject([path], f"sealed readings of pack {pack_id}", str(error))
                continue
            for trial_id, row in zip(table["trial_id"].to_pylist(), rows_of(table), strict=True):
                rows.setdefault(trial_id, []).append(row)
        return {trial_id: first_rows(own) for trial_id, own in rows.items()}

    def write_calibration(self, signature: str, device: str, content: Mapping[str, Any]) -> None:
        """Store what was measured of a signature on a type of device; a later measurement replaces it.

        Raises:
            ValueError: If ``signature`` or ``device`` is not a name like a sweep's.
            LedgerError: If the disk refuses, or another driver has taken over the sweep.
        """
        self._fence()
        path = self._calibration(signature, device)
        self._make(path.parent)
        replace_bytes(path, encode_json({"schema": SCHEMA, **content}), self._scratch)

    def calibration(self, signature: str, device: str) -> dict[str, Any] | None:
        """Return what :meth:`write_calibration` stored; ``None`` where nothing is, or it cannot be used.

        It saves a second, so that a damaged one is no reason to stop: it is measured again.
        """
        path = self._calibration(signature, device)
        try:
            content = read_json(path)
            check_schema(content, path)
        except (ValueError, OSError, LedgerError):
            return None
        return content

    def _calibration(self, signature: str, device: str) -> Place:
        for name in (signature, device):
            if not NAME.fullmatch(name):
                raise ValueError(f"signature and device must match {NAME.pattern}, but found {name!r}")
        return self.root / "calibration" / f"{signature}.{device}.json"

    def write_decision(self, pack_id: str, step: int, stop: bool) -> None:
        """Tell the worker at a pack whether it goes on from a rung; the first word counts."""
        self._fence()
        path = self.pack_dir(pack_id) / f"decision.{step}.json"
        link_bytes(path, encode_json({"schema": SCHEMA, "stop": stop}), self._scratch)

    def decision(self, pack_id: str, step: int) -> bool | None:
        """Return whether a pack is to stop at a rung; ``None`` where nothing was decided yet."""
        try:
            return bool(read_json(self.pack_dir(pack_id) / f"decision.{step}.json")["stop"])
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def sweep_packs(self) -> None:
        """Remove what is left of closed packs.

        In a store a process that was killed while it closed a pack leaves some of it; anywhere, a worker that
        was taken for dead, and whose pack another one has finished, may have made a checkpoint since.
        """
        inside = self.root / "packs"
        if isinstance(inside, Path):
            for name in filter(NAME.fullmatch, names_in(inside)):
                with suppress(LedgerError):  # it harms nobody, and goes with the next driver
                    if not self.has_pack(name):
                        remove_folder(inside / name, self._scratch, first=_PACK)
        else:
            found = list(inside.walk())
            open_packs = {path.parent for path in found if path.name == _PACK}
            for path in found:
                if path.parent not in open_packs:
                    path.unlink(missing_ok=True)

    def write_hang(self, pack_id: str, stack: str) -> None:
        """Note that a step of a pack is about to take its worker with it, and where it was."""
        self._fence()
        content = encode_json({"schema": SCHEMA, "stack": stack})
        replace_bytes(self.pack_dir(pack_id) / "hang.json", content, self._scratch)

    def hang(self, pack_id: str) -> str:
        """Return the stack that :meth:`write_hang` noted; empty where it did not."""
        try:
            return str(read_json(self.pack_dir(pack_id) / "hang.json")["stack"])
        except (FileNotFoundError, ValueError, KeyError):
            return ""

    def close_pack(self, pack_id: str) -> None:
        """Remove a pack whose trials are all done, in one step.

        Raises:
            LedgerBusyError: If another process has taken over the sweep.
        """
        self._fence()
        remove_folder(self.pack_dir(pack_id), self._scratch, first=_PACK)
