"""Every norm by name, and how one is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bnsweep.errors import Mistake, SpecError
from bnsweep.norms.batch import BatchNorm
from bnsweep.norms.custom import make_custom
from bnsweep.norms.lp import LpNorm
from bnsweep.norms.torch_norms import GroupNorm, InstanceNorm, LayerNorm, RMSNorm

__all__ = ["CENTRING", "NOISY", "NORMS", "NormOptions", "make_norm"]


@dataclass(frozen=True)
class NormOptions:
    """Settings of a norm; each norm reads those it knows.

    Attributes:
        eps: Added to the variance, mean square or magnitude.
        momentum: Weight of the newest batch in running statistics.
        affine: Learn a scale and a shift.
        groups: Groups of group normalization.
        lp_centered: Take the Lp magnitude after the mean is removed.
        lp_gaussian: Scale the Lp magnitude by its value for a standard normal.
    """

    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True
    groups: int = 32
    lp_centered: bool = False
    lp_gaussian: bool = False


Maker = Callable[[int, int, NormOptions], nn.Module]


def _identity(num_features: int, members: int, options: NormOptions) -> nn.Module:
    return nn.Identity()


def _batch(num_features: int, members: int, options: NormOptions) -> nn.Module:
    o = options
    return BatchNorm(num_features, members, eps=o.eps, momentum=o.momentum, affine=o.affine)


def _lp(p: float) -> Maker:
    def make(num_features: int, members: int, options: NormOptions) -> nn.Module:
        return LpNorm(
            num_features,
            members,
            p=p,
            eps=options.eps,
            momentum=options.momentum,
            affine=options.affine,
            centered=options.lp_centered,
            gaussian=options.lp_gaussian,
        )

    return make


def _layer(num_features: int, members: int, options: NormOptions) -> nn.Module:
    return LayerNorm(num_features, members, eps=options.eps, affine=options.affine)


def _group(num_features: int, members: int, options: NormOptions) -> nn.Module:
    o = options
    return GroupNorm(num_features, members, groups=o.groups, eps=o.eps, affine=o.affine)


def _instance(num_features: int, members: int, options: NormOptions) -> nn.Module:
    return InstanceNorm(num_features, members, eps=options.eps, affine=options.affine)


def _rms(num_features: int, members: int, options: NormOptions) -> nn.Module:
    return RMSNorm(num_features, members, eps=options.eps, affine=options.affine)


NORMS: dict[str, Maker] = {
    "none": _identity,
    "batch": _batch,
    "noisy_batch": _batch,
    "noisy_none": _identity,
    "l1": _lp(1),
    "l2": _lp(2),
    "linf": _lp(math.inf),
    "layer": _layer,
    "group": _group,
    "instance": _instance,
    "rms": _rms,
}
"""Every norm by name. The noise of the noisy ones is applied by the network, after the norm."""

CENTRING = frozenset({"batch", "noisy_batch", "l1", "l2", "linf", "instance"})
"""Norms that remove the mean of every channel: the layer before them needs no bias."""

NOISY = frozenset({"noisy_batch", "noisy_none"})
"""Norms after which the network applies noise."""


def make_norm(
    name: str,
    num_features: int,
    members: int = 1,
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    affine: bool = True,
    groups: int = 32,
    lp_centered: bool = False,
    lp_gaussian: bool = False,
) -> nn.Module:
    """Make the norm ``name`` for a stack; settings that it does not know are ignored.

    Args:
        name: A name of :data:`NORMS`, or a factory of the user's as ``module:function``.
        num_features: Channels ``C`` of one member.
        members: Members ``K`` of the stack.
        eps: See :class:`NormOptions`.
        momentum: See :class:`NormOptions`.
        affine: See :class:`NormOptions`.
        groups: See :class:`NormOptions`.
        lp_centered: See :class:`NormOptions`.
        lp_gaussian: See :class:`NormOptions`.

    Returns:
        A module that takes ``[N, K*C]`` or ``[N, K*C, H, W]``; the identity for ``none`` and
        ``noisy_none``.

    Raises:
        SpecError: If there is no such norm, or the user's factory does not keep its contract.

    Example:
        >>> make_norm("batch", 8, members=3).weight.shape
        torch.Size([24])
    """
    if ":" in name:
        return make_custom(name, num_features, members)
    if name not in NORMS:
        must = f"must be one of {', '.join(NORMS)}, or a factory of yours as module:function"
        raise SpecError([Mistake("parameters.norm", must, repr(name))])
    options = NormOptions(eps, momentum, affine, groups, lp_centered, lp_gaussian)
    return NORMS[name](num_features, members, options)
