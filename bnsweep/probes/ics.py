r"""Internal covariate shift as the paper defines it: how far earlier layers' updates move a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from bnsweep.probes.gradients import LayeredLoss, LossFn, Params, member_gradients
from bnsweep.probes.linear import linear_gradients
from bnsweep.probes.reductions import member_difference

__all__ = ["ICSReading", "LayerBlock", "internal_covariate_shift", "linear_covariate_shift"]

_TOGETHER = 1 << 17
"""Entries of layers of one shape that are compared at once; below it calls cost more than numbers."""

Pair = tuple[Sequence[Tensor], Sequence[Tensor]]
"""The gradients of one layer before and after, by each of its parameters that are measured."""


class LayerBlock(Protocol):
    """What the probe needs to know of a weight layer; ``bnsweep.models.LayerInfo`` is one."""

    @property
    def weight(self) -> str:
        """Name of the layer's weight."""

    @property
    def block(self) -> Sequence[str]:
        """Names of all the layer's parameters: weight, bias, and those of its norm."""


@dataclass(frozen=True)
class ICSReading:
    r"""Internal covariate shift of the measured layers, one column a member.

    All are float64 on the CPU, ``[n, K]`` for ``n`` measured layers.

    Attributes:
        layers: The measured layers, 1-based over weight layers.
        l2: :math:`\lVert G_i - G_i' \rVert_2`; 0 where there is no shift.
        cosine: Cosine of the angle between both gradients; 1 where there is no shift, NaN where
            one of the two is zero.
        relative: ``l2`` divided by :math:`\lVert G_i \rVert_2`; NaN where :math:`G_i` is zero.
    """

    layers: tuple[int, ...]
    l2: Tensor
    cosine: Tensor
    relative: Tensor


