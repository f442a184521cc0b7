"""A calibration as a worker makes it: the engine's measurements, and what a trial takes of the ledger."""

from __future__ import annotations

import io
import random
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bnsweep.sweep.curves import CurveRow, encode_curves
from bnsweep.sweep.files import encode_json
from bnsweep.sweep.forecast import reading_steps
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState

from .environment import describe_environment

if TYPE_CHECKING:
    from bnsweep.data import Dataset

__all__ = ["measure_signature"]

SHARE = 0.8
"""Part of a worker's share of the free memory that a pack may take."""


def measure_signature(
    trial: TrialConfig, dataset: Dataset, count: int, *, stackable: bool, neighbours: int
) -> dict[str, Any]:
    """Measure how packs of a signature are trained best on this machine, and what their trials need.

    Args:
        trial: One of the trials.
        dataset: Their data set, on the device.
        count: Trials of the signature.
        stackable: Whether packs of several members are possible.
        neighbours: Workers that share the machine, this one included.

    Returns:
        Plain data: :meth:`bnsweep.training.Calibration.to_dict`; ``process_bytes``, the resident memory
        of this process at its highest while it trained such a pack; ``memory``, the bytes that a pack
        may take; ``trial_bytes`` and ``commit_seconds``, what a finished trial takes of the ledger;
        ``state_bytes`` and ``weight_bytes``, what is kept of one where the sweep's file asks for it;
        ``device_name``.
    """
    from bnsweep.training import available_bytes, calibrate, process_peak_bytes

    device = dataset.train_x.device
    free = available_bytes(device)
    memory = None if free is None else int(SHARE * free / max(1, neighbours))
    found = calibrate(trial, dataset, count, memory=memory, stackable=stackable)
    environment = describe_environment(str(device))
    return {
        **found.to_dict(),
        "process_bytes": process_peak_bytes(),
        "memory": memory,
        **_ledger_share(trial, found.rows, environment),
        **_kept_share(trial, dataset),
        "device_name": environment["device_name"],
    }


def _ledger_share(
    trial: TrialConfig, rows: Mapping[str, Sequence[tuple[str, int]]], environment: dict[str, Any]
) -> dict[str, float]:
    """Encode a finished trial of made-up readings, as many as a real one has."""
    began = time.perf_counter()
    curves = encode_curves(_rows(trial, rows))
    readings = {name: 0.123456789012 for own in rows.values() for name, layer in own if layer == 0}
    attempt = {"started": "2000-01-01T00:00:00.000000Z", "host": "host", "pack_id": "0" * 16, "from_step": 0}
    record = Record.of(
        trial,
        TrialState.COMPLETED,
        int(trial.parameters["steps"]),
        readings,
        label=trial.label(),
        diverged_step=None,
        last_finite_loss=0.123456789012,
        attempts=(attempt | {"ended": attempt["started"], "to_step": int(trial.parameters["steps"])},),
        environment=environment,
        data={"classes": 10, "train": 1000, "test": 1000},
    )
    encoded = encode_json(record.to_dict())
    return {"trial_bytes": len(curves) + len(encoded), "commit_seconds": time.perf_counter() - began}


def _kept_share(trial: TrialConfig, dataset: Dataset) -> dict[str, int]:
    """Return the bytes of a trial's kept state and of its weights, as they are written."""
    import torch

    from bnsweep.training import PackTrainer

    (state,) = PackTrainer([trial], dataset).member_states()
    assert state is not None
    sizes = {}
    for name, content in {"state_bytes": state, "weight_bytes": state["stack"]["model"]}.items():
        stream = io.BytesIO()
        torch.save(content, stream)
        sizes[name] = stream.tell()
    return sizes


def _rows(trial: TrialConfig, rows: Mapping[str, Sequence[tuple[str, int]]]) -> Iterator[CurveRow]:
    """Yield readings like those of a trial: the names, layers and steps of a real one, random values."""
    draw = random.Random(0)
    single = trial.tensor_dtype == "float32"
    for event, steps in reading_steps(trial).items():
        for step in steps:
            for name, layer in rows[event]:
                value = draw.random()
                if single:
                    value = struct.unpack("f", struct.pack("f", value))[0]
                yield CurveRow(step, name, layer, value, 1_700_000_000_000 + 7 * step + draw.randrange(5))
