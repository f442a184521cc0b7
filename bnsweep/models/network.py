"""A network as a stack of K members: weight layers in sequence, each with its norm and activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnsweep.errors import Mistake, SpecError
from bnsweep.models.layers import StackedConv, StackedLinear
from bnsweep.names import KERNELS
from bnsweep.norms import CENTRING, NOISY, NormOptions, SiteNoise, apply_noise, make_norm
from bnsweep.trial import derive_seed

__all__ = ["LayerInfo", "LayerSpec", "NetworkPlan", "StackedNet", "parameter_decay"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


@dataclass(frozen=True)
class LayerSpec:
    """One weight layer of a plan, and what follows it.

    Attributes:
        name: Name of the layer, the first part of its parameters' names.
        kind: ``conv`` (3 x 3, padded) or ``linear``.
        inputs: Channels or units taken.
        outputs: Channels or units returned.
        size: Height and width of the output in pixels; 1 for a linear layer.
        site: Whether the output is normalized.
        activated: Whether an activation follows.
        pooled: Whether a 2 x 2 pooling follows.
        bias: Whether the layer has a bias, unless the norm makes it useless.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    size: int = 1
    site: bool = True
    activated: bool = True
    pooled: bool = False
    bias: bool = True


@dataclass(frozen=True)
class NetworkPlan:
    """Everything that determines a network but its members and their weights.

    Attributes:
        layers: The weight layers in order.
        norm: Name of the norm.
        options: Settings of the norm.
        activation: ``relu`` or ``gelu``.
        pool: ``max`` or ``avg``.
        noise_sigma: ``std`` or ``variance``, see :func:`bnsweep.norms.apply_noise`.
        notes: What a user should know about how the network was fitted to the data.
    """

    layers: tuple[LayerSpec, ...]
    norm: str = "none"
    options: NormOptions = field(default_factory=NormOptions)
    activation: str = "relu"
    pool: str = "max"
    noise_sigma: str = "std"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerInfo:
    """Where a weight layer is to be found in a network.

    Attributes:
        index: 1-based over weight layers.
        name: Name of the layer.
        kind: ``conv`` or ``linear``.
        weight: Name of the parameter that holds its weights.
        block: Names of all its parameters: weight, bias and those of its norm.
    """

    index: int
    name: str
    kind: str
    weight: str
    block: tuple[str, ...]


