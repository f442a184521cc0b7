"""Norms of dense layers as a forward and a backward pass written out, without autograd.

For activations in columns, ``[K, C, N]``: member, unit, sample. Each function returns the normalized
activations and a function from their gradient to that of the input and of the norm's parameters.
Means and lengths are taken along one axis that holds a single member's values, so no member's
bits depend on another. The modules of :mod:`bnsweep.norms` say what each norm is; here is the
calculus alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnsweep.norms.batch import BatchNorm
from bnsweep.norms.lp import LpNorm
from bnsweep.norms.torch_norms import GroupNorm, LayerNorm, RMSNorm

__all__ = ["Backward", "Written", "written_out"]

Gradients = dict[str, Tensor]
Backward = Callable[[Tensor], tuple[Tensor, Gradients]]
"""From the gradient of the output to that of the input, and of the parameters by name."""

Written = Callable[[Tensor, int], tuple[Tensor, Backward]]
"""From activations ``[K, C, N]``, which are lost, and the number of samples that their columns stand for."""

_SMALL = 4096
"""Values of a member up to which torch's own kernel is faster: it is one call, though it adds up slowly."""


def written_out(norm: nn.Module) -> Written | None:
    """Return the training pass of ``norm``, or ``None`` where only autograd knows it.

    It moves running statistics as the module does.
    """
    if isinstance(norm, nn.Identity):
        return lambda z, count: (z, lambda dy: (dy, {}))
    if isinstance(norm, BatchNorm):
        return lambda z, count: _batch(norm, z, count)
    if isinstance(norm, LpNorm):
        return lambda z, count: _lp(norm, z)
    if isinstance(norm, LayerNorm | GroupNorm):
        groups = norm.members if isinstance(norm, LayerNorm) else norm.groups
        return lambda z, count: _within_sample(norm, z, groups, centred=True)
    if isinstance(norm, RMSNorm):
        return lambda z, count: _within_sample(norm, z, norm.members, centred=False)
    return None


def _batch(norm: BatchNorm, z: Tensor, count: int) -> tuple[Tensor, Backward]:
    _, units, samples = z.shape
    if samples < 2:
        raise ValueError(
            f"batch normalization needs at least 2 values per channel in training, but found {samples} "
            f"in an input of shape {tuple(z.shape)}; use a larger batch"
        )
    return _batch_native(norm, z, count) if units * samples <= _SMALL else _batch_in_parts(norm, z, count)


def _batch_native(norm: BatchNorm, z: Tensor, count: int) -> tuple[Tensor, Backward]:
    """Let torch's own kernels normalize and differentiate."""
    samples = z.shape[2]
    flat = z.view(1, -1, samples)
    gamma, beta = (None if value is None else value.detach() for value in (norm.weight, norm.bias))
    middle, spread, momentum = norm.running_mean, norm.running_var, norm.momentum
    if count != samples:
        middle, spread, momentum = torch.zeros_like(middle), torch.zeros_like(spread), 1.0
    y, mean, inverse = torch.native_batch_norm(flat, gamma, beta, middle, spread, True, momentum, norm.eps)
    if count != samples:  # the variance is unbiased: of the columns, not of the samples that they stand for
        _move(norm.running_mean, middle, norm.momentum)
        unbiased = count * (samples - 1) / ((count - 1) * samples)
        _move(norm.running_var, spread, norm.momentum, unbiased)

    def backward(dy: Tensor) -> tuple[Tensor, Gradients]:
        dz, *affine = torch.ops.aten.native_batch_norm_backward(
            dy.view_as(flat), flat, gamma, None, None, mean, inverse, True, norm.eps, [True] * 3
        )
        return dz.view_as(dy), _affine(norm, *affine)

    return y.view_as(z), backward


def _batch_in_parts(norm: BatchNorm, z: Tensor, count: int) -> tuple[Tensor, Backward]:
    """Normalize with vectorized sums: more calls, each of them fast on many values."""
    members, units, samples = z.shape
    mean = z.sum(2, keepdim=True).mul_(1 / samples)
    z.sub_(mean)
    variance = z.square().sum(2, keepdim=True).mul_(1 / samples)
    inverse = (variance + norm.eps).rsqrt_()
    _move(norm.running_mean, mean.flatten(), norm.momentum)
    _move(norm.running_var, variance.flatten(), norm.momentum, count / (count - 1))
    scale = inverse if norm.weight is None else inverse * norm.weight.detach().view(members, units, 1)
    y = z * scale
    if norm.bias is not None:
        y.add_(norm.bias.detach().view(members, units, 1))

    def backward(dy: Tensor) -> tuple[Tensor, Gradients]:
        total = dy.sum(2, keepdim=True)
        product = (dy * z).sum(2, keepdim=True).mul_(inverse)
        dz = dy.sub_(total / samples)
        dz.sub_(z.mul_(product * inverse / samples)).mul_(scale)
        return dz, _affine(norm, product.flatten(), total.flatten())

    return y, backward


