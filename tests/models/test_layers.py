"""Stacked layers against torch's own, and the centre tap of a convolution on one pixel."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnsweep.models import StackedConv, StackedLinear

MEMBERS, BATCH, INPUTS, OUTPUTS = 3, 5, 4, 6


def normal(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomized(layer):
    layer.double()
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = normal(parameter.shape, seed)
    return layer


def check_against(layer, reference, x, axis_of_members):
    """Compare outputs and all gradients with ``reference(x, weight, bias)`` of every member."""
    x = x.requires_grad_()
    y = layer(x)
    weights = normal(y.shape, 9)
    (y * weights).sum().backward()
    for member in range(MEMBERS):
        rows = slice(member * OUTPUTS, (member + 1) * OUTPUTS)
        values = [p.detach()[rows].clone().requires_grad_() for p in layer.parameters()]
        one = x.detach().chunk(MEMBERS, axis_of_members)[member].clone().requires_grad_()
        expected = reference(one.squeeze(0) if axis_of_members == 0 else one, *values)
        (expected * weights[:, rows]).sum().backward()
        torch.testing.assert_close(y[:, rows], expected, rtol=1e-12, atol=1e-12)
        gradient = x.grad.chunk(MEMBERS, axis_of_members)[member]
        torch.testing.assert_close(gradient, one.grad, rtol=1e-12, atol=1e-12)
        for parameter, value in zip(layer.parameters(), values, strict=True):
            torch.testing.assert_close(parameter.grad[rows], value.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("size", [1, 2, 5], ids=["1px", "2px", "5px"])
def test_convolution(size, bias):
    layer = randomized(StackedConv(INPUTS, OUTPUTS, MEMBERS, bias=bias, norm=nn.Identity()))
    x = normal((BATCH, MEMBERS * INPUTS, size, size), 5)
    check_against(layer, lambda x, w, b=None: F.conv2d(x, w, b, padding=1), x, 1)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("shape", ["[N, K*I]", "[K, N, I]"])
def test_linear(shape, bias):
    layer = randomized(StackedLinear(INPUTS, OUTPUTS, MEMBERS, bias=bias, norm=nn.Identity()))
    stacked = shape == "[K, N, I]"
    x = normal((MEMBERS, BATCH, INPUTS) if stacked else (BATCH, MEMBERS * INPUTS), 5)
    check_against(layer, F.linear, x, 0 if stacked else 1)


def test_on_one_pixel_only_the_centre_tap_has_a_gradient():
    layer = randomized(StackedConv(INPUTS, OUTPUTS, MEMBERS, bias=True, norm=nn.Identity()))
    x = normal((BATCH, MEMBERS * INPUTS, 1, 1), 5)
    layer(x).square().sum().backward()
    centre = layer.weight.grad[:, :, 1, 1].clone()
    assert (centre != 0).all()
    layer.weight.grad[:, :, 1, 1] = 0
    assert (layer.weight.grad == 0).all()
