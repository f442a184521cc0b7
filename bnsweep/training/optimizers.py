"""SGD, Adam and AdamW for K members at once: torch's update rules with settings per member.

Every parameter has a leading axis of size ``K * d``, member-major, so ``parameter.view(K, -1)`` holds
one member in each row and a setting of shape ``[K, 1]`` scales each row by its own value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bnsweep.parameters import Value

__all__ = ["MemberOptimizer"]

_SETTINGS = ("lr", "momentum", "beta1", "beta2", "adam_eps", "weight_decay")
_MOMENTS = {"sgd": ("momentum",), "adam": ("first", "second"), "adamw": ("first", "second")}


class MemberOptimizer:
    r"""One optimizer for a stack of K networks, equal to K optimizers of :mod:`torch.optim`.

    SGD follows :class:`torch.optim.SGD` (momentum without dampening, Nesterov), Adam
    :class:`torch.optim.Adam`, AdamW :class:`torch.optim.AdamW` (decay decoupled from the gradient).
    Decay is applied to the parameters named in ``decayed`` only. As in torch, settings and the
    factors made of them are computed in float64 and rounded once to the parameters' type.

    Args:
        params: Parameters by name, leading axis ``K * d``; updated in place.
        trials: The parameters of each member's trial, in order; the optimizer's kind and
            ``nesterov`` must be equal in all of them.
        decayed: Names of the parameters that ``weight_decay`` shrinks; empty where the decay is a
            term of the loss.

    Attributes:
        lr: Learning rate of each member, float64 ``[K]``.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        trials: Sequence[Mapping[str, Value]],
        decayed: Collection[str],
    ) -> None:
        self.params = dict(params)
        self.members = len(trials)
        self.kind = str(trials[0]["optimizer"])
        self.nesterov = bool(trials[0].get("nesterov", False))
        like = next(iter(self.params.values()))
        self._dtype = like.dtype
        given = {name: [float(trial[name]) for trial in trials] for name in _SETTINGS if name in trials[0]}
        self._settings = {
            name: torch.tensor(values, dtype=torch.float64, device=like.device)[:, None]
            for name, values in given.items()
        }
        self.lr = self._settings["lr"].flatten()
        self._decayed = frozenset(decayed) if any(given["weight_decay"]) else frozenset()
        self._steps = 0
        self._state = {
            moment: {name: torch.zeros_like(value) for name, value in self.params.items()}
            for moment in _MOMENTS[self.kind]
            if moment != "momentum" or any(given["momentum"])
        }

    def advance(self) -> dict[str, Tensor]:
        """Count one more update, and return what :meth:`update` scales rows by at it, ``[K, 1]`` each."""
        self._steps += 1
        return self._factors()

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> None:
        """Make the update of every member that :meth:`advance` has counted, which gave the ``factors``.

        Args:
            gradients: Gradient of the members' summed loss by parameter name.
            factors: What rows are scaled by.
        """
        update = self._sgd if self.kind == "sgd" else self._adam
        for name, parameter in self.params.items():
            update(name, self._rows(parameter), self._rows(gradients[name]), factors)

    def _factors(self) -> dict[str, Tensor]:
        """Return what scales rows at this step, ``[K, 1]`` each, in the parameters' type."""
        factors = dict(self._settings)
        if self.kind != "sgd":
            lr, beta1, beta2 = (factors[name] for name in ("lr", "beta1", "beta2"))
            factors["new1"], factors["new2"] = 1 - beta1, 1 - beta2
            factors["length"] = lr / (1 - beta1**self._steps)
            factors["root"] = (1 - beta2**self._steps).sqrt()
            factors["kept"] = 1 - lr * factors["weight_decay"]
        return {name: value.to(self._dtype) for name, value in factors.items()}

    def state(self) -> list[Tensor]:
        """Return the tensors that an update changes in place: parameters and moments."""
        return [*self.params.values(), *(value for own in self._state.values() for value in own.values())]

    def _rows(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(self.members, -1)

    def _sgd(self, name: str, weight: Tensor, gradient: Tensor, factors: Mapping[str, Tensor]) -> None:
        if name in self._decayed:
            gradient = gradient + _scaled(weight, factors["weight_decay"])
        if "momentum" in self._state:
            momentum = factors["momentum"]
            buffer = self._rows(self._state["momentum"][name])
            torch.add(_scaled(buffer, momentum), gradient, out=buffer)
            gradient = torch.addcmul(gradient, buffer, momentum) if self.nesterov else buffer
        weight.addcmul_(gradient, factors["lr"], value=-1.0)

    def _adam(self, name: str, weight: Tensor, gradient: Tensor, factors: Mapping[str, Tensor]) -> None:
        if name in self._decayed and self.kind == "adam":
            gradient = gradient + _scaled(weight, factors["weight_decay"])
        elif name in self._decayed:
            weight.mul_(factors["kept"])
        first = self._rows(self._state["first"][name])
        second = self._rows(self._state["second"][name])
        first.lerp_(gradient, factors["new1"].expand_as(gradient))
        second.mul_(factors["beta2"]).addcmul_(gradient * factors["new2"], gradient)
        root = (second.sqrt() / factors["root"]).add_(factors["adam_eps"])
        weight.addcdiv_(first * factors["length"], root, value=-1.0)

    def take(self, other: MemberOptimizer, rows: Sequence[int]) -> None:
        """Take over the step count and moments of the members ``rows`` of another optimizer."""
        self._steps = other._steps
        for moment, values in self._state.items():
            for name, value in values.items():
                source = other._rows(other._state[moment][name])
                self._rows(value).copy_(source[list(rows)])

    def state_dict(self) -> dict[str, Any]:
        """Return the step count and copies of the moments, for a checkpoint."""
        moments = {
            moment: {name: value.clone() for name, value in values.items()}
            for moment, values in self._state.items()
        }
        return {"steps": self._steps, "moments": moments}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned for the same members."""
        self._steps = int(content["steps"])
        for moment, values in self._state.items():
            for name, value in values.items():
                value.copy_(content["moments"][moment][name])


def _scaled(rows: Tensor, factor: Tensor) -> Tensor:
    """Return ``rows * factor``, and 0 where the factor is 0 even for infinity, as if nothing were scaled."""
    return (rows * factor).masked_fill_(factor == 0, 0.0)
