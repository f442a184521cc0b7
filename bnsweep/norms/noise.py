"""The paper's noise after a normalization (Algorithm 1): a shift and a scale that change at every step.

Drawing and applying are apart. The draws do not depend on the noise level, so members of one stack
may differ in it, and a probe can evaluate a network again with the draws of the training step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnsweep.trial import derive_seed

__all__ = ["SiteNoise", "apply_noise", "at_sites", "draw_base", "draw_noise", "noise_factors"]

MEAN_BOUND = 0.5
"""n_mu: the mean of a unit's shift is uniform in (-n_mu, n_mu)."""

SCALE_EXCESS = 0.25
"""n_sigma - 1: the mean of a unit's scale is uniform in (1, n_sigma)."""

SPREAD = 0.1
"""r_mu = r_sigma: how far single samples spread around these means."""


@dataclass(frozen=True, eq=False)
class SiteNoise:
    """What is drawn for one site (one normalization) and one step, before the level is applied.

    Attributes:
        mu: Uniform in (0, 1), one for each unit: ``[1, K*C, 1, 1]``, or ``[1, K*C]``.
        sigma: Uniform in (0, 1), of the same shape.
        shift: Uniform in (0, 1), one for each value: ``[N, K*C, H, W]``, or ``[N, K*C]``.
        scale: Standard normal, of the same shape as ``shift``.
    """

    mu: Tensor
    sigma: Tensor
    shift: Tensor
    scale: Tensor

    def double(self) -> SiteNoise:
        """Return the same draws in double precision."""
        return SiteNoise(self.mu.double(), self.sigma.double(), self.shift.double(), self.scale.double())


def draw_noise(
    shapes: Sequence[tuple[int, ...]],
    batch: int,
    seeds: Sequence[int],
    step: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    purpose: str = "noise",
) -> list[SiteNoise]:
    """Draw the noise of every site for one step.

    Each member draws for itself, from one generator seeded with its own seed, the purpose and the
    step: one uniform and one normal draw, cut up over the sites. So a member's draws depend neither
    on the other members nor on its place among them.

    Args:
        shapes: Shape of one sample of one member at each site: ``(C, H, W)`` or ``(C,)``.
        batch: Samples ``N``.
        seeds: The members' seeds, ``K`` of them.
        step: The optimizer step.
        dtype: Floating-point type of the draws.
        device: Where to draw; the same seed draws other numbers on another kind of device.
        purpose: Tells draws of one seed and step apart, such as those of an evaluation.

    Returns:
        One :class:`SiteNoise` for each entry of ``shapes``.

    Example:
        >>> site, = draw_noise([(2, 3, 3)], 4, [7, 8], 0, dtype=torch.float32)
        >>> site.mu.shape, site.scale.shape
        (torch.Size([1, 4, 1, 1]), torch.Size([4, 4, 3, 3]))
    """
    drawn = draw_base(shapes, batch, seeds, step, dtype=dtype, device=device, purpose=purpose)
    return at_sites(shapes, batch, *drawn)


def draw_base(
    shapes: Sequence[tuple[int, ...]],
    batch: int,
    seeds: Sequence[int],
    step: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    purpose: str,
) -> tuple[Tensor, Tensor]:
    """Draw what :func:`at_sites` cuts up; the arguments are those of :func:`draw_noise`.

    Returns:
        Uniform draws ``[K, n]`` and normal ones ``[K, m]``.
    """
    values = batch * sum(math.prod(shape) for shape in shapes)
    normal = torch.empty(len(seeds), values, dtype=dtype, device=device)
    units = sum(shape[0] for shape in shapes)
    uniform = torch.empty(len(seeds), values + 2 * units, dtype=dtype, device=device)
    generator = torch.Generator(device)
    for member, seed in enumerate(seeds):
        generator.manual_seed(derive_seed(seed, purpose, step))
        uniform[member].uniform_(generator=generator)
        normal[member].normal_(generator=generator)
    return uniform, normal


