r"""The gradients of a deep linear network without norm in closed form, from second moments of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["linear_gradients"]


def linear_gradients(
    weights: Sequence[Tensor], earlier: Sequence[Tensor], x: Tensor, y: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Yield the gradient by every layer, and that with other weights in the layers before it.

    For :math:`L = \tfrac12 \sum_n \lVert W_k \cdots W_1 x_n - y_n \rVert^2` and layer :math:`i`, with
    :math:`S_i = W_k \cdots W_{i+1}` and :math:`P_i = V_{i-1} \cdots V_1`,

    .. math::
        \nabla_{W_i} L(V_1, \dots, V_{i-1}, W_i, \dots, W_k)
            = S_i^\top \bigl( S_{i-1} P_i X X^\top - Y X^\top \bigr) P_i^\top .

    The data enter through :math:`X X^\top` and :math:`Y X^\top` alone, so a layer costs a few products of
    weight matrices, whatever the number of samples. All is computed in float64.

    Args:
        weights: :math:`W_1, \dots, W_k`, each ``[K, O, I]``.
        earlier: :math:`V_1, \dots, V_k`, of the same shapes; the last does not matter.
        x: Inputs, ``[K, N, I]``.
        y: Targets, ``[K, N, O]``.

    Yields:
        For each layer, from the first, the gradients by its weights, float64 ``[K, O, I]``: with the layers
        before it as they are, and with the other weights there.

    Example:
        Two scalar layers on :math:`x = 1, y = 1`, so that :math:`\partial L / \partial w_2 = w_1 (w_1 w_2
        - 1)`: 2 with the old :math:`w_1 = 2`, and 6 with the new one, 3.

        >>> one = torch.ones(1, 1, 1)
        >>> found = linear_gradients([2 * one, one], [3 * one, 9 * one], one, one)
        >>> [(still.item(), moved.item()) for still, moved in found]
        [(1.0, 1.0), (2.0, 6.0)]
    """
    inputs, targets = _double(x), _double(y)
    square, cross = inputs.mT @ inputs, targets.mT @ inputs
    behind = [_double(weights[-1])]  # W_k, W_k W_{k-1}, ..., S_0
    for matrix in reversed(weights[:-1]):
        behind.append(behind[-1] @ _double(matrix))
    product = behind.pop()
    error = other = product @ square - cross  # (S_0 X - Y) X^T, and P_i^T from the right with the old weights
    for old, new in zip(weights, earlier, strict=True):
        if not behind:
            yield error, other
            return
        product = behind.pop()
        still = product.mT @ error
        yield still, still if other is error else product.mT @ other
        error = error @ _double(old).mT
        v = _double(new)
        square, cross = v @ square @ v.mT, cross @ v.mT
        other = (product @ square).sub_(cross)


def _double(matrix: Tensor) -> Tensor:
    return matrix.detach().to(torch.float64)
