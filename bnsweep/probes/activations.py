"""The distribution of one activation a layer over the batch, as the paper plots it over training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnsweep.probes.reductions import pairwise_sum

__all__ = ["LEVELS", "ActivationsReading", "sampled_activations"]

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Levels of the quantiles that stand for a histogram."""


@dataclass(frozen=True)
class ActivationsReading:
    """The distribution of one unit at every site, float64 on the CPU.

    Attributes:
        mean: Mean over the batch, ``[n, K]`` for ``n`` sites.
        variance: Biased variance, of the same shape.
        quantiles: At :data:`LEVELS`, ``[len(LEVELS), n, K]``.
    """

    mean: Tensor
    variance: Tensor
    quantiles: Tensor


def sampled_activations(record: Sequence[Tensor], members: int) -> ActivationsReading:
    """Return mean, variance and quantiles of each site's first unit (Figures 1 (c), 2, 6 and 8 of [1]).

    The paper samples a unit and plots histograms of it over training. The first one is as good a sample as
    any, and the same in every condition. Height and width count as batch.

    Args:
        record: The activations of each site, ``[N, K*C]`` or ``[N, K*C, ...]``.
        members: Number of members ``K``.

    Returns:
        The reading, one row a site. Quantiles interpolate linearly between order statistics.

    Raises:
        ValueError: If there is no site, or a second axis is no multiple of ``members``.

    Example:
        >>> reading = sampled_activations([torch.tensor([[1.0, 9.0], [3.0, 9.0]])], members=1)
        >>> reading.mean.item(), reading.variance.item(), reading.quantiles[:, 0, 0].tolist()
        (2.0, 1.0, [1.1, 1.5, 2.0, 2.5, 2.9])

    References:
        [1] Santurkar, Tsipras, Ilyas, Madry. How Does Batch Normalization Help Optimization?
        NeurIPS 2018, Section 2.1 and Appendix A. https://arxiv.org/abs/1805.11604
    """
    shapes = [tuple(values.shape) for values in record]
    if not record or any(len(shape) < 2 or shape[1] % members for shape in shapes):
        raise ValueError(f"record must hold sites [N, {members} * C, ...], but found {shapes}")
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    means, variances, quantiles = [], [], []
    for values in record:
        unit = values.detach()[:, :: values.shape[1] // members]  # [N, K, ...]
        rows = unit.transpose(0, 1).flatten(1).to(torch.float64)
        mean = pairwise_sum(rows) / rows.shape[1]
        means.append(mean.cpu())
        variances.append((pairwise_sum((rows - mean[:, None]).square()) / rows.shape[1]).cpu())
        quantiles.append(torch.quantile(rows.cpu(), levels, dim=1))
    return ActivationsReading(torch.stack(means), torch.stack(variances), torch.stack(quantiles, 1))
