"""Lp normalization: batch normalization with another magnitude in the place of the standard deviation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["LpNorm"]


class LpNorm(nn.Module):
    r"""Centre every channel over the batch, then divide by its mean :math:`\ell_p` magnitude [1].

    With :math:`m = NHW` values per channel :math:`c` (:math:`m = N` for a linear layer),

    .. math::
        y = \frac{x - \mu_c}{s_c + \varepsilon}\,\gamma_c + \beta_c, \qquad
        \mu_c = \frac{1}{m}\sum x, \qquad
        s_c = \Bigl(\frac{1}{m}\sum |x|^p\Bigr)^{1/p},

    and :math:`s_c = \max |x|` for :math:`p = \infty`. The gradient goes through :math:`\mu_c` and
    :math:`s_c`.

    :math:`s_c` is taken *before* the mean is removed [1, Sec. 3.3], so ``p=2`` gives the root mean
    square and not the standard deviation; with ``centered``, :math:`|x - \mu_c|` stands for
    :math:`|x|`, and ``p=2`` is batch normalization up to where :math:`\varepsilon` is added. The
    paper does not say over which axes the magnitude is averaged, nor what evaluation uses: we
    reduce over the axes that batch normalization reduces over, and keep running averages of
    :math:`\mu_c` and of :math:`s_c` as it is divided by.

    With ``gaussian``, :math:`s_c` is divided by its value for a standard normal, so that it
    estimates the standard deviation: :math:`\sqrt{2/\pi}` for ``p=1``, 1 for ``p=2``, and
    :math:`\sqrt{2 \ln m}` for :math:`p = \infty`, the leading term of the expected maximum of
    :math:`m` values (at :math:`m = 128` it is 3.1, the expectation of the largest :math:`|x|` 2.8).
    Without it, the running average of the maximum depends on the batch size.

    Args:
        num_features: Channels ``C`` of one member.
        members: Members ``K`` of the stack.
        p: Order of the magnitude: 1, 2 or ``math.inf``.
        eps: Added to the magnitude, in the units of the activations.
        momentum: Weight of the newest batch in the running statistics.
        affine: Learn ``weight`` (gamma, starts at 1) and ``bias`` (beta, starts at 0).
        centered: Take the magnitude after the mean is removed.
        gaussian: Divide the magnitude by its value for a standard normal.

    Shape:
        - Input: ``[N, K*C]`` or ``[N, K*C, H, W]``, floating point.
        - Output: as the input.

    Raises:
        ValueError: If ``p`` is not 1, 2 or infinity; in training, if a channel holds a single value.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])  # mean 2, mean |x| 2, max |x| 3
        >>> LpNorm(1, p=1, eps=0.0, affine=False)(x).flatten()
        tensor([-0.5000,  0.5000])
        >>> LpNorm(1, p=math.inf, eps=0.0, affine=False)(x).flatten()
        tensor([-0.3333,  0.3333])

    References:
        [1] Santurkar, Tsipras, Ilyas, Madry. How Does Batch Normalization Help Optimization?
        NeurIPS 2018. https://arxiv.org/abs/1805.11604
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_magnitude: Tensor

    def __init__(
        self,
        num_features: int,
        members: int = 1,
        *,
        p: float,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        centered: bool = False,
        gaussian: bool = False,
    ) -> None:
        super().__init__()
        if p not in (1, 2, math.inf):
            raise ValueError(f"p must be 1, 2 or math.inf, but found {p!r}")
        channels = members * num_features
        self.p, self.eps, self.momentum = float(p), eps, momentum
        self.centered, self.gaussian = centered, gaussian
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_magnitude", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``; in training, update the running statistics in place."""
        if self.training:
            mean, magnitude = self._statistics(x)
            for running, value in ((self.running_mean, mean), (self.running_magnitude, magnitude)):
                running.mul_(1 - self.momentum).add_(value.detach(), alpha=self.momentum)
        else:
            mean, magnitude = self.running_mean, self.running_magnitude
        scale = (magnitude + self.eps).reciprocal()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        shape = (-1,) + (1,) * (x.dim() - 2)
        return torch.addcmul(shift.view(shape), x, scale.view(shape))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and magnitude of every channel, both ``[K*C]``."""
        axes = [0, *range(2, x.dim())]
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ValueError(
                f"Lp normalization needs at least 2 values per channel in training, but found {count} "
                f"in an input of shape {tuple(x.shape)}; use a larger batch"
            )
        mean = x.mean(axes)
        values = x - mean.view((-1,) + (1,) * (x.dim() - 2)) if self.centered else x
        if self.p == 1:
            magnitude, normal = values.abs().mean(axes), math.sqrt(2 / math.pi)
        elif self.p == 2:
            # the root has no gradient at 0, where a channel is dead
            smallest = torch.finfo(x.dtype).tiny
            magnitude, normal = values.square().mean(axes).clamp_min(smallest).sqrt(), 1.0
        else:
            magnitude, normal = values.abs().amax(axes), math.sqrt(2 * math.log(count))
        return mean, magnitude / normal if self.gaussian else magnitude