def _lp(norm: LpNorm, z: Tensor) -> tuple[Tensor, Backward]:
    members, units, samples = z.shape
    mean, magnitude, spread = _magnitude(norm, z)
    _move(norm.running_mean, mean.flatten(), norm.momentum)
    _move(norm.running_magnitude, magnitude.flatten(), norm.momentum)
    inverse = (magnitude + norm.eps).reciprocal()
    gamma = None if norm.weight is None else norm.weight.detach().view(members, units, 1)
    scale = inverse if gamma is None else inverse * gamma
    centred = z - mean
    y = centred * scale
    if norm.bias is not None:
        y.add_(norm.bias.detach().view(members, units, 1))

    def backward(dy: Tensor) -> tuple[Tensor, Gradients]:
        total = dy.sum(2, keepdim=True)
        product = (dy * centred).sum(2, keepdim=True)
        through_mean = total * scale
        dz = spread() * (product * scale * -inverse)
        if norm.centered:
            through_mean = through_mean + dz.sum(2, keepdim=True)
        dz.add_(dy.mul_(scale)).sub_(through_mean / samples)
        return dz, _affine(norm, (product * inverse).flatten(), total.flatten())

    return y, backward


def _magnitude(norm: LpNorm, z: Tensor) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
    """Return mean and magnitude ``[K, C, 1]``, and what gives the magnitude's derivative by each value."""
    samples = z.shape[2]
    if samples < 2:
        raise ValueError(
            f"Lp normalization needs at least 2 values per channel in training, but found {samples} "
            f"in an input of shape {tuple(z.shape)}; use a larger batch"
        )
    mean = z.sum(2, keepdim=True).mul_(1 / samples)
    values = z - mean if norm.centered else z
    if norm.p == 1:
        normal = math.sqrt(2 / math.pi) if norm.gaussian else 1.0
        magnitude = values.abs().sum(2, keepdim=True).mul_(1 / (samples * normal))
        return mean, magnitude, lambda: values.sign().mul_(1 / (samples * normal))
    if norm.p == 2:
        square = values.square().sum(2, keepdim=True).mul_(1 / samples)
        smallest = torch.finfo(z.dtype).tiny
        magnitude = square.clamp_min(smallest).sqrt()
        return mean, magnitude, lambda: values * ((square >= smallest) / (samples * magnitude))
    normal = math.sqrt(2 * math.log(samples)) if norm.gaussian else 1.0
    sizes = values.abs()
    largest = sizes.amax(2, keepdim=True)

    def share() -> Tensor:
        attained = sizes == largest
        return values.sign().mul_(attained).div_(attained.sum(2, keepdim=True, dtype=z.dtype) * normal)

    return mean, largest / normal, share


def _within_sample(
    norm: LayerNorm | GroupNorm | RMSNorm, z: Tensor, groups: int, *, centred: bool
) -> tuple[Tensor, Backward]:
    """Normalize every sample over the units of each of ``groups`` groups, counted over all members."""
    members, units, samples = z.shape
    grouped = z.view(groups, -1, samples)
    size = grouped.shape[1]
    if centred:
        grouped.sub_(grouped.sum(1, keepdim=True).mul_(1 / size))
    inverse = grouped.square().sum(1, keepdim=True).mul_(1 / size).add_(norm.eps).rsqrt_()
    grouped.mul_(inverse)
    gamma = None if norm.weight is None else norm.weight.detach().view(members, units, 1)
    shift = getattr(norm, "bias", None)
    y = z.clone() if gamma is None else z * gamma
    if shift is not None:
        y.add_(shift.detach().view(members, units, 1))

    def backward(dy: Tensor) -> tuple[Tensor, Gradients]:
        own = {} if gamma is None else _affine(norm, (dy * z).sum(2).flatten(), dy.sum(2).flatten())
        d_unit = (dy if gamma is None else dy * gamma).view_as(grouped)
        product = (d_unit * grouped).sum(1, keepdim=True).mul_(1 / size)
        dz = d_unit - grouped * product
        if centred:
            dz.sub_(d_unit.sum(1, keepdim=True).mul_(1 / size))
        return dz.mul_(inverse).view_as(z), own

    return y, backward


def _affine(norm: nn.Module, weight: Tensor, bias: Tensor) -> Gradients:
    """Return the gradients of those of scale and shift that the norm learns."""
    found = {"weight": weight, "bias": bias}
    return {name: found[name] for name, _ in norm.named_parameters()}


def _move(running: Tensor, newest: Tensor, momentum: float, factor: float = 1.0) -> None:
    running.mul_(1 - momentum).add_(newest, alpha=momentum * factor)
