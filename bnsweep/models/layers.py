"""Weight layers for a stack of K members."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["StackedConv", "StackedLinear"]


class StackedConv(nn.Module):
    """K padded 3 x 3 convolutions side by side: one grouped convolution.

    On a single pixel only the centre tap of a padded 3 x 3 kernel meets data: the convolution is
    computed there as a batched matrix product, and the gradient of the other taps is exactly 0.

    Args:
        inputs: Channels ``I`` that each member takes.
        outputs: Channels ``O`` that each member returns.
        members: Members ``K`` of the stack.
        bias: Whether a bias is added.
        norm: Normalization of the output, kept here so that it is part of the layer; it is the
            network that calls it.

    Shape:
        - Input: ``[N, K*I, H, W]``, member-major.
        - Output: ``[N, K*O, H, W]``.
        - ``weight``: ``[K*O, I, 3, 3]``; ``bias``: ``[K*O]``.
    """

    weight: Tensor
    bias: Tensor | None
    norm: nn.Module

    def __init__(self, inputs: int, outputs: int, members: int, *, bias: bool, norm: nn.Module) -> None:
        super().__init__()
        self.members = members
        self.weight = nn.Parameter(torch.zeros(members * outputs, inputs, 3, 3))
        self.register_parameter("bias", nn.Parameter(torch.zeros(members * outputs)) if bias else None)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each member's channels with its own kernels."""
        if x.shape[2] * x.shape[3] > 1:
            return F.conv2d(x, self.weight, self.bias, padding=1, groups=self.members)
        centre = self.weight[:, :, 1, 1].contiguous()
        return _stacked_product(x.flatten(1), centre, self.bias, self.members)[:, :, None, None]


class StackedLinear(nn.Module):
    """K linear layers side by side: one batched matrix product.

    Args:
        inputs: Units ``I`` that each member takes.
        outputs: Units ``O`` that each member returns.
        members: Members ``K`` of the stack.
        bias: Whether a bias is added.
        norm: Normalization of the output, kept here so that it is part of the layer; it is the
            network that calls it.

    Shape:
        - Input: ``[N, K*I]``, member-major, or ``[K, N, I]``.
        - Output: ``[N, K*O]``, member-major; the samples of a unit lie side by side in memory, which
          is how the next layer and norm read it without a copy.
        - ``weight``: ``[K*O, I]``; ``bias``: ``[K*O]``.
    """

    weight: Tensor
    bias: Tensor | None
    norm: nn.Module

    def __init__(self, inputs: int, outputs: int, members: int, *, bias: bool, norm: nn.Module) -> None:
        super().__init__()
        self.members = members
        self.weight = nn.Parameter(torch.zeros(members * outputs, inputs))
        self.register_parameter("bias", nn.Parameter(torch.zeros(members * outputs)) if bias else None)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each member's units with its own weights."""
        return _stacked_product(x, self.weight, self.bias, self.members)


def _stacked_product(x: Tensor, weight: Tensor, bias: Tensor | None, members: int) -> Tensor:
    """Return ``x @ weight.T + bias`` of every member, ``[N, K*O]``, from ``[N, K*I]`` or ``[K, N, I]``."""
    columns = x.transpose(1, 2) if x.dim() == 3 else x.t().reshape(members, -1, len(x))  # [K, I, N]
    stacked = weight.view(members, -1, weight.shape[1])
    if bias is None:
        return torch.bmm(stacked, columns).flatten(0, 1).t()
    return torch.baddbmm(bias.view(members, -1, 1), stacked, columns).flatten(0, 1).t()
