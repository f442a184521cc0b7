"""Training packs: the trainer, per-member optimizers, objectives, calibration, determinism."""

from .calibration import Calibration, calibrate
from .determinism import prepare_process
from .memory import available_bytes, process_peak_bytes
from .trainer import COMPACT_EVERY, Outcome, PackTrainer, Row

__all__ = [
    "COMPACT_EVERY",
    "Calibration",
    "Outcome",
    "PackTrainer",
    "Row",
    "available_bytes",
    "calibrate",
    "prepare_process",
    "process_peak_bytes",
]
