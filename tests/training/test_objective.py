"""The loss of every member, against torch.nn and closed forms."""

import math

import pytest
import torch
from torch.nn import functional as F

from bnsweep.training.objective import accuracy, batch_loss, l2_penalty


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("samples", [1, 7, 32])
def test_cross_entropy_of_each_member(samples):
    outputs, targets = normal(3, samples, 5), torch.arange(3 * samples).view(3, samples) % 5
    expected = torch.stack([F.cross_entropy(o, t) for o, t in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(batch_loss(outputs, targets), expected, rtol=1e-14, atol=0)


def test_a_tie_between_classes_costs_their_logarithm():
    losses = batch_loss(torch.zeros(2, 4, 10), torch.zeros(2, 4, dtype=torch.int64))
    torch.testing.assert_close(losses, torch.full((2,), math.log(10)))


def test_regression_sums_half_the_squares():
    outputs, targets = normal(2, 6, 3), normal(2, 6, 3, seed=1)
    expected = [F.mse_loss(o, t, reduction="sum") / 2 for o, t in zip(outputs, targets, strict=True)]
    torch.testing.assert_close(batch_loss(outputs, targets), torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("samples", [5, 16, 33])
def test_loss_and_gradient_do_not_depend_on_the_other_members(samples, dtype):
    stored = normal(6, 10, samples).to(dtype)
    targets = torch.arange(6 * samples).view(6, samples) % 10

    def compute(members):
        leaf = stored[members].clone().requires_grad_()
        losses = batch_loss(leaf.transpose(1, 2), targets[members])
        return losses.detach(), *torch.autograd.grad(losses.sum(), leaf)

    losses, gradients = compute(slice(0, 6))
    for members in (slice(0, 1), slice(3, 4), slice(1, 3), slice(1, 6)):
        alone = compute(members)
        assert torch.equal(alone[0], losses[members])
        assert torch.equal(alone[1], gradients[members])


def test_accuracy_is_the_share_of_hits():
    outputs = torch.tensor([[[0.0, 1.0], [3.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    assert accuracy(outputs, torch.tensor([[1, 1], [1, 1]])).tolist() == [0.5, 1.0]


def test_penalty_and_its_gradient():
    params = {"a": normal(4, 3).requires_grad_(), "b": normal(2, seed=1).requires_grad_(), "c": normal(2)}
    strength = torch.tensor([0.5, 2.0], dtype=torch.float64)
    penalty = l2_penalty(params, ["a", "b"], strength)
    for k in range(2):
        squares = params["a"][2 * k : 2 * k + 2].square().sum() + params["b"][k].square()
        torch.testing.assert_close(penalty[k], strength[k] / 2 * squares)
    gradient = torch.autograd.grad(penalty.sum(), params["a"])[0]
    torch.testing.assert_close(gradient, params["a"].detach() * strength.repeat_interleave(2)[:, None])


def test_no_penalty_is_nothing_even_where_squares_overflow():
    weight = torch.tensor([[1e30], [2.0]], requires_grad=True)
    penalty = l2_penalty({"w": weight}, ["w"], torch.tensor([0.0, 3.0]))
    assert penalty.tolist() == [0.0, 6.0]
    assert torch.autograd.grad(penalty.sum(), weight)[0].tolist() == [[0.0], [6.0]]
