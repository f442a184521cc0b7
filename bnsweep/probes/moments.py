"""Mean and variance of activations, and how much they change from one step to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnsweep.probes.reductions import pairwise_sum

__all__ = ["ActivationMoments", "MomentsReading", "activation_moments", "moment_change"]

_CHUNK = 1 << 22
"""Values that are worked on in float64 at a time; 32 MiB."""


@dataclass(frozen=True)
class ActivationMoments:
    """Moments of every unit at every site, float64 on the CPU.

    Attributes:
        mean: For each site, the mean of every unit, ``[K, C]``.
        variance: For each site, the biased variance of every unit, ``[K, C]``.
    """

    mean: tuple[Tensor, ...]
    variance: tuple[Tensor, ...]


@dataclass(frozen=True)
class MomentsReading:
    r"""Step-to-step change of the activations' moments, one column a member.

    Attributes:
        mean_change: Mean over the units of :math:`|\mu^{(t+1)} - \mu^{(t)}|`, float64 ``[n, K]``
            on the CPU for ``n`` sites.
        variance_change: Mean over the units of :math:`|v^{(t+1)} - v^{(t)}|`, likewise.
    """

    mean_change: Tensor
    variance_change: Tensor


def activation_moments(record: Sequence[Tensor], members: int) -> ActivationMoments:
    r"""Return mean and variance of every unit over the batch.

    For a unit with activations :math:`x_1, \dots, x_m`, where height and width count as batch,
    :math:`\mu = \frac{1}{m} \sum x` and :math:`v = \frac{1}{m} \sum (x - \mu)^2` (biased, as batch
    normalization takes it), in two passes in float64.

    Args:
        record: The activations of each site, ``[N, K*C]`` or ``[N, K*C, ...]``.
        members: Number of members ``K``.

    Returns:
        The moments, in the order of ``record``.

    Raises:
        ValueError: If a site has no values, or its second axis is no multiple of ``members``.

    Example:
        >>> moments = activation_moments([torch.tensor([[1.0, 0.0], [3.0, 8.0]])], members=2)
        >>> moments.mean[0].flatten().tolist(), moments.variance[0].flatten().tolist()
        ([2.0, 4.0], [1.0, 16.0])
    """
    means, variances = [], []
    for site, values in enumerate(record):
        if values.dim() < 2 or values.shape[1] % members or not values.numel():
            raise ValueError(
                f"site {site} must have the shape [N, {members} * C, ...] and hold values, but found "
                f"{tuple(values.shape)}"
            )
        columns = max(1, _CHUNK // (values.numel() // values.shape[1]))
        parts = [_mean_and_variance(part) for part in torch.split(values.detach(), columns, dim=1)]
        mean, variance = (torch.cat(moment).cpu() for moment in zip(*parts, strict=True))
        means.append(mean.reshape(members, -1))
        variances.append(variance.reshape(members, -1))
    return ActivationMoments(tuple(means), tuple(variances))


def moment_change(before: ActivationMoments, after: ActivationMoments) -> MomentsReading:
    r"""Return how much the moments changed between two steps (Figure 8 of [1]).

    The paper follows one sampled activation a layer; here the absolute change is averaged over
    all units of a site, which has the same expectation and less noise. To reproduce the
    figure, take the moments that two consecutive training steps see, each on its own batch and
    with its own noise draw.

    Args:
        before: Moments at step t.
        after: Moments at step t + 1, of the same network.

    Returns:
        The reading, one row a site.

    Raises:
        ValueError: If there are no sites, or the sites and their units differ.

    Example:
        >>> before = activation_moments([torch.tensor([[1.0, 0.0], [3.0, 8.0]])], members=1)
        >>> after = activation_moments([torch.tensor([[2.0, 3.0], [4.0, 11.0]])], members=1)
        >>> moment_change(before, after).mean_change
        tensor([[2.]], dtype=torch.float64)

    References:
        [1] Santurkar, Tsipras, Ilyas, Madry. How Does Batch Normalization Help Optimization?
        NeurIPS 2018, Appendix A. https://arxiv.org/abs/1805.11604
    """
    shapes = [[tuple(mean.shape) for mean in moments.mean] for moments in (before, after)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise ValueError(
            "before and after must hold the same sites with the same [K, C], at least one, but found "
            f"{shapes[0]} and {shapes[1]}"
        )
    return MomentsReading(
        _mean_difference(before.mean, after.mean),
        _mean_difference(before.variance, after.variance),
    )


def _mean_and_variance(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the moments of every column of ``[N, columns, ...]``, float64."""
    flat = values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    count = flat.shape[0] * flat.shape[2]
    mean = pairwise_sum(pairwise_sum(flat, dim=0)) / count
    squares = (flat.to(torch.float64) - mean.unsqueeze(1)).square()
    return mean, pairwise_sum(pairwise_sum(squares, dim=0)) / count


def _mean_difference(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> Tensor:
    rows = [pairwise_sum((new - old).abs()) / old.shape[1] for old, new in zip(before, after, strict=True)]
    return torch.stack(rows)