def internal_covariate_shift(
    loss_fn: LossFn,
    before: Params,
    after: Params,
    layers: Sequence[LayerBlock],
    measured: Iterable[int],
    members: int,
    loss_fn_after: LossFn | None = None,
    *,
    of: Literal["weight", "block"] = "weight",
    method: Literal["shared", "naive"] = "shared",
    gradients: Params | None = None,
) -> ICSReading:
    r"""Measure the internal covariate shift of an optimizer step (Definition 2.1 of [1]).

    For layer :math:`i` of :math:`k`, with parameters :math:`\theta_j^{(t)}` of layer :math:`j`
    before and :math:`\theta_j^{(t+1)}` after the step that the optimizer really took, and
    one batch,

    .. math::
        G_i &= \nabla_{W_i} L(\theta_1^{(t)}, \dots, \theta_k^{(t)}), \\
        G_i' &= \nabla_{W_i} L(\theta_1^{(t+1)}, \dots, \theta_{i-1}^{(t+1)},
                \theta_i^{(t)}, \dots, \theta_k^{(t)}), \qquad
        \mathrm{ICS}_i = \lVert G_i - G_i' \rVert_2 .

    Layer 1 has nothing before it, so its shift is zero by definition. The scale of a gradient
    depends on the scale of the weights, which differs between networks with and without
    normalization; so the shift relative to :math:`\lVert G_i \rVert_2` is reported too.

    The paper leaves open what a layer is; here it is a weight layer, convolution or linear, and
    its bias and its normalization's scale and shift move together with its weight
    (:math:`\theta_i`), while :math:`G` is taken by the weight :math:`W_i` alone. The paper
    measures on the training batch; batch statistics then belong to ``loss_fn``, in train mode.

    Passes run in the dtype of the parameters; norms and inner products accumulate in float64.
    Nothing is changed, see :func:`~bnsweep.probes.gradients.member_gradients`.

    Args:
        loss_fn: The loss of every member on the step's batch, with the step's own noise draw.
        before: All parameters before the step, ``[K*d, ...]`` by name.
        after: All parameters after it.
        layers: The weight layers in order; each parameter belongs to exactly one block.
        measured: The layers to measure, 1-based.
        members: Number of members ``K``.
        loss_fn_after: What :math:`G_i'` is the gradient of, where it is not ``loss_fn``: the same
            batch with a fresh noise draw, so that the reading includes what redrawing the noise
            does. ``None`` is the definition.
        of: ``"weight"`` takes both gradients by the layer's weight, ``"block"`` by all of its
            parameters.
        method: How :math:`G_i'` is computed. ``shared`` computes what enters every layer with the
            new parameters once, and each layer's pass begins there, if the loss is a
            :class:`~bnsweep.probes.gradients.LayeredLoss`; ``naive`` passes through the whole network
            for each layer. The operations that count are the same, and so are the bits.
        gradients: The gradients of ``loss_fn`` at ``before`` where they are known, as from the
            training step; the names that are measured are enough.

    Returns:
        The reading, with a row for each measured layer in the order of ``measured``. Values of a
        member that overflow are infinite or NaN and leave the other members' as they were.

    Raises:
        ValueError: If ``measured`` is empty or names a layer that does not exist, ``before`` and
            ``after`` differ in names or shapes, or a parameter is not in exactly one block.

    Example:
        Two scalar layers and :math:`L = (w_1 w_2 - 1)^2 / 2`, so that
        :math:`\partial L / \partial w_2 = w_1 (w_1 w_2 - 1)`: 2 before, and 6 with the new
        :math:`w_1`.

        >>> from types import SimpleNamespace
        >>> layers = [SimpleNamespace(weight=name, block=[name]) for name in ("w1", "w2")]
        >>> reading = internal_covariate_shift(
        ...     lambda p: (p["w1"] * p["w2"] - 1).square() / 2,
        ...     {"w1": torch.tensor([2.0]), "w2": torch.tensor([1.0])},
        ...     {"w1": torch.tensor([3.0]), "w2": torch.tensor([9.0])},
        ...     layers, measured=[1, 2], members=1,
        ... )
        >>> reading.l2.flatten().tolist(), reading.relative.flatten().tolist()
        ([0.0, 4.0], [0.0, 2.0])

    Cost:
        For all of :math:`k` layers about :math:`k + 2` forward passes if ``shared``, and
        :math:`1.5 k` otherwise; one forward and backward pass more without ``gradients``. In memory,
        ``shared`` keeps what enters the layers, less than a training step keeps, and has one layer's
        pass at a time.

    References:
        [1] Santurkar, Tsipras, Ilyas, Madry. How Does Batch Normalization Help Optimization?
        NeurIPS 2018, Sec. 2.2. https://arxiv.org/abs/1805.11604
    """
    indices = tuple(measured)
    _check(before, after, layers, indices)
    targets = {i: [layers[i - 1].weight] if of == "weight" else list(layers[i - 1].block) for i in indices}
    names = list(dict.fromkeys(name for i in indices for name in targets[i]))
    old = gradients if gradients is not None else member_gradients(loss_fn, before, names)[1]
    later = loss_fn_after or loss_fn
    moved = _shared_prefix(later, after) if method == "shared" and isinstance(later, LayeredLoss) else None

    def pairs() -> Iterator[Pair]:
        for i in indices:
            own = [old[name] for name in targets[i]]
            if i == 1 and loss_fn_after is None:
                yield own, own
                continue
            earlier = {name for layer in layers[: i - 1] for name in layer.block}
            hybrid = {name: after[name] if name in earlier else before[name] for name in before}
            yield own, list(member_gradients(moved(i) if moved else later, hybrid, targets[i])[1].values())

    return ICSReading(indices, *_compared(pairs(), members))


