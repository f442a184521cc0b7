"""The paper's theory on the network that is being trained: Section 4, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bnsweep.probes.reductions import pairwise_sum

__all__ = ["TheoryReading", "layer_theory"]


@dataclass(frozen=True)
class TheoryReading:
    r"""What one batch-normalized layer says of the theorems, one value a member: float64 ``[K]``, CPU.

    Errors are relative to the sizes of what is compared, so that rounding in float64 makes about 1e-15.

    Attributes:
        gradient_error: Theorem 4.1 with :math:`1/m`, the largest error over the units.
        printed_violated: Share of the units that break it with the :math:`1/\sqrt m` that is printed.
        gradient_removed: Share of :math:`\sum_j \lVert g_j \rVert^2` that the two subtracted terms are.
        gradient_ratio: :math:`\lVert v \rVert / \lVert g \rVert` over all units.
        curvature_error: Theorem 4.2 as an equality, summed over the units.
        curvature_condition: Share of the units with :math:`\gamma_j \langle g_j, \hat y_j \rangle \ge 0`,
            which the paper needs to conclude that curvature falls.
        undone_error: Observation 4.3: what the layer returns with :math:`\gamma = s, \beta = \mu`,
            against what it takes.
        scale_error: Lemma 4.5's ground, that the loss does not see the scale of the weights:
            :math:`\langle W, \nabla_W L \rangle` against its exact value, which is 0 for :math:`\varepsilon
            = 0`.
        start_cosine: :math:`\cos(W_0, W)` of initial and present weights; the lemma needs it positive.
        distance_saved: Share of :math:`\lVert W_0 - W \rVert^2` by which the lemma's point is nearer; NaN
            at the start.
    """

    gradient_error: Tensor
    printed_violated: Tensor
    gradient_removed: Tensor
    gradient_ratio: Tensor
    curvature_error: Tensor
    curvature_condition: Tensor
    undone_error: Tensor
    scale_error: Tensor
    start_cosine: Tensor
    distance_saved: Tensor


def layer_theory(
    losses: Tensor,
    before: Tensor,
    after: Tensor,
    weight: Tensor,
    start: Tensor,
    gamma: Tensor | None,
    eps: float,
) -> TheoryReading:
    r"""Check the theorems of Section 4 of [1] on one layer, its own batch and its own gradients.

    For unit :math:`j` with values :math:`y_j \in \mathbb R^m` over the batch (height and width count as
    batch), :math:`s^2 = \sigma^2 + \varepsilon`, :math:`\hat y = (y - \mu) / s`, :math:`z = \gamma \hat y
    + \beta`, :math:`g = \partial L / \partial z` and :math:`v = \partial L / \partial y`:

    - Theorem 4.1 is the equality :math:`\lVert v \rVert^2 = \frac{\gamma^2}{s^2} \bigl( \lVert g \rVert^2
      - \frac1m \langle 1, g \rangle^2 - \frac1m (1 + \varepsilon / s^2) \langle g, \hat y \rangle^2
      \bigr)`. The paper prints :math:`1/\sqrt m` before the last term, which does not hold.
    - Theorem 4.2, along the gradient of all units at once. With :math:`b = \langle \hat y, v \rangle / m`,
      :math:`a = v - \bar v` and :math:`\hat y' = (a - b \hat y) / s`,

      .. math::
          v^\top \frac{\partial^2 L}{\partial y^2} v = (\gamma \hat y')^\top \frac{\partial^2 L}{\partial
          z^2} (\gamma \hat y') - \sum_j \frac{\gamma}{s} \Bigl( 2 b \langle g, \hat y' \rangle + \frac{
          \langle g, \hat y \rangle}{m s} (\lVert a \rVert^2 - m b^2) \Bigr),

      which for :math:`\varepsilon = 0` is the paper's second display as an equality.
    - Observation 4.3: with :math:`\gamma = s` and :math:`\beta = \mu` the layer returns what it takes.
    - Lemma 4.5 rests on :math:`L(aW) = L(W)`, so on :math:`\langle W, \nabla_W L \rangle = \sum_j \gamma
      \langle g, \hat y \rangle \varepsilon / s^2`, and saves :math:`(\lVert W \rVert^2 - \langle W, W_0
      \rangle)^2 / \lVert W \rVert^2` of the squared distance from :math:`W_0`.

    Args:
        losses: Loss of every member without any penalty, ``[K]``, a part of autograd's graph.
        before: :math:`y`, ``[N, K*C, ...]``, float64, a part of that graph.
        after: :math:`z`, of the same shape: batch normalization of ``before`` with batch statistics.
        weight: The layer's weights ``[K*C, ...]``, without a bias; a leaf that ``before`` depends on.
        start: The initial weights, of the same shape.
        gamma: The norm's scale ``[K*C]``; ``None`` for 1.
        eps: The norm's :math:`\varepsilon`.

    Returns:
        The reading; nothing is changed, and no ``.grad`` is touched.

    Raises:
        ValueError: If shapes do not fit, or the tensors are not float64.

    Example:
        One unit, two samples, and a loss whose gradient is :math:`g = (1, 0)`: the projection removes all
        of it, since two samples have no direction beside 1 and :math:`\hat y`.

        >>> w = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
        >>> y = torch.tensor([[1.0], [3.0]], dtype=torch.float64) @ w
        >>> z = torch.batch_norm(y, None, None, None, None, True, 0.0, 0.0, False)
        >>> reading = layer_theory(z[:1, 0], y, z, w, w.detach(), None, 0.0)
        >>> reading.gradient_removed.item()
        1.0

    References:
        [1] Santurkar, Tsipras, Ilyas, Madry. How Does Batch Normalization Help Optimization? NeurIPS 2018,
        Section 4. https://arxiv.org/abs/1805.11604
    """
    members = len(losses)
    _check(before, after, weight, start, members)
    grads = torch.autograd.grad(losses.sum(), (before, after, weight), create_graph=True)
    y, v, g = (_rows(tensor.detach()) for tensor in (before, *grads[:2]))
    m = y.shape[1]
    mean = pairwise_sum(y) / m
    s = (pairwise_sum((y - mean[:, None]).square()) / m + eps).sqrt()
    hat = (y - mean[:, None]) / s[:, None]
    scale = (torch.ones_like(s) if gamma is None else gamma.detach()) / s  # gamma / s
    size, ones, along = pairwise_sum(g.square()), pairwise_sum(g), _dot(g, hat)
    own = pairwise_sum(v.square())

    def bound(constant: float) -> Tensor:
        return scale.square() * (
            size - ones.square() / m - constant * (1 + eps / s.square()) * along.square()
        )

    whole = scale.square() * size
    printed = own > bound(m**-0.5) + 1e-12 * whole
    undone = _rows(
        torch.batch_norm(before.detach(), s, mean, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
    )
    radial = _total(pairwise_sum((weight * grads[2]).detach().flatten(1)), members)
    expected = _total(scale * along * eps / s, members)
    lengths = [_total(pairwise_sum(t.detach().flatten(1).square()), members) for t in (weight, grads[2])]
    found = {
        "gradient_error": _most(_ratio((own - bound(1 / m)).abs(), whole), members),
        "printed_violated": _share(printed, members),
        "gradient_removed": _ratio(
            _total((ones.square() + along.square()) / m, members), _total(size, members)
        ),
        "gradient_ratio": _ratio(_total(own, members), _total(size, members)).sqrt(),
        "curvature_error": _curvature_error(before, after, grads, (hat, v, g), scale, s, members),
        "curvature_condition": _share(scale * along >= 0, members),
        "undone_error": _ratio(
            _most((undone - y).abs().amax(1), members), _most(y.abs().amax(1), members)
        ),
        "scale_error": _ratio((radial - expected).abs(), (lengths[0] * lengths[1]).sqrt()),
        **_nearer(weight.detach(), start.to(weight), members),
    }  # fmt: skip
    return TheoryReading(**{name: value.cpu() for name, value in found.items()})


def _curvature_error(
    before: Tensor,
    after: Tensor,
    grads: tuple[Tensor, ...],
    rows: tuple[Tensor, Tensor, Tensor],
    scale: Tensor,
    s: Tensor,
    members: int,
) -> Tensor:
    """Return the relative difference of the two sides of Theorem 4.2 along the gradient."""
    hat, v, g = rows
    m = hat.shape[1]
    b = _dot(hat, v) / m
    a = v - (pairwise_sum(v) / m)[:, None]
    turned = (a - b[:, None] * hat) / s[:, None]
    direction = _like(turned * (scale * s)[:, None], after)
    left = _quadratic(grads[0], before, grads[0].detach(), members)
    main = _quadratic(grads[1], after, direction, members)
    curved = 2 * b * _dot(g, turned) + _dot(g, hat) * (_dot(a, a) - m * b.square()) / (m * s)
    correction = scale * curved
    sizes = left.abs() + main.abs() + _total(correction.abs(), members)
    return _ratio((left - main + _total(correction, members)).abs(), sizes)


def _quadratic(gradient: Tensor, at: Tensor, direction: Tensor, members: int) -> Tensor:
    """Return every member's second derivative along ``direction``, from a gradient with its graph."""
    product = (gradient * direction).sum()
    if not product.requires_grad:
        return torch.zeros(members, dtype=torch.float64, device=at.device)
    (turned,) = torch.autograd.grad(product, at, retain_graph=True, allow_unused=True, materialize_grads=True)
    return _total(_dot(_rows(turned.detach()), _rows(direction)), members)


