"""The loss and gradient of every member of a stack, without touching anything that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["LayeredLoss", "LossFn", "Params", "member_gradients", "member_shift"]

Params = Mapping[str, Tensor]
"""Parameters of K stacked networks by name, each ``[K*d, ...]``, member-major."""

LossFn = Callable[[dict[str, Tensor]], Tensor]
"""Maps parameters to the loss of every member, ``[K]``.

It must be a pure function: one fixed batch, one fixed noise draw, clones of the buffers, train
mode; and member k's loss depends on member k's parameters alone. Build it with
:func:`torch.func.functional_call`.
"""


@runtime_checkable
class LayeredLoss(Protocol):
    """A :data:`LossFn` of weight layers in sequence that can also begin at any of them."""

    def __call__(self, params: dict[str, Tensor]) -> Tensor:
        """Return the loss of every member, ``[K]``."""

    def entering(self, params: dict[str, Tensor]) -> list[Tensor]:
        """Return what enters each weight layer in such a pass, the batch itself first."""

    def onward(self, params: dict[str, Tensor], first: int, x: Tensor) -> Tensor:
        """Return the loss of every member, given what enters layer ``first``, 1-based."""


def member_gradients(
    loss_fn: LossFn, params: Params, names: Sequence[str] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Return every member's loss and its gradient.

    Since member k's loss :math:`L_k` depends on member k's parameters alone, the gradient of
    :math:`\sum_k L_k` holds the gradient of every :math:`L_k`, each in its own slice.

    The passes run on detached aliases of ``params``: no ``.grad`` is written, no hook of a
    parameter fires, and the result is the same under :class:`torch.no_grad`.

    Args:
        loss_fn: The loss of every member.
        params: Parameters ``[K*d, ...]`` by name, all that ``loss_fn`` needs.
        names: The parameters to differentiate by; all of them if ``None``.

    Returns:
        The losses ``[K]``, and the gradients by name in the order of ``names``, with the dtype
        and shape of the parameters; zero for one that the loss does not use.

    Raises:
        ValueError: If a name is unknown, ``names`` is empty, or ``loss_fn`` does not return one
            loss for each member that depends on the parameters.

    Example:
        >>> losses, gradients = member_gradients(
        ...     lambda p: p["w"].square().sum(dim=1), {"w": torch.tensor([[1.0, 2.0], [3.0, 0.0]])}
        ... )
        >>> losses
        tensor([5., 9.])
        >>> gradients["w"]
        tensor([[2., 4.],
                [6., 0.]])
    """
    wanted = list(params) if names is None else list(names)
    unknown = [name for name in wanted if name not in params]
    if unknown or not wanted:
        raise ValueError(f"names must be one or more of {sorted(params)}, but found {wanted}")
    leaves = {name: tensor.detach() for name, tensor in params.items()}
    for name in wanted:
        leaves[name].requires_grad_()
    with torch.enable_grad():
        losses = loss_fn(dict(leaves))
        if losses.dim() != 1 or not losses.requires_grad:
            raise ValueError(
                "loss_fn must return one loss a member, shape [K], that depends on the parameters "
                f"{wanted}, but found shape {tuple(losses.shape)}, "
                f"requires_grad {losses.requires_grad}"
            )
        # a scalar, because torch loads sympy (3 s) when it is given grad_outputs
        gradients = torch.autograd.grad(
            losses.sum(), [leaves[name] for name in wanted], allow_unused=True, materialize_grads=True
        )
    return losses.detach(), dict(zip(wanted, gradients, strict=True))


def member_shift(params: Params, direction: Params, lengths: Tensor) -> dict[str, Tensor]:
    r"""Return :math:`\theta_k - \alpha_k d_k` for every member, in the parameters' dtype.

    Args:
        params: Parameters :math:`\theta` by name, ``[K*d, ...]``.
        direction: Direction :math:`d`, of the same names and shapes.
        lengths: Step length :math:`\alpha_k` of every member, ``[K]``.

    Returns:
        New tensors by name.

    Example:
        >>> member_shift({"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([2.0, 2.0])},
        ...              torch.tensor([0.5, 1.0]))["w"]
        tensor([ 0., -1.])
    """
    members = lengths.shape[0]
    shifted = {}
    for name, tensor in params.items():
        start = tensor.detach().reshape(members, -1)
        alpha = lengths.to(device=start.device, dtype=start.dtype).unsqueeze(1)
        shifted[name] = (start - alpha * direction[name].reshape(members, -1)).reshape(tensor.shape)
    return shifted
