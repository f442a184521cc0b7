"""Whether oneDNN computes this process's float32 matrix products: only where exact enough and faster."""

from __future__ import annotations

import math
import time

import torch

__all__ = ["choose_matrix_products"]

_SHAPES = ((16, 64, 64, 64), (4, 64, 64, 512), (16, 128, 128, 128))
"""Members, outputs, inputs and samples of the products that are tried."""

_GAIN = 1.15
"""How much faster the products must be together; less is not worth other kernels."""

_REPEATS = 5


def choose_matrix_products() -> str:
    """Choose the library of this process's float32 matrix products on the CPU, in some milliseconds.

    ``torch.set_float32_matmul_precision("medium")`` sends them to oneDNN, which may round their inputs to
    bfloat16. It is left on only if, on every shape tried, the error against float64 is at most twice that
    of the exact path, and the products take less time by a factor of 1.15. Products on a GPU stay
    exact either way, see :func:`~bnsweep.training.prepare_process`.

    Returns:
        ``onednn`` if it is on from now on, ``exact`` if not.
    """
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    cases = [
        (torch.randn(k, o, i, generator=generator), torch.randn(k, i, n, generator=generator))
        for k, o, i, n in _SHAPES
    ]
    seconds = {precision: [math.inf] * len(cases) for precision in ("highest", "medium")}
    error = {precision: [0.0] * len(cases) for precision in seconds}
    try:
        for index, (a, b) in enumerate(cases):
            exact = torch.bmm(a.double(), b.double())
            for _ in range(_REPEATS):  # in turns, so that a busy machine is busy for both
                for precision in seconds:
                    torch.set_float32_matmul_precision(precision)
                    began = time.thread_time()
                    product = torch.bmm(a, b)
                    taken = time.thread_time() - began
                    seconds[precision][index] = min(taken, seconds[precision][index])
                    error[precision][index] = float((product - exact).norm() / exact.norm())
    finally:
        torch.set_float32_matmul_precision(before)
    accurate = all(b <= 2 * a for a, b in zip(error["highest"], error["medium"], strict=True))
    faster = sum(seconds["highest"]) >= _GAIN * sum(seconds["medium"])
    if torch.cuda.is_available() or not (accurate and faster):
        return "exact"
    torch.set_float32_matmul_precision("medium")
    return "onednn"
