"""Batch normalization against torch.nn."""

import pytest
import torch
from torch import nn

from bnsweep.norms import BatchNorm

SHAPES = {"linear": (12, 6), "conv": (4, 6, 5, 3), "one_pixel": (12, 6, 1, 1)}


def reference_for(shape, **options):
    cls = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    return cls(6, **options).double()


def randomize(*modules, seed=0):
    for module in modules:
        generator = torch.Generator().manual_seed(seed)
        for parameter in module.parameters():
            parameter.data.normal_(1, 0.5, generator=generator)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("momentum", [0.1, 1.0], ids=["ema", "latest"])
def test_equals_torch(shape, affine, momentum):
    options = {"eps": 1e-3, "momentum": momentum, "affine": affine}
    norm, reference = BatchNorm(3, members=2, **options).double(), reference_for(shape, **options)
    randomize(norm, reference)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 2
        mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        (norm(mine) * weights).sum().backward()
        (reference(theirs) * weights).sum().backward()
        torch.testing.assert_close(norm(x), reference(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    for parameter, other in zip(norm.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, reference.running_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_var, reference.running_var, rtol=1e-12, atol=1e-12)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(norm.eval()(x), reference.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(50_000, 4), (128, 4, 16, 16)], ids=["linear", "conv"])
def test_float32_statistics_are_accurate(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 30
    norm = BatchNorm(4, momentum=1.0)
    norm(x)
    axes = [0, *range(2, len(shape))]
    exact = x.double()
    torch.testing.assert_close(norm.running_mean.double(), exact.mean(axes), rtol=2e-7, atol=0)
    torch.testing.assert_close(norm.running_var.double(), exact.var(axes), rtol=1e-6, atol=0)


def test_is_invariant_to_scale_and_shift_of_its_input_without_eps():
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = BatchNorm(5, eps=0.0).double()
    torch.testing.assert_close(norm(1000 * x + 7), norm(x), rtol=1e-12, atol=1e-12)


def test_one_value_has_no_spread():
    with pytest.raises(ValueError, match=r"at least 2 values per channel .* found 1"):
        BatchNorm(3)(torch.zeros(1, 3))


def test_memory_layout_does_not_matter():
    x = torch.randn(6, 5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = BatchNorm(5).double(), BatchNorm(5).double()
    assert torch.equal(first(x), second(x.to(memory_format=torch.channels_last)))
    assert torch.equal(first.running_var, second.running_var)