def linear_covariate_shift(
    before: Params,
    after: Params,
    layers: Sequence[LayerBlock],
    measured: Iterable[int],
    members: int,
    x: Tensor,
    y: Tensor,
) -> ICSReading:
    r"""Measure the internal covariate shift of a deep linear network without norm in closed form.

    The definition of :func:`internal_covariate_shift` for :math:`L = \tfrac12 \sum_n \lVert W_k \cdots
    W_1 x_n - y_n \rVert^2`, exact, in float64 whatever the dtype; see
    :func:`~bnsweep.probes.linear.linear_gradients`.

    Args:
        before: The weights before the step, ``[K*O, I]`` by name.
        after: The weights after it.
        layers: The layers in order; a weight is all that each has.
        measured: The layers to measure, 1-based.
        members: Number of members ``K``.
        x: Inputs of the step's batch, ``[K, N, I]``.
        y: Targets, ``[K, N, O]``.

    Returns:
        The reading, with a row for each measured layer in the order of ``measured``.

    Raises:
        ValueError: As :func:`internal_covariate_shift` does.
    """
    indices = tuple(measured)
    _check(before, after, layers, indices)
    old, new = (
        [side[layer.weight].reshape(members, -1, side[layer.weight].shape[1]) for layer in layers]
        for side in (before, after)
    )
    gradients = enumerate(linear_gradients(old, new, x, y), 1)
    pairs = (
        ([still.flatten(0, 1)], [moved.flatten(0, 1)]) for i, (still, moved) in gradients if i in indices
    )
    values = _compared(pairs, members)
    rows = sorted(set(indices))
    return ICSReading(indices, *values[:, [rows.index(i) for i in indices]])


def _shared_prefix(loss_fn: LayeredLoss, after: Params) -> Callable[[int], LossFn]:
    """Return, for a layer, the loss that begins there, behind layers that have been updated."""
    with torch.no_grad():
        entering = loss_fn.entering(dict(after))
    return lambda first: lambda params: loss_fn.onward(params, first, entering[first - 1])


def _compared(pairs: Iterable[Pair], members: int) -> Tensor:
    """Return distance, cosine and relative distance of each layer's gradients, ``[3, layers, K]``."""
    found = []
    for alike in _alike(pairs):
        old, new = (
            {
                str(place): torch.cat(parts) if len(parts) > 1 else parts[0]
                for place, parts in enumerate(zip(*side, strict=True))
            }
            for side in zip(*alike, strict=True)
        )
        one = member_difference(old, new, len(alike) * members)
        rows = torch.stack([one.difference, one.cosine, one.difference / one.norm])
        found.append(rows.view(3, len(alike), members))
        del alike, old, new  # the next layer's pass begins now
    return torch.cat(found, dim=1).cpu()


def _alike(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Yield layers of the same shapes that follow each other together, while they are small."""
    alike: list[Pair] = []
    shapes, room = None, 0
    for pair in pairs:
        own = [gradient.shape for gradient in pair[0]]
        size = sum(shape.numel() for shape in own)
        if alike and (own != shapes or size > room):
            yield alike
            alike = []
        if not alike:
            shapes, room = own, _TOGETHER
        alike.append(pair)
        room -= size
    yield alike


def _check(before: Params, after: Params, layers: Sequence[LayerBlock], measured: tuple[int, ...]) -> None:
    """Refuse layers and parameters on which the definition has no meaning."""
    if not measured or any(not 1 <= i <= len(layers) for i in measured):
        raise ValueError(f"measured must be one or more layers from 1 to {len(layers)}, but found {measured}")
    if {n: p.shape for n, p in before.items()} != {n: p.shape for n, p in after.items()}:
        raise ValueError(
            "before and after must hold the same parameters with the same shapes, but found "
            f"{ {n: tuple(p.shape) for n, p in before.items()} } and "
            f"{ {n: tuple(p.shape) for n, p in after.items()} }"
        )
    blocks = [name for layer in layers for name in layer.block]
    if sorted(blocks) != sorted(before):
        raise ValueError(
            "every parameter must be in the block of exactly one layer, but the blocks hold "
            f"{sorted(blocks)} and the network {sorted(before)}"
        )
