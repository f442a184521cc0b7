"""Every network by name, and how one is made from a trial's parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from bnsweep.errors import Mistake, SpecError
from bnsweep.models.dln import dln_layers
from bnsweep.models.mlp import mlp_layers
from bnsweep.models.network import LayerSpec, NetworkPlan, StackedNet
from bnsweep.models.vgg import VGG_STAGES, vgg_layers
from bnsweep.names import DataFacts
from bnsweep.norms import NormOptions
from bnsweep.parameters import Value

__all__ = ["MODELS", "make_model"]

Layout = tuple[tuple[LayerSpec, ...], tuple[str, ...]]


def _vgg(p: Mapping[str, Value], facts: DataFacts) -> Layout:
    width = float(p.get("width", 1.0))
    return vgg_layers(str(p["model"]), facts.channels, facts.size, facts.classes, width)


def _dln(p: Mapping[str, Value], facts: DataFacts) -> Layout:
    return dln_layers(int(p.get("depth", 25)), int(p.get("features", 10))), ()


def _mlp(p: Mapping[str, Value], facts: DataFacts) -> Layout:
    inputs = facts.channels * facts.size**2
    return mlp_layers(inputs, int(p.get("depth", 3)), int(p.get("features", 128)), facts.classes), ()


MODELS: dict[str, Callable[[Mapping[str, Value], DataFacts], Layout]] = {
    **dict.fromkeys(VGG_STAGES, _vgg),
    "dln": _dln,
    "mlp": _mlp,
}
"""What lays out the layers of every network, from a trial's parameters and facts of its data."""


def make_model(
    parameters: Mapping[str, Value],
    facts: DataFacts,
    members: int = 1,
    *,
    dtype: torch.dtype = torch.float32,
    kernel: str = "grouped",
) -> StackedNet:
    """Make the network of a trial, for a stack of such trials.

    Its weights are zero: :meth:`StackedNet.initialize` draws them.

    Args:
        parameters: A trial's parameters; what is left out has the default of
            :data:`bnsweep.parameters.PARAMETERS`.
        facts: Channels, size and classes of the data.
        members: Members ``K`` of the stack.
        dtype: Floating-point type of parameters and activations.
        kernel: How the stack is computed, one of :data:`bnsweep.names.KERNELS`.

    With ``precision: bfloat16``, weight layers multiply in it while they train; see
    :class:`StackedNet`.

    Returns:
        The network, on the CPU.

    Raises:
        SpecError: If there is no such model or norm, the images are too small for it, the norm is
            undefined for one of its layers, or a norm of the user's cannot be stacked.

    Example:
        >>> net = make_model({"model": "vgg11", "width": 0.125}, DataFacts(1, 8, 10, 1437, 360), 2)
        >>> net(torch.zeros(2, 4, 1, 8, 8)).shape
        torch.Size([2, 4, 10])
        >>> net.layers[0].name, net.layers[0].block
        ('conv1', ('conv1.weight', 'conv1.norm.weight', 'conv1.norm.bias'))
    """
    model = str(parameters.get("model", "vgg11"))
    if model not in MODELS:
        must = f"must be one of {', '.join(MODELS)}"
        raise SpecError([Mistake("parameters.model", must, repr(model))])
    layers, notes = MODELS[model]({**parameters, "model": model}, facts)
    options = NormOptions(
        eps=float(parameters.get("norm_eps", 1e-5)),
        momentum=float(parameters.get("norm_momentum", 0.1)),
        affine=bool(parameters.get("affine", True)),
        groups=int(parameters.get("groups", 32)),
        lp_centered=bool(parameters.get("lp_centered", False)),
        lp_gaussian=bool(parameters.get("lp_gaussian", False)),
    )
    plan = NetworkPlan(
        layers,
        norm=str(parameters.get("norm", "batch")),
        options=options,
        activation=str(parameters.get("activation", "relu")),
        pool=str(parameters.get("pool", "max")),
        noise_sigma=str(parameters.get("noise_sigma", "std")),
        notes=notes,
    )
    products = torch.bfloat16 if parameters.get("precision") == "bfloat16" else None
    return StackedNet(plan, members, dtype, kernel, products)
