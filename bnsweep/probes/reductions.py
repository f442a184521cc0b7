"""Sums, inner products and norms of each member, with bits that do not depend on the pack.

A library reduction picks its order of summation from the shape of the whole tensor and the number
of threads, so the same member can get other last bits in a larger pack. Here every sum is a tree
of elementwise additions in float64: its order depends on the number of summands alone. One member
is one slice all the way, so a member that holds NaN or infinity leaves the others untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MemberDifference", "member_difference", "member_norm", "pairwise_sum"]

_WIDTH = 1 << 16
"""Entries of one member that are reduced at a time."""

_BLOCK = 1 << 17
"""Entries of all members that are worked on at a time: they stay in cache."""

_PARTS = 4
"""Parts of a row that are added up one after another, before what is left is summed as a tree."""


def pairwise_sum(values: Tensor, dim: int = -1) -> Tensor:
    r"""Sum along ``dim`` in float64, as a balanced tree of elementwise additions.

    The rounding error grows with :math:`\log_2 n` instead of :math:`n`, and the result of one
    slice is the same to the bit whatever the size of the other dimensions, the number of threads
    or the device.

    Args:
        values: Floating-point tensor; read, never written.
        dim: The dimension to sum over.

    Returns:
        float64 tensor without ``dim``; zero where ``dim`` is empty.

    Example:
        >>> pairwise_sum(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        tensor([ 6., 15.], dtype=torch.float64)
    """
    count = values.shape[dim]
    if count == 0:
        return values.sum(dim, dtype=torch.float64)
    half = (count + 1) // 2
    total = values.narrow(dim, 0, half).to(torch.float64, copy=True)
    if count > half:
        total.narrow(dim, 0, count - half).add_(values.narrow(dim, half, count - half))
    return _tree(total, dim)


def _tree(total: Tensor, dim: int = -1) -> Tensor:
    """Sum ``total``, whose values are lost, along ``dim``."""
    half = total.shape[dim]
    while half > 1:
        count, half = half, (half + 1) // 2
        total.narrow(dim, 0, count - half).add_(total.narrow(dim, half, count - half))
    return total.select(dim, 0).clone()


def member_norm(a: Mapping[str, Tensor], members: int) -> Tensor:
    r"""Return :math:`\lVert a_k \rVert_2` for every member, over all entries as one vector.

    Entries in float64 are first divided by a power of two near the largest of them, so that a norm
    neither overflows nor vanishes while it can be represented (:math:`10^{160}` squared cannot).

    Args:
        a: Tensors ``[K*d, ...]`` by name, member-major.
        members: Number of members ``K``.

    Returns:
        float64 ``[K]``; NaN where an entry is NaN, else infinite where one is infinite.

    Raises:
        ValueError: If a leading axis is no multiple of ``members``.

    Example:
        >>> member_norm({"w": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0, 2.0])}, members=2)
        tensor([5., 2.], dtype=torch.float64)
    """
    return member_difference(a, a, members).norm


class MemberDifference(NamedTuple):
    r"""How two vectors of every member differ; all float64 ``[K]``.

    Attributes:
        norm: :math:`\lVert a_k \rVert_2`.
        difference: :math:`\lVert a_k - b_k \rVert_2`.
        cosine: Cosine of the angle between both in [-1, 1], exactly 1 where they are equal; NaN where
            one of the two is zero, since the angle is undefined there.
    """

    norm: Tensor
    difference: Tensor
    cosine: Tensor


def member_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor], members: int) -> MemberDifference:
    r"""Compare :math:`a_k` with :math:`b_k` for every member, over all entries as one vector, in one pass.

    Differences are taken in float64 whatever the dtype; scaling is that of :func:`member_norm`.

    Args:
        a: Tensors ``[K*d, ...]`` by name, member-major.
        b: Tensors of the same names and shapes.
        members: Number of members ``K``.

    Returns:
        Norm of ``a``, norm of the difference, and cosine.

    Raises:
        ValueError: If names or shapes differ, or a leading axis is no multiple of ``members``.

    Example:
        >>> a, b = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([6.0, 0.0])}
        >>> found = member_difference(a, b, members=2)  # parallel; one is zero
        >>> found.norm.tolist(), found.difference.tolist(), found.cosine.tolist()
        ([3.0, 4.0], [3.0, 4.0], [1.0, nan])
    """
    _check_pair(a, b, members)
    scales = _scales(a, b, members)
    terms = [_products(x, y, scales) for x, y in _piece_pairs(a, b, members)]
    xx, yy, xy, dd = pairwise_sum(torch.stack(terms, dim=2), dim=2)
    norm, difference = xx.sqrt(), dd.sqrt()
    if scales is not None:
        norm, difference = norm * scales[0].squeeze(1), difference * scales[2].squeeze(1)
    return MemberDifference(norm, difference, torch.clamp(xy / (xx * yy).sqrt(), -1.0, 1.0))


def _check_pair(a: Mapping[str, Tensor], b: Mapping[str, Tensor], members: int) -> None:
    """Refuse two dictionaries that are not the same stack of K vectors."""
    if members < 1:
        raise ValueError(f"members must be >= 1, but found {members}")
    if not a or a.keys() != b.keys():
        raise ValueError(f"names must be equal and not empty, but found {sorted(a)} and {sorted(b)}")
    for name, tensor in a.items():
        if tensor.shape != b[name].shape or tensor.dim() == 0 or tensor.shape[0] % members:
            raise ValueError(
                f"{name} must have one shape with a leading axis of {members} * d in both, but found "
                f"{tuple(tensor.shape)} and {tuple(b[name].shape)}"
            )


def _piece_pairs(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], members: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both as ``[K, n]`` matrices; the cuts depend on one member's sizes, never on K."""
    same = a is b
    waiting: list[tuple[Tensor, Tensor]] = []
    width = 0
    for name in a:
        x = a[name].detach().reshape(members, -1)
        y = x if same else b[name].detach().reshape(members, -1)
        if waiting and width + x.shape[1] > _WIDTH:
            yield _joined(waiting)
            waiting, width = [], 0
        if x.shape[1] > _WIDTH:
            yield from zip(torch.split(x, _WIDTH, dim=1), torch.split(y, _WIDTH, dim=1), strict=True)
        else:
            waiting.append((x, y))
            width += x.shape[1]
    if waiting:
        yield _joined(waiting)


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = (torch.cat(side, dim=1) for side in zip(*pairs, strict=True))
    return x, y


