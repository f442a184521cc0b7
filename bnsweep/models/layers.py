"""Weight layers for a stack of K members."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["StackedConv", "StackedLinear"]

_LAST = torch.channels_last


class _Stacked(nn.Module, ABC):
    """What both kinds of layer have: parameters for K members, and the precision of their products."""

    weight: Tensor
    bias: Tensor | None
    norm: nn.Module

    products: torch.dtype | None = None
    """What inputs, weights and bias are rounded to before they are multiplied, and the output with them;
    ``None`` for their own type. Parameters and what leaves the layer keep theirs."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute each member's layer, in the type of ``products``."""
        weight, bias = self.weight, self.bias
        if self.products is None:
            return self._product(x, weight, bias)
        lower = self.products
        output = self._product(x.to(lower), weight.to(lower), None if bias is None else bias.to(lower))
        return output.to(weight.dtype)

    @abstractmethod
    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute each member's layer from operands of one type."""


class StackedConv(_Stacked):
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
        kernel: One of :data:`bnsweep.names.KERNELS`.

    Shape:
        - Input: ``[N, K*I, H, W]``, member-major.
        - Output: ``[N, K*O, H, W]``, contiguous, whatever the kernel: norms add up accurately then.
        - ``weight``: ``[K*O, I, 3, 3]``; ``bias``: ``[K*O]``.
    """

    def __init__(
        self, inputs: int, outputs: int, members: int, *, bias: bool, norm: nn.Module, kernel: str = "grouped"
    ) -> None:
        super().__init__()
        self.members, self.kernel = members, kernel
        self.weight = nn.Parameter(torch.zeros(members * outputs, inputs, 3, 3))
        self.register_parameter("bias", nn.Parameter(torch.zeros(members * outputs)) if bias else None)
        self.norm = norm

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve each member's channels with its own kernels."""
        if self.kernel.startswith("loop"):
            return self._one_by_one(x, weight, bias)
        if x.shape[2] * x.shape[3] == 1:
            centre = weight[:, :, 1, 1].contiguous()
            return _stacked_product(x.flatten(1), centre, bias, self.members)[:, :, None, None]
        if self.kernel == "channels_last":
            x, weight = x.contiguous(memory_format=_LAST), weight.contiguous(memory_format=_LAST)
        return F.conv2d(x, weight, bias, padding=1, groups=self.members).contiguous()

    def _one_by_one(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layout = _LAST if self.kernel == "loop_channels_last" else torch.contiguous_format
        biases = bias.chunk(self.members) if bias is not None else [None] * self.members
        parts = zip(x.chunk(self.members, 1), weight.chunk(self.members), biases, strict=True)
        outputs = [
            F.conv2d(
                own.contiguous(memory_format=layout),
                kernels.contiguous(memory_format=layout),
                added,
                padding=1,
            )
            for own, kernels, added in parts
        ]
        return torch.cat(outputs, 1).contiguous()


class StackedLinear(_Stacked):
    """K linear layers side by side: one batched matrix product.

    Args:
        inputs: Units ``I`` that each member takes.
        outputs: Units ``O`` that each member returns.
        members: Members ``K`` of the stack.
        bias: Whether a bias is added.
        norm: Normalization of the output, kept here so that it is part of the layer; it is the
            network that calls it.
        kernel: One of :data:`bnsweep.names.KERNELS`.

    Shape:
        - Input: ``[N, K*I]``, member-major, or ``[K, N, I]``.
        - Output: ``[N, K*O]``, member-major; the samples of a unit lie side by side in memory, which
          is how the next layer and norm read it without a copy.
        - ``weight``: ``[K*O, I]``; ``bias``: ``[K*O]``.
    """

    def __init__(
        self, inputs: int, outputs: int, members: int, *, bias: bool, norm: nn.Module, kernel: str = "grouped"
    ) -> None:
        super().__init__()
        self.members, self.kernel = members, kernel
        self.weight = nn.Parameter(torch.zeros(members * outputs, inputs))
        self.register_parameter("bias", nn.Parameter(torch.zeros(members * outputs)) if bias else None)
        self.norm = norm

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply each member's units with its own weights."""
        if self.kernel.startswith("loop"):
            return self._one_by_one(x, weight, bias)
        return _stacked_product(x, weight, bias, self.members)

    def _one_by_one(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        biases = bias.chunk(self.members) if bias is not None else [None] * self.members
        inputs = x.unbind(0) if x.dim() == 3 else x.chunk(self.members, 1)
        parts = zip(inputs, weight.chunk(self.members), biases, strict=True)
        return torch.cat([F.linear(own.contiguous(), rows, added) for own, rows, added in parts], 1)


def _stacked_product(x: Tensor, weight: Tensor, bias: Tensor | None, members: int) -> Tensor:
    """Return ``x @ weight.T + bias`` of every member, ``[N, K*O]``, from ``[N, K*I]`` or ``[K, N, I]``."""
    columns = x.transpose(1, 2) if x.dim() == 3 else x.t().reshape(members, -1, len(x))  # [K, I, N]
    stacked = weight.view(members, -1, weight.shape[1])
    if bias is None:
        return torch.bmm(stacked, columns).flatten(0, 1).t()
    return torch.baddbmm(bias.view(members, -1, 1), stacked, columns).flatten(0, 1).t()
