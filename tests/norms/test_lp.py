"""Lp normalization against NumPy, batch normalization and finite differences."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bnsweep.norms import LpNorm

SHAPES = {"linear": (12, 6), "conv": (4, 6, 5, 3), "one_pixel": (12, 6, 1, 1)}
ORDERS = {"l1": 1, "l2": 2, "linf": math.inf}


def numpy_statistics(x, p, centered, gaussian):
    """Mean and magnitude of every channel, by the definition, channel after channel."""
    means, magnitudes = [], []
    for channel in range(x.shape[1]):
        values = x[:, channel].ravel()
        m = len(values)
        about = values - values.mean() if centered else values
        magnitude = np.abs(about).max() if p == math.inf else (np.abs(about) ** p).mean() ** (1 / p)
        normal = {1: math.sqrt(2 / math.pi), 2: 1.0, math.inf: math.sqrt(2 * math.log(m))}[p]
        means.append(values.mean())
        magnitudes.append(magnitude / normal if gaussian else magnitude)
    return np.array(means), np.array(magnitudes)


def normal(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("p", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("centered", [False, True], ids=["as_is", "centered"])
@pytest.mark.parametrize("gaussian", [False, True], ids=["raw", "gaussian"])
def test_equals_numpy_in_training_and_evaluation(shape, p, centered, gaussian):
    norm = LpNorm(3, members=2, p=p, eps=1e-2, centered=centered, gaussian=gaussian).double()
    norm.weight.data, norm.bias.data = normal(6, 1), normal(6, 2)
    broadcast = (1, 6) + (1,) * (len(shape) - 2)
    gamma, beta = (t.detach().numpy().reshape(broadcast) for t in (norm.weight, norm.bias))
    running_mean, running_magnitude = np.zeros(6), np.ones(6)
    for seed in (3, 4):
        x = 2 * normal(shape, seed) + 1
        mean, magnitude = numpy_statistics(x.numpy(), p, centered, gaussian)
        expected = (x.numpy() - mean.reshape(broadcast)) / (magnitude.reshape(broadcast) + 1e-2)
        np.testing.assert_allclose(norm(x).detach().numpy(), gamma * expected + beta, rtol=1e-11, atol=1e-11)
        running_mean = 0.9 * running_mean + 0.1 * mean
        running_magnitude = 0.9 * running_magnitude + 0.1 * magnitude
    np.testing.assert_allclose(norm.running_mean.numpy(), running_mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(norm.running_magnitude.numpy(), running_magnitude, rtol=1e-12)
    expected = (x.numpy() - running_mean.reshape(broadcast)) / (running_magnitude.reshape(broadcast) + 1e-2)
    actual = norm.eval()(x).detach().numpy()
    np.testing.assert_allclose(actual, gamma * expected + beta, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("p", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("centered", [False, True], ids=["as_is", "centered"])
def test_gradient_is_that_of_finite_differences(p, centered):
    norm = LpNorm(2, p=p, centered=centered).double()
    norm.weight.data, norm.bias.data = normal(2, 1), normal(2, 2)
    x = (normal((3, 2, 2, 2), 0) + 0.3).requires_grad_()
    parameters = dict(norm.named_parameters())

    def function(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(function, (x, parameters["weight"], parameters["bias"]))


def test_centred_l2_without_eps_is_batch_normalization():
    norm = LpNorm(6, p=2, eps=0.0, centered=True).double()
    reference = nn.BatchNorm2d(6, eps=1e-300).double()
    x, weights = normal((4, 6, 5, 3), 0) + 2, normal((4, 6, 5, 3), 1)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(norm(mine), reference(theirs), rtol=1e-12, atol=1e-12)
    (norm(mine) * weights).sum().backward()
    (reference(theirs) * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("p", [1, 2], ids=["l1", "l2"])
def test_gaussian_magnitude_estimates_the_standard_deviation(p):
    norm = LpNorm(1, p=p, momentum=1.0, gaussian=True).double()
    norm(3 * normal((200_000, 1), 0))
    assert norm.running_magnitude.item() == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("p", ORDERS.values(), ids=ORDERS)
def test_a_dead_channel_keeps_a_finite_gradient(p):
    norm = LpNorm(2, p=p).double()
    x = normal((4, 2), 0)
    x[:, 1] = 0
    x.requires_grad_()
    norm(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert norm.weight.grad.isfinite().all()


@pytest.mark.parametrize("p", ORDERS.values(), ids=ORDERS)
def test_float32_statistics_are_accurate(p):
    x = torch.randn(128, 4, 16, 16, generator=torch.Generator().manual_seed(0)) + 3
    norm = LpNorm(4, p=p, momentum=1.0)
    norm(x)
    mean, magnitude = numpy_statistics(x.double().numpy(), p, False, False)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(norm.running_magnitude.numpy(), magnitude, rtol=1e-6)


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match=r"p must be 1, 2 or math.inf, but found 3"):
        LpNorm(2, p=3)


def test_one_value_has_no_spread():
    with pytest.raises(ValueError, match=r"at least 2 values per channel"):
        LpNorm(3, p=1)(torch.zeros(1, 3))