def _products(x: Tensor, y: Tensor, scales: Sequence[Tensor] | None) -> Tensor:
    """Return the sums of x x, y y, x y and (x - y)^2 of every row, ``[4, K]``."""
    rows = max(1, _BLOCK // max(1, x.shape[1]))
    blocks = [slice(first, first + rows) for first in range(0, len(x), rows)]
    return torch.cat([_sums(x[own], y[own], scales and [s[own] for s in scales]) for own in blocks], dim=1)


def _sums(x: Tensor, y: Tensor, scales: Sequence[Tensor] | None) -> Tensor:
    """Add up a few parts of the rows side by side, then the tree over what is left."""
    width = -(-x.shape[1] // _PARTS)
    total = term = x.new_empty(4, len(x), width, dtype=torch.float64)
    for u, v in zip(*(torch.split(side.to(torch.float64), width, dim=1) for side in (x, y)), strict=True):
        d = u - v
        if scales is not None:
            u, v, d = u / scales[0], v / scales[1], d / scales[2]
        for row, (left, right) in enumerate(((u, u), (v, v), (u, v), (d, d))):
            torch.mul(left, right, out=term[row, :, : u.shape[1]])
        if term is total:
            term = torch.empty_like(total)
        else:
            total[:, :, : u.shape[1]].add_(term[:, :, : u.shape[1]])
    return _tree(total)


def _scales(a: Mapping[str, Tensor], b: Mapping[str, Tensor], members: int) -> list[Tensor] | None:
    """Return powers of two near the largest magnitudes of a, b and a - b, float64 ``[K, 1]`` each.

    None where all is of a narrower type than float64, whose range the squares cannot leave.
    """
    if not any(tensor.dtype == torch.float64 for tensor in (*a.values(), *b.values())):
        return None
    parts = [
        torch.stack([values.abs().amax(dim=1, keepdim=True) for values in (x, y, x - y)])
        for x, y in _piece_pairs(a, b, members)
    ]
    largest = torch.cat(parts, dim=2).to(torch.float64).amax(dim=2, keepdim=True)
    usable = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
    return list(usable / (2 * torch.frexp(usable).mantissa))