def _nearer(weight: Tensor, start: Tensor, members: int) -> Mapping[str, Tensor]:
    """Return what Lemma 4.5 needs and what it gives."""
    now, then = weight.flatten(1), start.flatten(1)
    pairs = ((now, now), (now, then), (then, then), (now - then, now - then))
    square, inner, first, distance = (_total(_dot(left, right), members) for left, right in pairs)
    return {
        "start_cosine": inner / (square * first).sqrt(),
        "distance_saved": (square - inner).square() / (square * distance),
    }


def _rows(values: Tensor) -> Tensor:
    """Return ``[K*C, m]``: the values of each unit over the batch."""
    return values.transpose(0, 1).flatten(1)


def _like(rows: Tensor, shape: Tensor) -> Tensor:
    """Undo :func:`_rows` for a tensor of this shape."""
    return rows.view(shape.shape[1], shape.shape[0], *shape.shape[2:]).transpose(0, 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return pairwise_sum(a * b)


def _total(units: Tensor, members: int) -> Tensor:
    return pairwise_sum(units.view(members, -1))


def _most(units: Tensor, members: int) -> Tensor:
    return units.view(members, -1).amax(1)


def _share(units: Tensor, members: int) -> Tensor:
    return units.view(members, -1).to(torch.float64).mean(1)


def _ratio(error: Tensor, size: Tensor) -> Tensor:
    """Return ``error / size``, and 0 where both are 0."""
    return torch.where((error == 0) & (size == 0), 0.0, error / size)


def _check(before: Tensor, after: Tensor, weight: Tensor, start: Tensor, members: int) -> None:
    if before.shape != after.shape or before.shape[1] % members or len(weight) != before.shape[1]:
        raise ValueError(
            f"before and after must be [N, {members} * C, ...] and weight have as many rows as they have "
            f"units, but found {tuple(before.shape)}, {tuple(after.shape)} and {tuple(weight.shape)}"
        )
    if start.shape != weight.shape:
        raise ValueError(f"start must have the shape {tuple(weight.shape)}, but found {tuple(start.shape)}")
    kinds = {tensor.dtype for tensor in (before, after, weight)}
    if kinds != {torch.float64}:
        raise ValueError(f"the tensors must be float64, or rounding hides the identities, but found {kinds}")
