"""The loss landscape along the gradient: loss band, gradient predictiveness, effective smoothness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnsweep.probes.gradients import LossFn, Params, member_gradients, member_shift
from bnsweep.probes.reductions import member_distance, member_norm

__all__ = ["LandscapeReading", "gradient_landscape"]


@dataclass(frozen=True)
class LandscapeReading:
    r"""Loss and gradient along the gradient direction, one column a member.

    All tensors are on the CPU; shapes are ``[K]``, or ``[S, K]`` for ``S`` step sizes. All but
    the counts are float64 and hold what was measured, infinity and NaN included. The bands and
    ``beta`` are over finite values only; ``n_overflow`` says how many were not.

    Attributes:
        step_sizes: Step lengths in multiples of the learning rate.
        loss: The loss :math:`L_0` at the point itself, ``[K]``; not part of the band.
        losses: :math:`L(\theta_\alpha)`, ``[S, K]``.
        gradient_norm: :math:`\lVert g \rVert_2`, ``[K]``.
        gradient_change: :math:`\lVert g_\alpha - g \rVert_2`, ``[S, K]``.
        beta: Effective smoothness, ``[K]``: the largest finite
            :math:`\lVert g_\alpha - g \rVert_2 / (\alpha \lVert g \rVert_2)`; infinite where none
            is finite, NaN where :math:`g` is zero.
        beta_lr: ``beta`` times the learning rate, ``[K]``: without a unit; gradient descent on
            a quadratic is stable below 2.
        argmax: Index of the step size that ``beta`` is attained at, ``[K]``; -1 where ``beta`` is
            not finite.
        n_overflow: How many of the ``2 S`` values of ``losses`` and ``gradient_change`` are
            infinite or NaN, ``[K]``.
    """

    step_sizes: tuple[float, ...]
    loss: Tensor
    losses: Tensor
    gradient_norm: Tensor
    gradient_change: Tensor
    beta: Tensor
    beta_lr: Tensor
    argmax: Tensor
    n_overflow: Tensor

    @property
    def loss_band(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest finite loss over the step sizes, ``[K]`` each; else infinite."""
        return _finite_band(self.losses)

    @property
    def gradient_change_band(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest finite change of the gradient, ``[K]`` each; else infinite."""
        return _finite_band(self.gradient_change)

    @property
    def beta_step(self) -> Tensor:
        """The step size that ``beta`` is attained at, in multiples of lr, ``[K]``; else NaN."""
        sizes = torch.tensor([*self.step_sizes, math.nan], dtype=torch.float64)
        return sizes[self.argmax]


def gradient_landscape(
    loss_fn: LossFn,
    params: Params,
    lr: Tensor,
    step_sizes: Sequence[float],
    members: int,
    resample: Callable[[int], LossFn] | None = None,
    known: tuple[Tensor, Params] | None = None,
) -> LandscapeReading:
    r"""Measure the loss and its gradient along the gradient direction (Figure 4 of [1]).

    With :math:`g = \nabla L(\theta)` over all parameters as one vector, and
    :math:`\theta_\alpha = \theta - \alpha g` for :math:`\alpha = s \cdot \mathrm{lr}` and every
    step size :math:`s`, reports

    - the loss :math:`L(\theta_\alpha)` (Figure 4a: the band between its smallest and largest),
    - :math:`\lVert g_\alpha - g \rVert_2` with :math:`g_\alpha = \nabla L(\theta_\alpha)`
      (Figure 4b: gradient predictiveness),
    - the effective smoothness :math:`\beta = \max_\alpha \lVert g_\alpha - g \rVert_2 / (\alpha
      \lVert g \rVert_2)` (Figure 4c), and :math:`\beta \cdot \mathrm{lr}`.

    Beta has a ceiling: where the gradient is gone after the smallest step, :math:`\beta = 1 /
    \alpha_{\min}` whatever the curvature, hence ``argmax``. The paper does not say whether both
    gradients are of the same batch, nor how normalization behaves; here ``loss_fn`` decides, and
    should be the training batch with batch statistics and one noise draw.

    Passes run in the dtype of the parameters; norms and inner products accumulate in float64.
    In float32 the change of a small gradient over a small step drowns in rounding, and beta is
    wrong there: use float64 for the deep linear network. Nothing is changed, see
    :func:`~bnsweep.probes.gradients.member_gradients`.

    Args:
        loss_fn: The loss of every member on one batch, with one noise draw.
        params: All parameters, ``[K*d, ...]`` by name.
        lr: Learning rate of every member, ``[K]``, positive.
        step_sizes: Step lengths :math:`s`, in multiples of the learning rate.
        members: Number of members ``K``.
        resample: Makes, for the index of a step size, the loss that is taken there: the same
            batch with a fresh noise draw. ``None`` takes ``loss_fn`` everywhere.
        known: Loss ``[K]`` and gradient of ``loss_fn`` at ``params`` where they are known, as from the
            training step.

    Returns:
        The reading. A member that overflows leaves the values of the others as they were.

    Raises:
        ValueError: If ``step_sizes`` is empty or holds a value that is not positive and finite,
            or ``lr`` is not one positive number for each member.

    Example:
        A quadratic has the same curvature everywhere, so the measured smoothness is exact.

        >>> reading = gradient_landscape(
        ...     lambda p: 1.5 * p["w"].square().sum(dim=1), {"w": torch.tensor([[1.0, -2.0]])},
        ...     lr=torch.tensor([0.1]), step_sizes=[0.5, 4.0], members=1,
        ... )
        >>> round(reading.beta.item(), 5), round(reading.beta_lr.item(), 5)
        (3.0, 0.3)

    Cost:
        ``len(step_sizes)`` forward and backward passes, and one more where it is not ``known``;
        memory of three sets of gradients.

    References:
        [1] Santurkar, Tsipras, Ilyas, Madry. How Does Batch Normalization Help Optimization?
        NeurIPS 2018, Sec. 3.2 and Appendix A.2.2. https://arxiv.org/abs/1805.11604
    """
    sizes = tuple(float(size) for size in step_sizes)
    rate = lr.detach().to(dtype=torch.float64, device="cpu")
    _check(sizes, rate, members)
    loss, gradient = known or member_gradients(loss_fn, params)
    losses, changes = [], []
    for index, size in enumerate(sizes):
        there, moved = member_gradients(
            resample(index) if resample else loss_fn, member_shift(params, gradient, size * rate)
        )
        losses.append(there.to(torch.float64))
        changes.append(member_distance(moved, gradient, members))
    norm = member_norm(gradient, members).cpu()
    change = torch.stack(changes).cpu()
    beta, argmax = _smoothness(change, norm, torch.tensor(sizes, dtype=torch.float64), rate)
    all_losses = torch.stack(losses).cpu()
    return LandscapeReading(
        step_sizes=sizes,
        loss=loss.to(torch.float64).cpu(),
        losses=all_losses,
        gradient_norm=norm,
        gradient_change=change,
        beta=beta,
        beta_lr=beta * rate,
        argmax=argmax,
        n_overflow=(~all_losses.isfinite()).sum(dim=0) + (~change.isfinite()).sum(dim=0),
    )


def _smoothness(change: Tensor, norm: Tensor, sizes: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest finite ratio of each member and its index, as documented above."""
    ratio = change / (sizes.unsqueeze(1) * lr * norm)
    value, index = torch.where(ratio.isfinite(), ratio, -math.inf).max(dim=0)
    found = value.isfinite()
    beta = torch.where(found, value, torch.where(norm == 0, math.nan, math.inf))
    return beta, torch.where(found, index, -1)


def _finite_band(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return min and max over the finite values of each column, infinity where there are none."""
    finite = values.isfinite()
    low = torch.where(finite, values, math.inf).amin(dim=0)
    high = torch.where(finite, values, -math.inf).amax(dim=0)
    return low, torch.where(finite.any(dim=0), high, math.inf)


def _check(sizes: tuple[float, ...], lr: Tensor, members: int) -> None:
    """Refuse step sizes and learning rates along which there is no step."""
    if not sizes or any(not 0 < size < math.inf for size in sizes):
        raise ValueError(f"step_sizes must be one or more positive numbers, but found {list(sizes)}")
    if lr.shape != (members,) or not bool(((lr > 0) & lr.isfinite()).all()):
        raise ValueError(
            f"lr must hold one positive number for each of {members} members, but found {lr.tolist()}"
        )
