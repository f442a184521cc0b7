r"""The gradients of a deep linear network without norm in closed form, from second moments of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["linear_gradients"]


def linear_gradients(
    weights: Sequence[Tensor], earlier: Sequence[Tensor], x: Tensor, y: Tensor
) -> list[Tensor]:
    r"""Return the gradient by every layer, the layers before it having other weights.

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

    Returns:
        The gradient by each layer's weights, float64 ``[K, O, I]``.

    Example:
        Two scalar layers on :math:`x = 1, y = 1`: :math:`\partial L / \partial w_2 = v_1 (v_1 w_2 - 1)`.

        >>> one = torch.ones(1, 1, 1)
        >>> [g.item() for g in linear_gradients([2 * one, one], [3 * one, 9 * one], one, one)]
        [1.0, 6.0]
    """
    w = [matrix.detach().to(torch.float64) for matrix in weights]
    v = [matrix.detach().to(torch.float64) for matrix in earlier]
    inputs, targets = x.detach().to(torch.float64), y.detach().to(torch.float64)
    square, cross = inputs.mT @ inputs, targets.mT @ inputs
    behind: list[Tensor | None] = [None]  # S_k, ..., S_0; nothing stands behind the last layer
    for matrix in reversed(w):
        last = behind[-1]
        behind.append(matrix if last is None else last @ matrix)
    gradients = []
    before: Tensor | None = None  # P_i, and nothing before the first layer
    moved_square, moved_cross = square, cross  # P_i X X^T, and Y X^T P_i^T
    for i in range(len(w)):
        after, through = behind[len(w) - 1 - i], behind[len(w) - i]
        assert through is not None
        spread = moved_square if before is None else moved_square @ before.mT
        error = through @ spread - moved_cross
        gradients.append(error if after is None else after.mT @ error)
        before = v[i] if before is None else v[i] @ before
        moved_square, moved_cross = v[i] @ moved_square, moved_cross @ v[i].mT
    return gradients
