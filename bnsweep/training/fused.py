"""Losses and gradients of dense networks without autograd: both passes written out.

For stacks of small layers most of a step's time is autograd's own bookkeeping and the layouts that
it copies between. Here activations stay in columns, ``[K, units, N]``, from the first layer to the
loss and back, and every product is one batched matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bnsweep.models import NetworkPlan, StackedLinear, StackedNet
from bnsweep.norms.noise import SiteNoise, noise_factors
from bnsweep.norms.written_out import Backward, written_out

from .objective import Loss

__all__ = ["DensePass", "fused_available"]


def fused_available(plan: NetworkPlan) -> bool:
    """Whether the passes of a network are written out: linear layers alone, and a norm of this package."""
    return all(layer.kind == "linear" for layer in plan.layers) and ":" not in plan.norm


class DensePass:
    """The training pass of one stacked dense network.

    Args:
        net: The network; its parameters are read anew at every pass, its running statistics moved.
        samples: How many samples the columns of a batch stand for, where that is not their number.

    Raises:
        ValueError: If a part of the network is not written out, see :func:`fused_available`.
    """

    def __init__(self, net: StackedNet, samples: int | None = None) -> None:
        if not fused_available(net.plan):
            raise ValueError(
                "the fused kernel needs linear layers alone and a norm of bnsweep's, but found "
                f"the norm {net.plan.norm!r} and layers of the kinds "
                f"{', '.join(sorted({layer.kind for layer in net.plan.layers}))}"
            )
        self._net, self._samples = net, samples
        self._layers = [layer for layer in net.children() if isinstance(layer, StackedLinear)]
        self._norms = [written_out(layer.norm) for layer in self._layers]

    @torch.no_grad()
    def gradients(
        self,
        x: Tensor,
        y: Tensor,
        noise: Sequence[SiteNoise] | None = None,
        level: Tensor | None = None,
        loss: Loss = Loss(),  # noqa: B008
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return each member's batch loss, outputs and gradients.

        Args:
            x: One batch for each member, ``[K, N, ...]``.
            y: Targets, as :func:`~bnsweep.training.objective.batch_loss` takes them.
            noise: The draws for each noisy site.
            level: Noise level of each member, ``[K]``.
            loss: What turns the loss on the batch into that on the samples that it stands for.

        Returns:
            Losses ``[K]``, outputs ``[K, N, O]`` and the gradient of every parameter by name.
        """
        net, members = self._net, self._net.members
        count = x.shape[1] if self._samples is None else self._samples
        draws = iter(noise or ())
        h = x.flatten(2).transpose(1, 2)
        backs: list[Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]] = []
        for spec, layer, norm in zip(net.plan.layers, self._layers, self._norms, strict=True):
            weight = layer.weight.detach().view(members, spec.outputs, spec.inputs)
            if layer.bias is None:
                z = torch.bmm(weight, h)
            else:
                z = torch.baddbmm(layer.bias.detach().view(members, -1, 1), weight, h)
            back = _product(spec.name, weight, h, layer.bias is not None, first=not backs)
            steps: list[Backward] = []
            if spec.site:
                assert norm is not None
                z, through_norm = norm(z, count)
                steps.append(through_norm)
                if noise is not None and level is not None:
                    z, through_noise = _noisy(z, next(draws), level, net.plan.noise_sigma)
                    steps.append(through_noise)
                if spec.activated:
                    z, through_activation = _ACTIVATIONS[net.plan.activation](z)
                    steps.append(through_activation)
            backs.append(_chain(spec.name, steps, back))
            h = z
        losses, d = _loss(h, y, loss.scale)
        losses = loss.of(losses)
        outputs = h.transpose(1, 2)
        gradients: dict[str, Tensor] = {}
        for back in reversed(backs):
            d, own = back(d)
            gradients |= own
        return losses, outputs, {name: gradients[name] for name, _ in net.named_parameters()}


def _chain(name: str, steps: Sequence[Backward], product: Backward) -> Backward:
    def backward(d: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        gradients: dict[str, Tensor] = {}
        for step in reversed(steps):
            d, own = step(d)
            gradients |= {f"{name}.norm.{key}": value for key, value in own.items()}
        d, own = product(d)
        return d, gradients | own

    return backward


def _product(name: str, weight: Tensor, h: Tensor, bias: bool, first: bool) -> Backward:
    def backward(d: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        own = {f"{name}.weight": torch.bmm(d, h.transpose(1, 2)).flatten(0, 1)}
        if bias:
            own[f"{name}.bias"] = d.sum(2).flatten()
        return d if first else torch.bmm(weight.transpose(1, 2), d), own

    return backward


def _relu(z: Tensor) -> tuple[Tensor, Backward]:
    y = z.clamp_min_(0)
    return y, lambda d: (torch.ops.aten.threshold_backward(d, y, 0), {})


def _gelu(z: Tensor) -> tuple[Tensor, Backward]:
    return functional.gelu(z), lambda d: (torch.ops.aten.gelu_backward(d, z), {})


_ACTIVATIONS: dict[str, Callable[[Tensor], tuple[Tensor, Backward]]] = {"relu": _relu, "gelu": _gelu}


def _noisy(z: Tensor, site: SiteNoise, level: Tensor, sigma_is: str) -> tuple[Tensor, Backward]:
    shift, scale = (part.t().view_as(z) for part in noise_factors(site, level, z.dtype, sigma_is))
    return torch.addcmul(shift, scale, z), lambda d: (d.mul_(scale), {})


def _loss(h: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the batch loss ``[K]`` and its gradient, from outputs ``[K, O, N]``."""
    if y.dtype.is_floating_point:
        error = (h - y.transpose(1, 2)).contiguous()
        losses = 0.5 * error.square().flatten(1).sum(1)
        return losses, error if scale == 1.0 else error.mul_(scale)
    log = functional.log_softmax(h, 1)
    index = y.unsqueeze(1)
    losses = -log.gather(1, index).squeeze(1).mean(1)
    d = log.exp_().scatter_add_(1, index, torch.full_like(log[:, :1], -1.0)).mul_(scale / y.shape[1])
    return losses, d
