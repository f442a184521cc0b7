"""On what a sweep is run: this machine alone, or a Ray cluster that is joined meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnsweep.sweep import SweepSpec

if TYPE_CHECKING:
    from bnsweep.runners import Site

__all__ = ["Where", "join"]


@dataclass(frozen=True)
class Where:
    """On what a sweep is run.

    Attributes:
        address: A running Ray cluster; ``None`` for ``$RAY_ADDRESS``, else this machine alone.
        insecure: Permit a cluster on this machine that asks for no token.
        wait: Seconds to wait for another process that runs the sweep.
    """

    address: str | None = None
    insecure: bool = False
    wait: float = 0.0

    @property
    def cluster(self) -> str | None:
        """The address of the cluster, or ``None`` for this machine alone."""
        stated = self.address or os.environ.get("RAY_ADDRESS")
        return None if stated in (None, "", "local") else stated


@contextmanager
def join(
    spec: SweepSpec | None,
    address: str | None,
    insecure: bool,
    tell: Callable[[str], None],
    patience: float = float("inf"),
) -> Iterator[Site]:
    """Give the site of a run: this machine, or the cluster at ``address``, which is joined meanwhile."""
    from bnsweep.runners import Machine

    if address is None:
        yield Machine()
        return
    from bnsweep.runners.joining import attach
    from bnsweep.runners.parcel import packed

    with (
        packed(spec) as parcel,
        attach(address, insecure=insecure, parcel=parcel, say=tell, patience=patience) as cluster,
    ):
        yield cluster
