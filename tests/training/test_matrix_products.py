"""The choice of the float32 matrix products."""

import torch

from bnsweep.training.matrix_products import choose_matrix_products


def test_the_choice_is_in_force_and_exact_enough():
    before = torch.get_float32_matmul_precision()
    try:
        chosen = choose_matrix_products()
        expected = "medium" if chosen == "onednn" else before
        assert chosen in ("exact", "onednn")
        assert torch.get_float32_matmul_precision() == expected
        a, b = (torch.randn(8, 96, 96, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
        exact = torch.bmm(a.double(), b.double())
        assert (torch.bmm(a, b) - exact).norm() / exact.norm() < 1e-6  # bfloat16 would give 3e-3
    finally:
        torch.set_float32_matmul_precision(before)
