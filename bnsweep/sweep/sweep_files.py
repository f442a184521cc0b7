"""What a ledger holds of its sweep as a whole: the file, the plan, a search's events, where a run stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from bnsweep.errors import LedgerError, StorageError
from bnsweep.sweep.files import encode_json, link_bytes, read_json, replace_bytes
from bnsweep.sweep.kept_files import KeptFiles
from bnsweep.sweep.lease import Lease
from bnsweep.sweep.places import Place, local_state, version
from bnsweep.sweep.records import SCHEMA, PlannedTrial, check_schema, check_trial_id, now
from bnsweep.sweep.search_log import SearchLog
from bnsweep.trial import TrialConfig

__all__ = ["SweepFiles"]


class SweepFiles(KeptFiles):
    """The part of :class:`bnsweep.sweep.ledger.Ledger` that knows files of the whole sweep."""

    @property
    def report_dir(self) -> Place:
        """Where ``bnsweep report`` writes."""
        return self.root / "report"

    @property
    def tracking_dir(self) -> Path:
        """Where the mirror remembers which MLflow run is which trial, and writes its log: on this machine."""
        if isinstance(self.root, Path):
            return self.root / "tracking"
        return local_state(self.root) / "tracking"

    def mirror_lease(self, key: str) -> Lease | None:
        """Return the lease on mirroring a ledger in a store; ``None`` for a folder: its files can be locked.

        Args:
            key: What stands for the tracking store in names.
        """
        if isinstance(self.root, Path):
            return None
        return Lease(self.root / "tracking" / key, f"{self.name}'s mirror")

    def request_stop(self) -> None:
        """Ask whoever runs the sweep to stop."""
        replace_bytes(self.root / "stop.json", encode_json({"asked_at": now()}), self._scratch)

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked for a stop that nobody has heeded yet."""
        return (self.root / "stop.json").is_file()

    def clear_stop(self) -> None:
        """Take back a request to stop, or say that it was heeded."""
        (self.root / "stop.json").unlink(missing_ok=True)

    def write_progress(self, content: Mapping[str, Any]) -> None:
        """Tell where a run stands: for people, and never the truth.

        Raises:
            LedgerError: If the disk refuses.
        """
        replace_bytes(self.root / "progress.json", encode_json({"schema": SCHEMA, **content}), self._scratch)

    def progress(self) -> dict[str, Any]:
        """Return what the last run told of itself; empty where it told nothing that can be read."""
        try:
            content = read_json(self.root / "progress.json")
            check_schema(content, "progress.json")
            return content
        except StorageError:
            raise
        except (ValueError, OSError, LedgerError):
            return {}

    def write_sweep(self, text: str, plan: Mapping[str, Any]) -> bool:
        """Store the sweep file as submitted, and its plan; an earlier, different one is kept.

        Args:
            text: The sweep file's text.
            plan: Plain data with the key ``trials``: a list of mappings with ``trial_id``, ``label``
                and what :meth:`TrialConfig.to_dict` gives. Other keys (``description``, ``metric``,
                ``method``) are kept for reports.

        Returns:
            Whether the text differs from what was stored before.

        Raises:
            ValueError: If the plan has no list of trials, or one of them lacks a key.
            LedgerError: If the disk refuses.
        """
        for entry in plan.get("trials", [{}]):
            _planned(entry)
        path = self.root / "sweep.yaml"
        before = self.sweep_text()
        if before is not None and before != text:
            number = 1
            while not link_bytes(self.root / f"sweep.{number}.yaml", before.encode(), self._scratch):
                number += 1
        if before != text:
            replace_bytes(path, text.encode(), self._scratch)
        replace_bytes(self.root / "plan.json", encode_json({"schema": SCHEMA, **plan}), self._scratch)
        return before != text

    @cached_property
    def search_log(self) -> SearchLog:
        """The events of the sweep's search."""
        return SearchLog(self.root / "search", self._scratch, self._reject)

    def plan_version(self) -> tuple[int, int]:
        """Return what differs whenever the stored plan has changed."""
        return version(self.root / "plan.json"), self.search_log.length

    def sweep_text(self) -> str | None:
        """Return the sweep file as last submitted."""
        path = self.root / "sweep.yaml"
        return path.read_text() if path.is_file() else None

    def plan(self) -> dict[str, Any]:
        """Return the stored plan as plain data; that of a search grows with its suggestions.

        Raises:
            LedgerError: If there is none, or it is damaged.
        """
        path = self.root / "plan.json"
        try:
            content = read_json(path)
            check_schema(content, path)
            if content.get("search"):
                content["trials"] = _each_once([*content["trials"], *self.search_log.planned()])
            return content
        except StorageError:
            raise
        except (ValueError, OSError) as error:
            raise LedgerError(
                f"The ledger must hold a plan, but {path} cannot be read: {error}. Run the sweep file again: "
                "finished trials are kept."
            ) from error

    def planned(self) -> list[PlannedTrial]:
        """Return the trials of the stored plan, in its order.

        Raises:
            LedgerError: If there is no plan, or it is damaged.
        """
        try:
            return [_planned(entry) for entry in self.plan()["trials"]]
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{self.root / 'plan.json'} must list trials, but does not: {error}. Run the sweep again."
            ) from error

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Store what the driver ran on: package versions, commit, device."""
        replace_bytes(self.root / "environment.json", encode_json(dict(environment)), self._scratch)

    def environment(self) -> dict[str, Any]:
        """Return what the driver ran on, empty where it was never stored."""
        try:
            return read_json(self.root / "environment.json")
        except (ValueError, OSError):
            return {}


def _each_once(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out trials that were there before: a search may suggest a condition again."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        found.setdefault(entry["trial_id"], entry)
    return list(found.values())


def _planned(entry: Mapping[str, Any]) -> PlannedTrial:
    """Rebuild one trial of the stored plan."""
    try:
        config = TrialConfig.from_dict(entry)
        return PlannedTrial(check_trial_id(entry["trial_id"]), str(entry["label"]), config)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "a plan must have trials, each with trial_id, label, parameters, probes and fingerprint; "
            f"one is without {error}"
        ) from error