def at_sites(
    shapes: Sequence[tuple[int, ...]], batch: int, uniform: Tensor, normal: Tensor
) -> list[SiteNoise]:
    """Cut the draws of :func:`draw_base` up over the sites; draws nothing."""
    members = len(uniform)
    values = [batch * math.prod(shape) for shape in shapes]
    sites = []
    sizes = [
        size for shape, count in zip(shapes, values, strict=True) for size in (shape[0], shape[0], count)
    ]
    pieces = iter(torch.split(uniform, sizes, 1))
    for shape, scale in zip(shapes, torch.split(normal, values, 1), strict=True):
        unit = (1, members * shape[0]) + (1,) * (len(shape) - 1)
        mu, sigma = next(pieces).reshape(unit), next(pieces).reshape(unit)
        shift = _member_major(next(pieces), batch, shape)
        sites.append(SiteNoise(mu, sigma, shift, _member_major(scale, batch, shape)))
    return sites


def _member_major(draws: Tensor, batch: int, shape: tuple[int, ...]) -> Tensor:
    """Turn ``[K, N*C*H*W]`` into ``[N, K*C, H, W]``; a single pixel has its samples side by side."""
    if math.prod(shape[1:]) == 1:
        return draws.reshape(len(draws) * shape[0], batch).t().reshape(batch, -1, *shape[1:])
    return draws.reshape(len(draws), batch, *shape).transpose(0, 1).flatten(1, 2)


def apply_noise(x: Tensor, site: SiteNoise, level: Tensor, sigma_is: str = "std") -> Tensor:
    r"""Scale and shift every value by the noise of level :math:`\nu` (Algorithm 1 of [1]).

    For sample i and unit j, where height and width of a convolution count as samples,

    .. math::
        \mu_j \sim U(-n_\mu, n_\mu), \quad \sigma_j \sim U(1, n_\sigma), \qquad
        m_{ij} \sim U(\mu_j - r_\mu, \mu_j + r_\mu), \quad s_{ij} \sim N(\sigma_j, r_\sigma), \qquad
        y_{ij} = s_{ij} x_{ij} + m_{ij},

    with :math:`n_\mu = 0.5\nu`, :math:`n_\sigma = 1 + 0.25\nu`, :math:`r_\mu = r_\sigma = 0.1\nu`:
    the paper's constants at :math:`\nu = 1`, and ``x`` itself at :math:`\nu = 0`. The gradient goes
    through the scale and not through the draws. The paper does not say whether :math:`r_\sigma` is
    a standard deviation or a variance; ``sigma_is`` chooses.

    Args:
        x: Activations after the normalization's scale and shift, ``[N, K*C, H, W]`` or ``[N, K*C]``.
        site: The draws for these activations.
        level: Noise level of each member, ``[K]``.
        sigma_is: ``std`` or ``variance``.

    Returns:
        The noisy activations, of the shape of ``x``.

    Raises:
        ValueError: If ``sigma_is`` is neither.

    Example:
        At the middle of every draw only the scale's mean is left, which is 1.125 at level 1.

        >>> half, zero = torch.full((1, 1), 0.5), torch.zeros(1, 1)
        >>> apply_noise(torch.tensor([[2.0]]), SiteNoise(half, half, half, zero), torch.tensor([1.0]))
        tensor([[2.2500]])

    References:
        [1] Santurkar, Tsipras, Ilyas, Madry. How Does Batch Normalization Help Optimization?
        NeurIPS 2018. https://arxiv.org/abs/1805.11604
    """
    shift, scale = noise_factors(site, level, x.dtype, sigma_is)
    return torch.addcmul(shift, scale, x)


def noise_factors(
    site: SiteNoise, level: Tensor, dtype: torch.dtype, sigma_is: str = "std"
) -> tuple[Tensor, Tensor]:
    """Return what :func:`apply_noise` adds to every value and multiplies it by, of the site's shape.

    Raises:
        ValueError: If ``sigma_is`` is neither ``std`` nor ``variance``.
    """
    if sigma_is not in ("std", "variance"):
        raise ValueError(f"sigma_is must be std or variance, but found {sigma_is!r}")
    nu = level.to(dtype)[:, None].expand(-1, site.mu.numel() // len(level)).reshape(site.mu.shape)
    spread = SPREAD * nu
    deviation = spread if sigma_is == "std" else spread.sqrt()
    # mu_j - r_mu = nu * (0.5 * (2 * mu - 1) - 0.1), and a uniform draw adds up to 2 * r_mu to it
    shift = torch.addcmul(nu * (2 * MEAN_BOUND * site.mu - (MEAN_BOUND + SPREAD)), site.shift, 2 * spread)
    return shift, torch.addcmul(1 + SCALE_EXCESS * nu * site.sigma, site.scale, deviation)
