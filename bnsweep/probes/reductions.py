"""Sums, inner products and norms of each member, with bits that do not depend on the pack.

A library reduction picks its order of summation from the shape of the whole tensor and the number
of threads, so the same member can get other last bits in a larger pack. Here every sum is a tree
of elementwise additions in float64: its order depends on the number of summands alone. One member
is one slice all the way, so a member that holds NaN or infinity leaves the others untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MemberDifference", "member_difference", "member_distance", "member_norm", "pairwise_sum"]

_WIDTH = 1 << 16
"""Entries of one member that are reduced at a time."""

_BLOCK = 1 << 16
"""Entries of all members that are worked on at a time: they stay in cache."""

_PARTS = 4
"""Parts of a row that are added up one after another, before what is left is summed as a tree."""

_FAR = 2.0**200
"""Magnitudes beyond it, or below its inverse, are scaled before products of four of them are taken."""

Vectors = Callable[..., tuple[Tensor, ...]]
"""Makes the vectors whose products are wanted from those that are given."""


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
    _check_pair(a, a, members)
    sums, scales = _sums((a,), members, _itself, ((0, 0),))
    return sums[0].sqrt() * scales[0]


def member_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor], members: int) -> Tensor:
    r"""Return :math:`\lVert a_k - b_k \rVert_2` for every member, over all entries as one vector.

    It is the ``difference`` of :func:`member_difference`, for less.

    Args:
        a: Tensors ``[K*d, ...]`` by name, member-major.
        b: Tensors of the same names and shapes.
        members: Number of members ``K``.

    Returns:
        float64 ``[K]``.

    Raises:
        ValueError: If names or shapes differ, or a leading axis is no multiple of ``members``.

    Example:
        >>> a, b = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([6.0, 0.0])}
        >>> member_distance(a, b, members=2)
        tensor([3., 4.], dtype=torch.float64)
    """
    _check_pair(a, b, members)
    sums, scales = _sums((a, b), members, _difference, ((0, 0),))
    return sums[0].sqrt() * scales[0]


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
    sums, scales = _sums((a, b), members, _both_and_difference, ((0, 0), (1, 1), (0, 1), (2, 2)))
    xx, yy, xy, dd = sums
    norm, difference = xx.sqrt() * scales[0], dd.sqrt() * scales[2]
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


def _difference(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x - y,)


def _both_and_difference(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return x, y, x - y


def _itself(x: Tensor) -> tuple[Tensor, ...]:
    return (x,)


def _pieces(sides: Sequence[Mapping[str, Tensor]], members: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield each side as ``[K, n]`` matrices; the cuts depend on one member's sizes, never on K."""
    waiting: list[list[Tensor]] = []
    width = 0
    for name in sides[0]:
        matrices = [side[name].detach().reshape(members, -1) for side in sides]
        if waiting and width + matrices[0].shape[1] > _WIDTH:
            yield _joined(waiting)
            waiting, width = [], 0
        if matrices[0].shape[1] > _WIDTH:
            yield from zip(*(torch.split(own, _WIDTH, dim=1) for own in matrices), strict=True)
        else:
            waiting.append(matrices)
            width += matrices[0].shape[1]
    if waiting:
        yield _joined(waiting)


def _blocks(matrix: Tensor) -> list[slice]:
    """Return the rows of ``[K, n]`` that are worked on at a time."""
    members, width = matrix.shape
    rows = max(1, _BLOCK // max(1, width))
    return [slice(first, first + rows) for first in range(0, members, rows)]


def _joined(waiting: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Put matrices of each side beside each other; a single one is not copied."""
    if len(waiting) == 1:
        return tuple(waiting[0])
    return tuple(torch.cat(own, dim=1) for own in zip(*waiting, strict=True))


def _sums(
    sides: Sequence[Mapping[str, Tensor]],
    members: int,
    vectors: Vectors,
    products: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    """Return inner products of the scaled ``vectors`` of each member, ``[n, K]``, and their scales."""
    scales = _scales(sides, members, vectors)
    terms = []
    for piece in _pieces(sides, members):
        found = [
            _block(
                [own[block] for own in piece], vectors, products, None if scales is None else scales[:, block]
            )
            for block in _blocks(piece[0])
        ]
        terms.append(torch.cat(found, dim=1))
    sums = pairwise_sum(torch.stack(terms, dim=2), dim=2)
    return sums, sums.new_ones(1, 1).expand(3, members) if scales is None else scales.squeeze(2)


def _block(
    piece: Sequence[Tensor], vectors: Vectors, products: Sequence[tuple[int, int]], scales: Tensor | None
) -> Tensor:
    """Add up a few parts of the rows side by side, then the tree over what is left."""
    width = max(1, -(-piece[0].shape[1] // _PARTS))
    total = piece[0].new_zeros(len(products), len(piece[0]), width, dtype=torch.float64)
    term = torch.empty_like(total[0])
    for number, parts in enumerate(zip(*(torch.split(own, width, dim=1) for own in piece), strict=True)):
        size = parts[0].shape[1]
        found = vectors(*(part.to(torch.float64) for part in parts))
        if scales is not None:
            found = tuple(vector / scale for vector, scale in zip(found, scales, strict=True))
        for sums, (left, right) in zip(total[:, :, :size], products, strict=True):
            if number:
                sums.add_(torch.mul(found[left], found[right], out=term[:, :size]))
            else:
                torch.mul(found[left], found[right], out=sums)
    return _tree(total)


def _scales(sides: Sequence[Mapping[str, Tensor]], members: int, vectors: Vectors) -> Tensor | None:
    """Return powers of two near the largest magnitude of each vector, float64 ``[n, K, 1]``.

    1 where products stay far within the range of float64, so that dividing changes nothing; None where all
    are 1, as always where all is of a narrower type. A GPU is not waited for to find that out.
    """
    if not any(tensor.dtype == torch.float64 for side in sides for tensor in side.values()):
        return None
    parts = [
        torch.cat(
            [
                torch.stack([torch.maximum(v.amax(1, keepdim=True), -v.amin(1, keepdim=True)) for v in own])
                for own in (vectors(*(side[block] for side in piece)) for block in _blocks(piece[0]))
            ],
            dim=1,
        )
        for piece in _pieces(sides, members)
    ]
    largest = torch.cat(parts, dim=2).to(torch.float64).amax(dim=2, keepdim=True)
    far = ~((largest >= 1 / _FAR) & (largest <= _FAR)) & largest.isfinite() & (largest > 0)
    if far.device.type == "cpu" and not far.any():
        return None
    usable = torch.where(far, largest, 1.0)
    return usable / (2 * torch.frexp(usable).mantissa)
