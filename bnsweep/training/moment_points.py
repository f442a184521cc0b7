r"""A few points in the place of a data set, for networks that see its first and second moments alone.

A deep linear network without a norm computes :math:`f(x) = Gx + b`, and its summed squared loss over
a split depends on the split through the means and covariances of inputs and targets only. The same
holds with a norm whose statistics over the batch are moments of first and second order
(``batch``, and ``l2``), as long as the batch is the whole split: then :math:`f` is affine with
coefficients that depend on these moments. So ``features + 1`` points with equal moments have the same
losses, gradients, running statistics and moments of activations as thousands of samples.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bnsweep.data import Dataset
from bnsweep.models import NetworkPlan

from .objective import Loss

__all__ = ["moment_points", "moments_available", "on_moment_points"]

_NORMS = frozenset({"none", "batch", "l2"})


def moments_available(plan: NetworkPlan, batch_size: object, dataset: Dataset) -> bool:
    """Whether a full batch of this data set may be replaced by points with the same moments.

    It may for a network of linear layers without activation or noise, with the norm ``none``, ``batch``
    or ``l2``, that regresses on fewer features than there are samples in either split.
    """
    linear = all(layer.kind == "linear" and not layer.activated for layer in plan.layers)
    regression = dataset.train_x.dim() == 2 and dataset.train_y.dtype.is_floating_point
    fewer = dataset.train_x.shape[1] + 1 < min(len(dataset.train_x), len(dataset.test_x))
    return batch_size == "full" and linear and plan.norm in _NORMS and regression and fewer


def moment_points(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Loss]:
    r"""Return ``F + 1`` points with the mean and covariance of ``x``, their targets, and the loss.

    With centred inputs :math:`X = QR`, and orthonormal columns ``V`` that are orthogonal to ones,

    .. math::
        P = \bar x + \sqrt{m/n}\, V R, \qquad T = \bar y + \sqrt{m/n}\, V Q^\top Y, \qquad m = F + 1.

    :math:`T` is the regression of the targets on the inputs, at the points. Any affine ``f`` has

    .. math::
        \sum_i \lVert f(x_i) - y_i \rVert^2
            = \frac{n}{m} \sum_j \lVert f(p_j) - t_j \rVert^2 + \lVert Y - QQ^\top Y \rVert^2 .

    Args:
        x: Inputs ``[n, F]`` with ``n > F``.
        y: Targets ``[n, O]``.

    Returns:
        Points ``[F + 1, F]`` and targets ``[F + 1, O]`` in the type of ``x``, computed in float64 on
        the CPU; and what turns half the squared error summed over them into that over the samples.

    Example:
        >>> points, targets, loss = moment_points(torch.tensor([[0.0], [0.0], [3.0]]), torch.zeros(3, 1))
        >>> [round(value.item(), 4) for value in (points.mean(), points.var(correction=0))], loss.scale
        ([1.0, 2.0], 1.5)
    """
    inputs, outputs = x.to("cpu", torch.float64), y.to("cpu", torch.float64)
    samples, features = inputs.shape
    count = features + 1
    mean, target_mean = inputs.mean(0), outputs.mean(0)
    q, r = torch.linalg.qr(inputs - mean)
    centred = outputs - target_mean
    coefficients = q.T @ centred
    spread = _contrasts(count) * (count / samples) ** 0.5
    rest = 0.5 * (centred - q @ coefficients).square().sum().item()
    points, targets = mean + spread @ r, target_mean + spread @ coefficients
    return points.to(x), targets.to(y), Loss(samples / count, rest)


def on_moment_points(dataset: Dataset) -> tuple[Dataset, Loss, Loss]:
    """Return a data set of the points of both splits, and the losses of both."""
    train_x, train_y, train = moment_points(dataset.train_x, dataset.train_y)
    test_x, test_y, test = moment_points(dataset.test_x, dataset.test_y)
    points = replace(dataset, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    return points, train, test


def _contrasts(count: int) -> Tensor:
    """Return Helmert's ``count - 1`` orthonormal columns that are orthogonal to ones."""
    row, column = torch.arange(count)[:, None], torch.arange(1, count)
    length = (column * (column + 1)).double().sqrt()
    return (row < column).double().div(length) - (row == column) * column / length
