"""What tests share: one thread an operator, and a sweep that trains in a second."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def tiny() -> dict[str, Any]:
    """Six trials of a small MLP on digits; one learning rate makes it diverge."""
    return {
        "name": "tiny",
        "parameters": {
            "model": "mlp",
            "depth": 2,
            "weight_decay": 0.001,
            "features": 8,
            "norm": "none",
            "lr": [0.1, 0.5, 1e6],
            "steps": 40,
            "eval_every": 20,
        },
        "seeds": 2,
        "probes": {"ics": {"every": 20}, "landscape": {"every": 20}, "moments": {"every": 20}},
        "tracking": {"uri": "none"},
    }


@pytest.fixture
def write_sweep(tmp_path: Path) -> Any:
    """Return a function that writes a sweep file and returns its path."""
    from bnsweep.sweep import to_yaml

    def write(content: dict[str, Any], name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.write_text(to_yaml(content))
        return path

    return write
