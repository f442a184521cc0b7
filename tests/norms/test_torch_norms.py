"""Layer, group, instance and root-mean-square normalization against torch.nn, member by member."""

import pytest
import torch
from torch import nn

from bnsweep.errors import SpecError
from bnsweep.norms import GroupNorm, InstanceNorm, LayerNorm, RMSNorm

SHAPES = {"linear": (5, 12), "conv": (4, 12, 3, 2), "one_pixel": (5, 12, 1, 1)}


def normal(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_equal(norm, reference_for_member, shape):
    """Compare outputs and gradients of a stack of two members of six channels with two references."""
    norm.double()
    for seed, parameter in enumerate(norm.parameters()):
        parameter.data = normal(parameter.shape, seed)
    x, weights = (normal(shape, 5) * 2 + 1).requires_grad_(), normal(shape, 6)
    (norm(x) * weights).sum().backward()
    for member in (0, 1):
        part = slice(6 * member, 6 * member + 6)
        values = [parameter.detach()[part].clone().requires_grad_() for parameter in norm.parameters()]
        y = x.detach()[:, part].clone().requires_grad_()
        expected = reference_for_member(y, *values)
        torch.testing.assert_close(norm(x)[:, part], expected, rtol=1e-12, atol=1e-12)
        (expected * weights[:, part]).sum().backward()
        torch.testing.assert_close(x.grad[:, part], y.grad, rtol=1e-11, atol=1e-11)
        for parameter, value in zip(norm.parameters(), values, strict=True):
            torch.testing.assert_close(parameter.grad[part], value.grad, rtol=1e-11, atol=1e-11)
    assert torch.equal(norm.eval()(x), norm.train()(x))


def per_channel(values, y):
    return values.view((1, 6) + (1,) * (y.dim() - 2))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 4], ids=str)
def test_group(shape, groups):
    used = {1: 1, 2: 2, 4: 2}[groups]  # gcd with 6 channels
    reference = nn.GroupNorm(used, 6, eps=1e-3, affine=False)
    assert_equal(
        GroupNorm(6, members=2, groups=groups, eps=1e-3),
        lambda y, w, b: reference(y) * per_channel(w, y) + per_channel(b, y),
        shape,
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_layer(shape):
    reference = nn.LayerNorm([6, *shape[2:]], eps=1e-3, elementwise_affine=False)
    assert_equal(
        LayerNorm(6, members=2, eps=1e-3),
        lambda y, w, b: reference(y) * per_channel(w, y) + per_channel(b, y),
        shape,
    )


def test_instance():
    reference = nn.InstanceNorm2d(6, eps=1e-3)
    assert_equal(
        InstanceNorm(6, members=2, eps=1e-3),
        lambda y, w, b: reference(y) * per_channel(w, y) + per_channel(b, y),
        SHAPES["conv"],
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rms(shape):
    reference = nn.RMSNorm([6, *shape[2:]], eps=1e-3, elementwise_affine=False)
    assert_equal(RMSNorm(6, members=2, eps=1e-3), lambda y, w: reference(y) * per_channel(w, y), shape)


def test_rms_learns_no_shift():
    assert [name for name, _ in RMSNorm(6).named_parameters()] == ["weight"]


@pytest.mark.parametrize("shape", [(5, 12), (5, 12, 1, 1)], ids=["linear", "one_pixel"])
def test_instance_refuses_a_single_pixel(shape):
    with pytest.raises(SpecError, match=r"two pixels or more, but found an input of shape .* use layer"):
        InstanceNorm(6, members=2)(torch.zeros(shape))
