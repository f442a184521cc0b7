"""SGD, Adam and AdamW for K members at once: torch's update rules with settings per member.

Every parameter has a leading axis of size ``K * d``, member-major, so ``parameter.view(K, -1)`` holds
one member in each row and a setting of shape ``[K, 1]`` scales each row by its own value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from bnsweep.trial import Value

__all__ = ["MemberOptimizer"]

_SETTINGS = ("lr", "momentum", "beta1", "beta2", "adam_eps", "weight_decay")


class MemberOptimizer:
    r"""One optimizer for a stack of K networks, equal to K optimizers of :mod:`torch.optim`.

    SGD follows :class:`torch.optim.SGD` (momentum without dampening, Nesterov), Adam
    :class:`torch.optim.Adam`, AdamW :class:`torch.optim.AdamW` (decay decoupled from the gradient).
    Decay is applied to the parameters named in ``decayed`` only.

    Args:
        params: Parameters by name, leading axis ``K * d``; updated in place.
        trials: The parameters of each member's trial, in order; the optimizer's kind and
            ``nesterov`` must be equal in all of them.
        decayed: Names of the parameters that ``weight_decay`` shrinks; empty where the decay is a
            term of the loss.
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
        self.decayed = frozenset(decayed)
        like = next(iter(self.params.values()))
        self.settings = {
            name: torch.tensor(
                [[float(trial[name])] for trial in trials], dtype=like.dtype, device=like.device
            )
            for name in _SETTINGS
            if name in trials[0]
        }
        self.steps = 0
        moments = {"sgd": ("momentum",), "adam": ("first", "second"), "adamw": ("first", "second")}
        self.state = {
            moment: {name: torch.zeros_like(value) for name, value in self.params.items()}
            for moment in moments[self.kind]
            if moment != "momentum" or bool(self.settings["momentum"].any())
        }

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Make one update of every member.

        Args:
            gradients: Gradient of the members' summed loss by parameter name.
        """
        self.steps += 1
        update = self._sgd if self.kind == "sgd" else self._adam
        for name, parameter in self.params.items():
            update(name, self._rows(parameter), self._rows(gradients[name]))

    def _rows(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(self.members, -1)

    def _decay(self, name: str, weight: Tensor, gradient: Tensor) -> Tensor:
        if name not in self.decayed:
            return gradient
        return torch.addcmul(gradient, weight, self.settings["weight_decay"])

    def _sgd(self, name: str, weight: Tensor, gradient: Tensor) -> None:
        gradient = self._decay(name, weight, gradient)
        if "momentum" in self.state:
            momentum = self.settings["momentum"]
            buffer = self._rows(self.state["momentum"][name])
            buffer.mul_(momentum).add_(gradient)
            gradient = torch.addcmul(gradient, buffer, momentum) if self.nesterov else buffer
        weight.addcmul_(gradient, self.settings["lr"], value=-1.0)

    def _adam(self, name: str, weight: Tensor, gradient: Tensor) -> None:
        lr, beta1, beta2 = (self.settings[key] for key in ("lr", "beta1", "beta2"))
        if self.kind == "adam":
            gradient = self._decay(name, weight, gradient)
        elif name in self.decayed:
            weight.mul_(1.0 - lr * self.settings["weight_decay"])
        first = self._rows(self.state["first"][name])
        second = self._rows(self.state["second"][name])
        first.lerp_(gradient, (1.0 - beta1).expand_as(gradient))
        second.mul_(beta2).add_(gradient * gradient * (1.0 - beta2))
        step_size = lr / (1.0 - beta1**self.steps)
        root = (second / (1.0 - beta2**self.steps)).sqrt_().add_(self.settings["adam_eps"])
        weight.addcdiv_(first * step_size, root, value=-1.0)

    def compact(self, params: Mapping[str, Tensor], keep: Sequence[int]) -> MemberOptimizer:
        """Return the optimizer of the members ``keep``, whose parameters are ``params``."""
        index = torch.tensor(list(keep), device=next(iter(self.params.values())).device)
        smaller = object.__new__(MemberOptimizer)
        smaller.params = dict(params)
        smaller.members = len(keep)
        smaller.kind, smaller.nesterov, smaller.decayed = self.kind, self.nesterov, self.decayed
        smaller.steps = self.steps
        smaller.settings = {name: value[index] for name, value in self.settings.items()}
        smaller.state = {
            moment: {
                name: value.unflatten(0, (self.members, -1))[index].flatten(0, 1)
                for name, value in values.items()
            }
            for moment, values in self.state.items()
        }
        return smaller

    def state_dict(self) -> dict[str, object]:
        """Return the step count and the moments, for a checkpoint."""
        return {"steps": self.steps, "state": self.state}

    def load_state_dict(self, content: Mapping[str, object]) -> None:
        """Take over what :meth:`state_dict` returned for the same members."""
        self.steps = int(content["steps"])  # type: ignore[call-overload]
        stored = content["state"]
        assert isinstance(stored, dict)
        for moment, values in self.state.items():
            for name, value in values.items():
                value.copy_(stored[moment][name])
