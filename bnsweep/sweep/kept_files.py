"""What a sweep keeps of a finished trial beside its record: the state to go on from, and its weights."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from typing import BinaryIO

from bnsweep.errors import LedgerError
from bnsweep.sweep import checkpoints
from bnsweep.sweep.files import names_in, replace_bytes
from bnsweep.sweep.folder import unreadable
from bnsweep.sweep.pack_folders import PackFolders
from bnsweep.sweep.places import ObjectPath, Place
from bnsweep.sweep.records import Record, check_trial_id

__all__ = ["WEIGHTS", "KeptFiles"]

_KEPT = re.compile(r"([0-9a-f]{16})/checkpoint\.([0-9]+)\.json")

WEIGHTS = "weights.pt"
"""File of a trial's final weights, in its folder."""


class KeptFiles(PackFolders):
    """The part of a ledger that holds kept states and final weights: ``trials/<trial_id>/``.

    A kept state is a checkpoint of one trial: ``checkpoint.<step>.json`` and its data file. Of trials that
    are equal in all but ``steps`` the longest keeps one.
    """

    def _kept(self, trial_id: str) -> Place:
        return self.root / "trials" / check_trial_id(trial_id)

    def keep_state(self, trial_id: str, step: int, write: Callable[[BinaryIO], object]) -> None:
        """Keep what a trial needs to be trained to more steps; a state of the same step is replaced.

        Args:
            trial_id: The trial.
            step: Optimizer updates done.
            write: Writes the state's bytes to an open file.

        Raises:
            LedgerError: If the disk refuses.
        """
        checkpoints.save(self._make(self._kept(trial_id)), self._scratch, step, write)

    def kept_steps(self) -> dict[str, int]:
        """Return the step of every kept state by trial, without reading any; of a store from one listing."""
        folder = self.root / "trials"
        if isinstance(folder, ObjectPath):
            paths = [str(path.relative_to(folder)) for path in folder.walk()]
        else:
            paths = [
                f"{trial_id}/{name}" for trial_id in names_in(folder) for name in names_in(folder / trial_id)
            ]
        found: dict[str, int] = {}
        for trial_id, step in (match.groups() for match in map(_KEPT.fullmatch, paths) if match):
            found[trial_id] = max(int(step), found.get(trial_id, 0))
        return found

    def reject_state(self, trial_id: str, reason: str) -> None:
        """Move a kept state aside that verifies, and yet cannot be gone on from."""
        files: list[Place] = [*self._kept(trial_id).glob("checkpoint.*")]
        self._reject(files, f"the kept state of trial {trial_id}", reason)

    def kept_state(self, trial_id: str) -> tuple[int, bytes] | None:
        """Return step and bytes of a trial's kept state; a damaged one is moved aside."""
        return checkpoints.load_newest(
            self._kept(trial_id),
            lambda files, reason: self._reject(files, f"the kept state of trial {trial_id}", reason),
        )

    def drop_state(self, trial_id: str) -> None:
        """Remove a trial's kept state, where a longer trial's has taken its place."""
        checkpoints.remove(self._kept(trial_id))

    def write_weights(self, trial_id: str, write: Callable[[BinaryIO], object]) -> str:
        """Store a trial's final weights, before its record is committed.

        Args:
            trial_id: The trial.
            write: Writes the file's bytes.

        Returns:
            Their SHA-256, which belongs into the record.

        Raises:
            LedgerError: If the disk refuses.
        """
        stream = io.BytesIO()
        write(stream)
        content = stream.getvalue()
        replace_bytes(self._make(self._kept(trial_id)) / WEIGHTS, content, self._scratch)
        return hashlib.sha256(content).hexdigest()

    def weights_file(self, trial_id: str) -> Place:
        """Return where a trial's final weights lie."""
        return self._kept(trial_id) / WEIGHTS

    def weights(self, record: Record) -> bytes:
        """Return the verified file of a trial's final weights; a damaged one is moved aside.

        Raises:
            LedgerError: If there is none, or it is damaged.
        """
        path = self.weights_file(record.trial_id)
        if not record.weights_sha256:
            diverged = record.diverged_step is not None
            why = "it diverged" if diverged else "it was run without save_weights: final"
            raise LedgerError(f"Trial {record.trial_id} must have stored weights, but has none: {why}.")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            reason = "the file is absent"
        except OSError as error:
            raise unreadable(path, error) from error
        else:
            if hashlib.sha256(content).hexdigest() == record.weights_sha256:
                return content
            reason = "their SHA-256 differs from the record's"
            self._reject([path], f"the weights of trial {record.trial_id}", reason)
        raise LedgerError(
            f"The weights of trial {record.trial_id} must be those that were stored, but {reason}. Its "
            "readings are whole; restore the file from a backup or from MLflow, or train the trial anew."
        )
