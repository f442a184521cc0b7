"""The only place that touches torch's global switches."""

from __future__ import annotations

import torch

__all__ = ["prepare_process"]


def prepare_process(threads: int = 1) -> None:
    """Make this process train reproducibly and leave the other cores to the other workers.

    cuDNN chooses its kernels deterministically, and TensorFloat-32 is off.

    Args:
        threads: Threads of one operator.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
