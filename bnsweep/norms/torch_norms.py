"""Layer, group, instance and root-mean-square normalization, through torch's own functions.

They normalize each sample for itself, so training and evaluation are the same. All learn one scale
and shift for each channel (``rms`` no shift), in convolutions too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnsweep.errors import Mistake, SpecError

__all__ = ["GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class GroupNorm(nn.Module):
    r"""Give every group of channels of a sample mean 0 and variance 1 [1].

    .. math::
        y = \frac{x - \mu_S}{\sqrt{\sigma_S^2 + \varepsilon}}\,\gamma_c + \beta_c

    with :math:`S` the ``C / g`` channels of one of the ``g = gcd(groups, C)`` groups, and all
    pixels. Where a group holds a single value, ``y`` is ``bias`` whatever ``x`` is.

    Args:
        num_features: Channels ``C`` of one member.
        members: Members ``K`` of the stack.
        groups: Groups wanted; the greatest common divisor with ``C`` is used.
        eps: Added to the variance.
        affine: Learn ``weight`` (gamma, starts at 1) and ``bias`` (beta, starts at 0), per channel.

    Shape:
        - Input: ``[N, K*C]`` or ``[N, K*C, H, W]``, floating point.
        - Output: as the input.

    Example:
        >>> norm = GroupNorm(4, groups=6, eps=0.0)  # gcd(6, 4) = 2 groups of 2 channels
        >>> norm(torch.tensor([[1.0, 3.0, 10.0, 30.0]])).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]

    References:
        [1] Wu, He. Group Normalization. ECCV 2018. https://arxiv.org/abs/1803.08494
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        members: int = 1,
        *,
        groups: int = 32,
        eps: float = 1e-5,
        affine: bool = True,
    ) -> None:
        super().__init__()
        channels = members * num_features
        self.groups, self.eps = members * math.gcd(groups, num_features), eps
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``."""
        return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)


class LayerNorm(nn.Module):
    r"""Give every sample mean 0 and variance 1 over all its channels and pixels [1].

    .. math::
        y = \frac{x - \mu_S}{\sqrt{\sigma_S^2 + \varepsilon}}\,\gamma_c + \beta_c, \qquad S = (C, H, W)

    The scale and shift are those of a channel, not of a pixel as in :class:`torch.nn.LayerNorm`.

    Args:
        num_features: Channels ``C`` of one member.
        members: Members ``K`` of the stack, each normalized for itself.
        eps: Added to the variance.
        affine: Learn ``weight`` (gamma, starts at 1) and ``bias`` (beta, starts at 0), per channel.

    Shape:
        - Input: ``[N, K*C]`` or ``[N, K*C, H, W]``, floating point.
        - Output: as the input.

    Example:
        >>> LayerNorm(2, members=2, eps=0.0)(torch.tensor([[1.0, 3.0, 10.0, 30.0]])).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]

    References:
        [1] Ba, Kiros, Hinton. Layer Normalization. 2016. https://arxiv.org/abs/1607.06450
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, num_features: int, members: int = 1, *, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__()
        channels = members * num_features
        self.members, self.eps = members, eps
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``."""
        return F.group_norm(x, self.members, self.weight, self.bias, self.eps)


class InstanceNorm(nn.Module):
    r"""Give every channel of a sample mean 0 and variance 1 over its pixels [1].

    .. math::
        y = \frac{x - \mu_S}{\sqrt{\sigma_S^2 + \varepsilon}}\,\gamma_c + \beta_c, \qquad S = (H, W)

    Args:
        num_features: Channels ``C`` of one member.
        members: Members ``K`` of the stack.
        eps: Added to the variance.
        affine: Learn ``weight`` (gamma, starts at 1) and ``bias`` (beta, starts at 0), per channel.

    Shape:
        - Input: ``[N, K*C, H, W]`` with two pixels or more, floating point.
        - Output: as the input.

    Raises:
        SpecError: If the input has no pixels to normalize over: ``[N, K*C]``, or a single pixel.

    Example:
        >>> InstanceNorm(1, eps=0.0)(torch.tensor([[[[1.0, 3.0]]]])).flatten().tolist()
        [-1.0, 1.0]

    References:
        [1] Ulyanov, Vedaldi, Lempitsky. Instance Normalization. 2016. https://arxiv.org/abs/1607.08022
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, num_features: int, members: int = 1, *, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__()
        channels = members * num_features
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``."""
        if x.dim() != 4 or x.shape[2] * x.shape[3] < 2:
            raise SpecError(
                [
                    Mistake(
                        "parameters.norm",
                        "instance needs activations of two pixels or more",
                        f"an input of shape {tuple(x.shape)}",
                        "use layer, group or rms",
                    )
                ]
            )
        return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    r"""Divide every sample by its root mean square over all channels and pixels [1].

    .. math::
        y = \frac{x}{\sqrt{\frac{1}{|S|}\sum_S x^2 + \varepsilon}}\,\gamma_c, \qquad S = (C, H, W)

    Nothing is centred and there is no shift.

    Args:
        num_features: Channels ``C`` of one member.
        members: Members ``K`` of the stack, each normalized for itself.
        eps: Added to the mean square.
        affine: Learn ``weight`` (gamma, starts at 1), per channel.

    Shape:
        - Input: ``[N, K*C]`` or ``[N, K*C, H, W]``, floating point.
        - Output: as the input.

    Example:
        >>> RMSNorm(2, eps=0.0)(torch.tensor([[1.0, 7.0]])).tolist()  # root mean square 5
        [[0.20000000298023224, 1.399999976158142]]

    References:
        [1] Zhang, Sennrich. Root Mean Square Layer Normalization. NeurIPS 2019.
        https://arxiv.org/abs/1910.07467
    """

    weight: Tensor | None

    def __init__(
        self, num_features: int, members: int = 1, *, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__()
        self.members, self.eps = members, eps
        weight = nn.Parameter(torch.ones(members * num_features)) if affine else None
        self.register_parameter("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``."""
        if x.shape[1] * len(x) == x.numel():
            columns = x.flatten(1).t().reshape(self.members, -1, len(x))
            return self._normalize(columns, (1,)).flatten(0, 1).t().reshape(x.shape)
        samples = x.reshape(len(x), self.members, x.shape[1] // self.members, -1)
        return self._normalize(samples, (2, 3)).reshape(x.shape)

    def _normalize(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Normalize over ``axes``; the axes ``K, C`` of ``x`` are followed by one more."""
        y = x * (x.square().mean(axes, keepdim=True) + self.eps).rsqrt()
        return y if self.weight is None else y * self.weight.view(self.members, -1, 1)
