"""What a member minimizes: its loss on one batch, as one value a member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Loss", "accuracy", "batch_loss", "l2_gradients", "l2_penalty"]


@dataclass(frozen=True)
class Loss:
    """What turns the loss on points that stand for samples into the samples': ``scale * loss + constant``."""

    scale: float = 1.0
    constant: float = 0.0

    def of(self, losses: Tensor) -> Tensor:
        """Return the losses on the samples."""
        return losses if self == Loss() else losses * self.scale + self.constant


def batch_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Return each member's loss on its batch.

    Cross-entropy, averaged over the batch, for integer targets; for real-valued targets the deep
    linear network's :math:`\tfrac12\sum\lVert\hat y-y\rVert^2`, *summed* over the batch, since the
    paper's learning rate of 1e-6 makes sense for a sum only.

    Args:
        outputs: ``[K, N, classes]`` or ``[K, N, features]``.
        targets: ``[K, N]`` of integers, or ``[K, N, features]``.

    Returns:
        ``[K]``.

    Example:
        >>> batch_loss(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[0.0, 0.0]]]))
        tensor([5.])

    References:
        Santurkar et al. 2018, Sec. 2 and App. A.1. https://arxiv.org/abs/1805.11604
    """
    if targets.dtype.is_floating_point:
        return 0.5 * (outputs - targets).square().flatten(1).sum(1)
    return functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return each member's share of samples whose largest output is the target, ``[K]``.

    Args:
        outputs: ``[K, N, classes]``.
        targets: ``[K, N]`` of integers.

    Returns:
        Values in [0, 1] in double precision.
    """
    return (outputs.argmax(-1) == targets).double().mean(1)


def l2_penalty(params: Mapping[str, Tensor], decayed: Sequence[str], strength: Tensor) -> Tensor:
    r"""Return :math:`\tfrac{\lambda}{2}\lVert w\rVert^2` of each member over the parameters named.

    Where :math:`\lambda = 0` the penalty is 0 whatever the weights, even where their squares overflow.

    Args:
        params: Parameters by name, leading axis ``K * d``.
        decayed: Names of the parameters that count.
        strength: :math:`\lambda` of each member, ``[K]``.

    Returns:
        ``[K]``.
    """
    members, counts = len(strength), (strength > 0)[:, None]
    rows = [torch.where(counts, params[name].reshape(members, -1), 0.0) for name in decayed]
    # added one after another: what torch's sums round depends on how many members lie side by side
    return 0.5 * strength * sum((row.square().sum(1) for row in rows), torch.zeros_like(strength))


def l2_gradients(params: Mapping[str, Tensor], decayed: Sequence[str], strength: Tensor) -> dict[str, Tensor]:
    r"""Return the gradients of :func:`l2_penalty`, :math:`\lambda w`, by the parameters named."""
    rows = {name: params[name].reshape(len(strength), -1) for name in decayed}
    factor = strength[:, None]
    return {
        name: torch.where(factor > 0, factor * row, 0.0).view_as(params[name]) for name, row in rows.items()
    }
