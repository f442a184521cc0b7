"""Training packs: the trainer, per-member optimizers, objectives, determinism."""

from .determinism import prepare_process
from .trainer import COMPACT_EVERY, Outcome, PackTrainer, Row

__all__ = ["COMPACT_EVERY", "Outcome", "PackTrainer", "Row", "prepare_process"]
