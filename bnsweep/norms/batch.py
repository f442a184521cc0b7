"""Batch normalization."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BatchNorm"]


class BatchNorm(nn.Module):
    r"""Give every channel mean 0 and variance 1 over the batch [1].

    With :math:`m = NHW` values per channel :math:`c` (:math:`m = N` for a linear layer),

    .. math::
        y = \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \varepsilon}}\,\gamma_c + \beta_c, \qquad
        \mu_c = \frac{1}{m}\sum x, \qquad \sigma_c^2 = \frac{1}{m}\sum (x - \mu_c)^2 .

    Training uses the statistics of the batch and moves ``running_mean`` and ``running_var`` towards
    them by ``momentum``; evaluation uses the running ones. As in :class:`torch.nn.BatchNorm2d`, the
    running variance is the unbiased one (divided by :math:`m - 1`). Nothing counts batches.

    Members of a stack need nothing special: a stack of K has ``K * C`` channels. torch adds up in
    float64 where the values of a channel lie side by side, and in float32 otherwise, so each channel
    is laid out so: the statistics are accurate for any batch, and do not depend on how many channels
    there are.

    Args:
        num_features: Channels ``C`` of one member.
        members: Members ``K`` of the stack.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
        affine: Learn ``weight`` (gamma, starts at 1) and ``bias`` (beta, starts at 0).

    Shape:
        - Input: ``[N, K*C]`` or ``[N, K*C, H, W]``, floating point.
        - Output: as the input.

    Raises:
        ValueError: In training, if a channel holds a single value.

    Example:
        >>> norm = BatchNorm(1, eps=0.0, affine=False)
        >>> norm(torch.tensor([[1.0], [3.0]])).flatten()
        tensor([-1.,  1.])
        >>> norm.running_mean, norm.running_var  # 0.1 * 2, and 0.9 * 1 + 0.1 * 2
        (tensor([0.2000]), tensor([1.1000]))

    References:
        [1] Ioffe, Szegedy. Batch Normalization. ICML 2015. https://arxiv.org/abs/1502.03167
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        members: int = 1,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        channels = members * num_features
        self.eps, self.momentum = eps, momentum
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``; in training, update the running statistics in place."""
        count = x.numel() // x.shape[1]
        if self.training and count < 2:
            raise ValueError(
                f"batch normalization needs at least 2 values per channel in training, but found {count} "
                f"in an input of shape {tuple(x.shape)}; use a larger batch"
            )
        if count == len(x):
            columns = x.flatten(1).t().contiguous()  # [K*C, N]
            return self._normalize(columns[None])[0].t().reshape(x.shape)
        return self._normalize(x.contiguous())

    def _normalize(self, x: Tensor) -> Tensor:
        return torch.batch_norm(  # torch.nn.functional.batch_norm refuses eps = 0
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.training,
            self.momentum,
            self.eps,
            torch.backends.cudnn.enabled,
        )
