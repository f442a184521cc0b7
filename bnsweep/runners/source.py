"""What a runner is given to do: units of work, which may become known one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .messages import Progress

__all__ = ["FixedPacks", "Source", "Unit", "calibration_unit", "pack_unit"]

Unit = Mapping[str, Any]
"""Plain data that travels to a worker: ``{"pack": pack_id}``, or ``{"calibrate": {...}}``; with ``gpu``, the
type of GPU that it is for, where a cluster has several."""


class Source(Protocol):
    """Says what is to be done next, and is told what was done.

    A runner asks :meth:`ready` whenever a worker is idle, hands out every unit once (and again, if its
    worker is lost), and ends when nothing is at work and nothing is ready.

    Attributes:
        width: Most units that can be at work at once, over the whole run: more workers would idle.
        given_up: Why nothing more is to be tried, once that is so; set from outside.
        by_gpu: Whether units are for one type of GPU each.
    """

    width: int
    given_up: str
    by_gpu: bool

    @property
    def expecting(self) -> bool:
        """Whether more will be ready when what is at work ends, so that an idle worker is worth keeping."""

    def ready(self, workers: int) -> Sequence[Unit]:
        """Return the units that have become ready since the last call, most urgent first.

        Args:
            workers: Workers that there are.
        """

    def finished(self, unit: Unit, progress: Progress) -> None:
        """Take note of a unit that has ended; it may have failed, which ``progress`` says."""

    def lost(self, unit: Unit, cause: str) -> Progress:
        """Take note of a unit that is given up, since its worker was lost with it again and again."""


def pack_unit(pack_id: str, gpu: str = "") -> Unit:
    """Return the unit of work that trains a pack, made for a type of GPU or for any worker."""
    return {"pack": pack_id, **({"gpu": gpu} if gpu else {})}


def calibration_unit(
    trial: Mapping[str, Any], count: int, device: str, stackable: bool, gpu: str = ""
) -> Unit:
    """Return the unit of work that calibrates a signature.

    Args:
        trial: One of the trials, as :meth:`~bnsweep.trial.TrialConfig.to_dict` gives it.
        count: Trials of the signature.
        device: Type of the device.
        stackable: Whether packs of several members are possible.
        gpu: Type of GPU to be measured, where a cluster has several.
    """
    content = {"trial": dict(trial), "count": count, "device": device, "stackable": stackable}
    return {"calibrate": content, **({"gpu": gpu} if gpu else {})}


class FixedPacks:
    """A list of packs that stand in the ledger, known from the start.

    Args:
        packs: Their ids, in order.
        ledger: Where they stand.
    """

    expecting = False
    given_up = ""
    by_gpu = False

    def __init__(self, packs: Sequence[str], ledger: Any) -> None:
        self.packs, self.ledger = list(packs), ledger
        self.width = len(self.packs)

    def ready(self, workers: int) -> Sequence[Unit]:
        """Return every pack, once."""
        packs, self.packs = self.packs, []
        return [pack_unit(pack_id) for pack_id in packs]

    def finished(self, unit: Unit, progress: Progress) -> None:
        """Nothing follows from it."""

    def lost(self, unit: Unit, cause: str) -> Progress:
        """Record a failure of its members."""
        from .failing import abandon_pack

        return abandon_pack(self.ledger, unit["pack"], cause)
