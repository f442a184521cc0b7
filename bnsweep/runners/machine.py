"""What a machine has for workers, and how many fit: this machine, or a node of a cluster."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bnsweep.errors import BnsweepError
from bnsweep.trial import TrialConfig

from .preflight import Preflight, preflight

__all__ = ["Machine", "Node", "Site"]


@dataclass(frozen=True)
class Node:
    """One machine, as far as placing workers goes.

    Attributes:
        host: Its name.
        cpus: CPU cores for workers.
        gpus: GPUs.
        gpu: Type of its GPUs; empty where it is not known or has none.
        node_id: Ray's name of it; empty for this machine.
        address: Its address.
    """

    host: str
    cpus: float
    gpus: float = 0
    gpu: str = ""
    node_id: str = ""
    address: str = ""

    def slots(self, cpus: float, gpus: float) -> int:
        """Return how many workers fit; a worker's share of a GPU never spans two of them.

        Example:
            >>> Node("a", cpus=8, gpus=2).slots(1, 0.3), Node("a", cpus=8, gpus=2).slots(6, 0.3)
            (6, 1)
            >>> Node("a", cpus=8).slots(1, 0.3)
            0
        """
        counts = []
        if cpus:
            counts.append(math.floor(self.cpus / cpus + 1e-9))
        if gpus:
            whole = math.floor(1 / gpus + 1e-9) * math.floor(self.gpus) if gpus < 1 else self.gpus // gpus
            counts.append(int(whole))
        return min(counts) if counts else math.floor(self.cpus)


class Site(Protocol):
    """Where a sweep's workers run: this machine, or a cluster."""

    def admit(self, cpus: float, gpus: float, storage: str, uri: str | None) -> None:
        """Refuse a worker that can never be placed, and folders that workers do not see."""

    def preflight(self, trials: Sequence[TrialConfig], data_root: str | None) -> Preflight:
        """Look where workers run for what would stop the sweep."""

    def check_gpus(self, gpus: float, found: Preflight) -> None:
        """Refuse a worker that needs GPUs that are not there."""

    def neighbours(self, cpus: float, gpus: float) -> int:
        """Return how many workers share a machine, at most."""

    def gpu_types(self, cpus: float, gpus: float) -> Mapping[str, int]:
        """Return how many workers fit, by type of GPU; of an unknown type where that is empty."""

    @property
    def grows(self) -> bool:
        """Whether machines may join."""


class Machine:
    """This machine alone."""

    def admit(self, cpus: float, gpus: float, storage: str, uri: str | None) -> None:
        """Refuse a worker that needs more CPUs than this machine has."""
        _check_count("cpus", cpus, os.cpu_count() or 1)

    def preflight(self, trials: Sequence[TrialConfig], data_root: str | None) -> Preflight:
        """Look here for what would stop the sweep; see :func:`~bnsweep.runners.preflight.preflight`."""
        return preflight(trials, data_root)

    def check_gpus(self, gpus: float, found: Preflight) -> None:
        """Refuse a worker that needs more GPUs than this machine has."""
        _check_count("gpus", gpus, found.gpus)

    def neighbours(self, cpus: float, gpus: float) -> int:
        """Return how many workers this machine takes at once."""
        slots = max(1, int((os.cpu_count() or 1) / max(cpus, 1e-3)))
        return min(slots, max(1, int(1 / gpus))) if 0 < gpus < 1 else slots

    grows = False

    def gpu_types(self, cpus: float, gpus: float) -> Mapping[str, int]:
        """Return nothing: the GPUs of a machine are taken to be alike."""
        return {}


def _check_count(name: str, asked: float, have: int) -> None:
    """Refuse what this machine cannot give, before anything is written."""
    if asked > have:
        raise BnsweepError(
            f"resources.{name} must be <= {have}, the {name} of this machine, but found {asked:g}. "
            "Ask for less, or run on a larger machine."
        )
