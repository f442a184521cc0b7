"""Sums, inner products and norms of each member, with bits that do not depend on the pack.

A library reduction picks its order of summation from the shape of the whole tensor and the number
of threads, so the same member can get other last bits in a larger pack. Here every sum is a tree
of elementwise additions in float64: its order depends on the number of summands alone. One member
is one slice all the way, so a member that holds NaN or infinity leaves the others untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

__all__ = ["member_cosine", "member_dot", "member_norm", "pairwise_sum"]

_WIDTH = 1 << 16
"""Entries of one member that are reduced at a time: bounds the float64 copies to 0.5 MiB a member."""


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
    while half > 1:
        count, half = half, (half + 1) // 2
        total.narrow(dim, 0, count - half).add_(total.narrow(dim, half, count - half))
    return total.select(dim, 0).clone()


def member_dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor], members: int) -> Tensor:
    r"""Return :math:`\langle a_k, b_k \rangle` for every member, over all entries as one vector.

    Args:
        a: Tensors ``[K*d, ...]`` by name, member-major.
        b: Tensors of the same names and shapes.
        members: Number of members ``K``.

    Returns:
        float64 ``[K]``, accumulated in float64 whatever the dtype of ``a`` and ``b``.

    Raises:
        ValueError: If names or shapes differ, or a leading axis is no multiple of ``members``.

    Example:
        >>> a = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}  # two members: (1, 2) and (3, 4)
        >>> member_dot(a, a, members=2)
        tensor([ 5., 25.], dtype=torch.float64)
    """
    _check_pair(a, b, members)
    pieces = zip(_pieces(a, a, members), _pieces(a, b, members), strict=True)
    terms = [pairwise_sum(x.to(torch.float64) * y, dim=1) for x, y in pieces]
    return pairwise_sum(torch.stack(terms, dim=1), dim=1)


def member_norm(a: Mapping[str, Tensor], members: int) -> Tensor:
    r"""Return :math:`\lVert a_k \rVert_2` for every member, over all entries as one vector.

    Entries are first divided by a power of two near the largest of them, so that a norm neither
    overflows nor vanishes while it can be represented (:math:`10^{160}` squared cannot).

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
    scale = _scale(a, members)
    terms = [pairwise_sum((x / scale).square(), dim=1) for x in _pieces(a, a, members)]
    return scale.squeeze(1) * pairwise_sum(torch.stack(terms, dim=1), dim=1).sqrt()


def member_cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor], members: int) -> Tensor:
    r"""Return the cosine of the angle between :math:`a_k` and :math:`b_k` for every member.

    Args:
        a: Tensors ``[K*d, ...]`` by name, member-major.
        b: Tensors of the same names and shapes.
        members: Number of members ``K``.

    Returns:
        float64 ``[K]`` in [-1, 1], exactly 1 where both are equal; NaN where one of the two is
        zero, since the angle is undefined there.

    Raises:
        ValueError: If names or shapes differ, or a leading axis is no multiple of ``members``.

    Example:
        >>> a, b = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([2.0, 0.0])}
        >>> member_cosine(a, b, members=2)  # parallel; zero
        tensor([1., nan], dtype=torch.float64)
    """
    _check_pair(a, b, members)
    a_scale, b_scale = _scale(a, members), _scale(b, members)
    terms = []
    for x, y in zip(_pieces(a, a, members), _pieces(a, b, members), strict=True):
        x, y = x / a_scale, y / b_scale
        terms.append(pairwise_sum(torch.stack([x * x, y * y, x * y]), dim=2))
    xx, yy, xy = pairwise_sum(torch.stack(terms, dim=2), dim=2)
    return torch.clamp(xy / (xx * yy).sqrt(), -1.0, 1.0)


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


def _pieces(order: Mapping[str, Tensor], a: Mapping[str, Tensor], members: int) -> Iterator[Tensor]:
    """Yield ``a`` as ``[K, n]`` matrices; the cuts depend on one member's sizes, never on K."""
    waiting: list[Tensor] = []
    width = 0
    for name in order:
        matrix = a[name].detach().reshape(members, -1)
        if waiting and width + matrix.shape[1] > _WIDTH:
            yield torch.cat(waiting, dim=1)
            waiting, width = [], 0
        if matrix.shape[1] > _WIDTH:
            yield from torch.split(matrix, _WIDTH, dim=1)
        else:
            waiting.append(matrix)
            width += matrix.shape[1]
    if waiting:
        yield torch.cat(waiting, dim=1)


def _scale(a: Mapping[str, Tensor], members: int) -> Tensor:
    """Return a power of two near the largest magnitude of each member, float64 ``[K, 1]``."""
    parts = [x.abs().amax(dim=1, keepdim=True) for x in _pieces(a, a, members)]
    largest = torch.cat([part.to(torch.float64) for part in parts], dim=1).amax(dim=1, keepdim=True)
    usable = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
    return usable / (2 * torch.frexp(usable).mantissa)