class StackedNet(nn.Module):
    """K networks of one architecture, computed together and independent of each other.

    A member's output and gradients do not depend on the other members. There is no state outside of
    parameters and buffers, so :func:`torch.func.functional_call` works. Noise is applied where it
    is given, in training and evaluation alike.

    Args:
        plan: The architecture.
        members: Members ``K``.
        dtype: Floating-point type of parameters and activations.
        kernel: How the stack is computed, one of :data:`bnsweep.names.KERNELS`.
        products: A lower precision in which weight layers multiply; ``None`` for ``dtype``. Parameters,
            norms with their statistics, and activations between layers stay in ``dtype``.

    Attributes:
        plan: The architecture.
        members: Members ``K``.
        kernel: How the stack is computed.
        products: The lower precision of products, or ``None``.
        layers: Every weight layer, in order.
        notes: What a user should know about how the network was fitted to the data.
        noise_sites: Shape of one sample of one member, ``(C, H, W)`` or ``(C,)``, at every site
            where noise applies; empty if the norm is not noisy.
        site_layers: Index of the weight layer of every hidden site, noisy or not.

    Shape:
        - Input: ``[K, N, C, H, W]``, or ``[K, N, F]`` where the first layer is linear.
        - Output: ``[K, N, O]``.
        - Every parameter and buffer: a first axis of ``K * d``, member-major.

    Raises:
        SpecError: If the norm is undefined for one of the layers, is unknown, or cannot be stacked.
        ValueError: If there is no such kernel.
    """

    def __init__(
        self,
        plan: NetworkPlan,
        members: int,
        dtype: torch.dtype = torch.float32,
        kernel: str = "grouped",
        products: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, but found {kernel!r}")
        notes = list(plan.notes)
        if plan.norm == "instance" and all(spec.kind == "linear" for spec in plan.layers):
            must = "instance needs convolutions, whose activations have pixels to normalize over"
            raise SpecError(
                [Mistake("parameters.norm", must, "linear layers only", "use norm layer, group or rms")]
            )
        for spec in plan.layers:
            self.add_module(spec.name, _make_layer(spec, plan, members, kernel))
        if plan.norm == "instance":
            linear = [spec.name for spec in plan.layers if spec.site and spec.kind == "linear"]
            notes.append(f"instance norm is undefined for linear layers: {', '.join(linear)} have none")
        self.to(dtype)
        self.plan, self.members, self.kernel, self.notes = plan, members, kernel, tuple(notes)
        self.products = products
        self._multiply_in(products)
        self.layers = tuple(self._info(index, spec) for index, spec in enumerate(plan.layers, 1))
        self.site_layers = tuple(index for index, spec in enumerate(plan.layers, 1) if spec.site)
        shapes = (_sample_shape(spec) for spec in plan.layers if spec.site)
        self.noise_sites = tuple(shapes) if plan.norm in NOISY else ()

    def _info(self, index: int, spec: LayerSpec) -> LayerInfo:
        block = tuple(f"{spec.name}.{name}" for name, _ in self.get_submodule(spec.name).named_parameters())
        return LayerInfo(index, spec.name, spec.kind, f"{spec.name}.weight", block)

    def _multiply_in(self, products: torch.dtype | None) -> None:
        for spec in self.plan.layers:
            self._layer(spec.name).products = products

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Multiply in the precision of the parameters for a while, as probes and evaluations do."""
        self._multiply_in(None)
        try:
            yield
        finally:
            self._multiply_in(self.products)

    def forward(
        self,
        x: Tensor,
        noise: Sequence[SiteNoise] | None = None,
        level: Tensor | None = None,
        record: list[Tensor] | None = None,
        *,
        first: int = 1,
        entering: list[Tensor] | None = None,
        normed: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Compute the outputs of all members.

        Args:
            x: One batch for each member; with ``first``, what enters that layer.
            noise: The draws for each of ``noise_sites``; without them there is no noise.
            level: Noise level of each member, ``[K]``; needed with ``noise``.
            record: Collects, for each hidden site, the activation after norm and noise and before
                the non-linearity, detached, as ``[N, K*C, H, W]`` or ``[N, K*C]``.
            first: The weight layer to begin with, 1-based; the layers before it are left out.
            entering: Collects, for each weight layer, what a call with this ``first`` takes as ``x``.
            normed: Collects, for each hidden site, what enters its norm and what leaves it, before any
                noise, both as parts of autograd's graph.

        Returns:
            The outputs, ``[K, N, O]``.

        Raises:
            ValueError: If ``noise`` does not fit ``noise_sites``, or comes without ``level``.
        """
        if noise is not None and (level is None or len(noise) != len(self.noise_sites)):
            raise ValueError(
                f"noise must come with a level and hold one entry for each of the {len(self.noise_sites)} "
                f"noisy sites, but found {len(noise)} entries and level {level}"
            )
        draws = dict(zip(self.site_layers, noise or (), strict=False))
        activation = _ACTIVATIONS[self.plan.activation]
        custom = ":" in self.plan.norm  # a norm of the user's may rely on the usual layout
        h = x
        for index, spec in enumerate(self.plan.layers[first - 1 :], first):
            if entering is not None:
                entering.append(h)
            if index == 1:
                h = x.flatten(2) if spec.kind == "linear" else x.transpose(0, 1).flatten(1, 2)
            layer = self._layer(spec.name)
            if spec.kind == "linear" and h.dim() == 4:
                h = h.flatten(1)
            h = layer(h)
            if not spec.site:
                continue
            h = _normalized(layer.norm, h.contiguous() if custom else h, normed)
            if index in draws and level is not None:
                h = apply_noise(h, draws[index], level, self.plan.noise_sigma)
            if record is not None:
                record.append(h.detach())
            h = activation(h) if spec.activated else h
            if spec.pooled:
                h = F.max_pool2d(h, 2) if self.plan.pool == "max" else F.avg_pool2d(h, 2)
        return h.t().reshape(self.members, -1, len(h)).transpose(1, 2)

    def _layer(self, name: str) -> StackedConv | StackedLinear:
        layer: StackedConv | StackedLinear = getattr(self, name)
        return layer

    @torch.no_grad()
    def initialize(self, seeds: Sequence[int], init: str = "glorot_normal") -> None:
        r"""Draw new weights, on the CPU in float64, and set biases to 0; norms are left as they are.

        A layer's weights depend on the member's seed, the layer's name and its shape alone.
        With ``fan`` counting kernel taps, Glorot [1] has variance
        :math:`2 / (\mathrm{fan}_{in} + \mathrm{fan}_{out})`, and He [2]
        :math:`2 / \mathrm{fan}_{in}`.

        Args:
            seeds: The members' seeds.
            init: ``glorot_normal``, ``glorot_uniform``, ``he_normal`` or ``he_uniform``.

        Raises:
            ValueError: If ``init`` is none of these, or there is not one seed for each member.

        References:
            [1] Glorot, Bengio. Understanding the difficulty of training deep feedforward neural
            networks. AISTATS 2010. https://proceedings.mlr.press/v9/glorot10a.html
            [2] He, Zhang, Ren, Sun. Delving Deep into Rectifiers. ICCV 2015.
            https://arxiv.org/abs/1502.01852
        """
        if len(seeds) != self.members:
            raise ValueError(
                f"there must be a seed for each of {self.members} members, but found {len(seeds)}"
            )
        for info in self.layers:
            weight = self.get_parameter(info.weight)
            for own, seed in zip(weight.view(self.members, -1, *weight.shape[1:]), seeds, strict=True):
                own.copy_(self.initial_weight(info, seed, init))
            bias = self._layer(info.name).bias
            if bias is not None:
                bias.zero_()

    def initial_weight(self, info: LayerInfo, seed: int, init: str) -> Tensor:
        """Return the weights that :meth:`initialize` gives one member: float64 on the CPU.

        Args:
            info: The layer.
            seed: The member's seed.
            init: As for :meth:`initialize`.

        Raises:
            ValueError: If ``init`` is none of the rules.
        """
        rule, _, distribution = init.partition("_")
        if rule not in ("glorot", "he") or distribution not in ("normal", "uniform"):
            raise ValueError(
                f"init must be glorot_normal, glorot_uniform, he_normal or he_uniform, but found {init!r}"
            )
        weight = self.get_parameter(info.weight)
        outputs, inputs, *taps = len(weight) // self.members, *weight.shape[1:]
        area = math.prod(taps)
        fan = inputs * area if rule == "he" else (inputs + outputs) * area
        generator = torch.Generator().manual_seed(derive_seed(seed, "init", info.name))
        draw = torch.empty(outputs, *weight.shape[1:], dtype=torch.float64)
        if distribution == "normal":
            return draw.normal_(0, math.sqrt(2 / fan), generator=generator)
        bound = math.sqrt(6 / fan)
        return draw.uniform_(-bound, bound, generator=generator)

    def compact(self, keep: Sequence[int]) -> StackedNet:
        """Copy some members into a network of their own.

        Args:
            keep: The members to keep, in their new order.

        Returns:
            A network of ``len(keep)`` members with copies of their parameters and buffers, on the
            same device and in the same mode.
        """
        first = next(self.parameters())
        other = StackedNet(self.plan, len(keep), first.dtype, self.kernel, self.products).to(first.device)
        other.train(self.training)
        index = torch.tensor(keep, dtype=torch.int64, device=first.device)
        sources = dict(self.named_parameters()) | dict(self.named_buffers())
        targets = dict(other.named_parameters()) | dict(other.named_buffers())
        with torch.no_grad():
            for name, target in targets.items():
                source = sources[name]
                if source.dim():
                    stacked = source.reshape(self.members, -1, *source.shape[1:])
                    source = stacked.index_select(0, index).flatten(0, 1)
                target.copy_(source)
        return other


def parameter_decay(model: StackedNet) -> tuple[str, ...]:
    """Return the names of the parameters that are weights of weight layers, which weight decay means."""
    return tuple(info.weight for info in model.layers)


def _normalized(norm: nn.Module, h: Tensor, normed: list[tuple[Tensor, Tensor]] | None) -> Tensor:
    """Call a norm and collect what it took and gave."""
    after: Tensor = norm(h)
    if normed is not None:
        normed.append((h, after))
    return after


def _sample_shape(spec: LayerSpec) -> tuple[int, ...]:
    return (spec.outputs, spec.size, spec.size) if spec.kind == "conv" else (spec.outputs,)


def _make_layer(spec: LayerSpec, plan: NetworkPlan, members: int, kernel: str) -> nn.Module:
    """Make one weight layer with its norm, if it is a hidden one."""
    norm: nn.Module = nn.Identity()
    normalized = spec.site and not (plan.norm == "instance" and spec.kind == "linear")
    if normalized:
        _check_defined(spec, plan)
        o = plan.options
        norm = make_norm(
            plan.norm,
            spec.outputs,
            members,
            eps=o.eps,
            momentum=o.momentum,
            affine=o.affine,
            groups=o.groups,
            lp_centered=o.lp_centered,
            lp_gaussian=o.lp_gaussian,
        )
    bias = spec.bias and not (normalized and plan.norm in CENTRING)
    make = StackedConv if spec.kind == "conv" else StackedLinear
    return make(spec.inputs, spec.outputs, members, bias=bias, norm=norm, kernel=kernel)


def _check_defined(spec: LayerSpec, plan: NetworkPlan) -> None:
    """Refuse a norm that would see a single value, so that its output would be constant."""
    pixels = spec.size**2
    groups = math.gcd(plan.options.groups, spec.outputs)
    values = {
        "instance": pixels,
        "layer": spec.outputs * pixels,
        "group": spec.outputs // groups * pixels,
    }.get(plan.norm, 2)
    if values > 1:
        return
    must = f"{plan.norm} needs two values or more to normalize over"
    found = f"one at layer {spec.name} ({spec.outputs} channels of {spec.size} x {spec.size} pixels"
    found += f", {groups} groups)" if plan.norm == "group" else ")"
    hint = {
        "instance": "use larger images, or norm layer, group or rms",
        "layer": "use a wider network",
        "group": "set groups lower, or use a wider network",
    }[plan.norm]
    raise SpecError([Mistake("parameters.norm", must, found, hint)])
