"""Distributed hyperparameter sweeps that test what batch normalization does for optimization.

The names here are those of :mod:`bnsweep.api`, loaded when first used: importing costs nothing.

Example:
    >>> import bnsweep
    >>> spec = bnsweep.load({"name": "tiny", "parameters": {"lr": [0.01, 0.1]}, "seeds": 2})
    >>> len(bnsweep.plan(spec).trials)
    4
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnsweep.api import load as load
    from bnsweep.api import network as network
    from bnsweep.api import plan as plan
    from bnsweep.api import report as report
    from bnsweep.api import results as results
    from bnsweep.api import resume as resume
    from bnsweep.api import run as run
    from bnsweep.api import status as status
    from bnsweep.api import sync as sync

__all__ = ["__version__", "load", "network", "plan", "report", "results", "resume", "run", "status", "sync"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bnsweep import api

    return getattr(api, name)
