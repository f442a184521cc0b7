"""Feeds the probes: the batch, the noise draw and the two parameter sets of one optimizer step.

The probes themselves are pure functions in :mod:`bnsweep.probes`; here they get a loss that is a
function of the parameters alone. Running statistics are passed as copies, so nothing that
training owns is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from bnsweep.models import LayerInfo, StackedNet
from bnsweep.norms import BatchNorm
from bnsweep.norms.noise import SiteNoise
from bnsweep.probes import (
    TheoryReading,
    activation_moments,
    activations_rows,
    gradient_landscape,
    ics_rows,
    internal_covariate_shift,
    landscape_rows,
    layer_theory,
    linear_covariate_shift,
    member_gradients,
    moment_change,
    moments_rows,
    sampled_activations,
    theory_rows,
)

from .batches import MemberBatches
from .objective import batch_loss

__all__ = ["MemberRows", "Snapshot", "StepLoss", "measure"]

Params = dict[str, Tensor]
Objective = Callable[[Tensor, Tensor, Params], Tensor]
MemberRows = list[list[tuple[str, int, float]]]


@dataclass(frozen=True)
class Snapshot:
    """What stood before an update: the probes due, parameters, running statistics, learning rates.

    Attributes:
        step: The optimizer step.
        probes: Options of the probes that are due.
        params: Copies of the parameters before the update.
        buffers: Copies of the running statistics before the step.
        lr: Learning rate of each member, ``[K]``.
    """

    step: int
    probes: Mapping[str, Mapping[str, Any]]
    params: Params
    buffers: Params
    lr: Tensor


@dataclass(frozen=True)
class StepLoss:
    """The loss of each member on one step's batch as a function of the parameters alone.

    It is a :class:`~bnsweep.probes.LayeredLoss`; running statistics are copied for every pass.

    Attributes:
        model: The network, in train mode; its own parameters and running statistics are not used.
        buffers: Running statistics to begin with.
        x: Inputs of the batch, ``[K, N, ...]``.
        y: Its targets.
        noise: Draws of every noisy site.
        levels: Noise level of each member.
        objective: Loss of each member from outputs, targets and parameters.
    """

    model: StackedNet
    buffers: Params
    x: Tensor
    y: Tensor
    noise: Sequence[SiteNoise] | None
    levels: Tensor
    objective: Objective

    def forward(self, params: Params, **options: Any) -> Tensor:
        """Return the outputs; ``options`` are those of the network's own forward pass."""
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        arguments = {"x": self.x, "noise": self.noise, "level": self.levels, **options}
        outputs = functional_call(self.model, (params, buffers), (), arguments)
        assert isinstance(outputs, Tensor)
        return outputs

    def __call__(self, params: Params) -> Tensor:
        """Return the loss of each member, ``[K]``."""
        return self.objective(self.forward(params), self.y, params)

    def entering(self, params: Params) -> list[Tensor]:
        """Return what enters each weight layer."""
        inputs: list[Tensor] = []
        self.forward(params, entering=inputs)
        return inputs

    def in_double(self) -> StepLoss:
        """Return the same in double precision; it takes parameters in double precision."""
        noise = [site.double() for site in self.noise] if self.noise is not None else None
        y = self.y.double() if self.y.is_floating_point() else self.y
        buffers = {n: b.double() if b.is_floating_point() else b for n, b in self.buffers.items()}
        return replace(
            self, buffers=buffers, x=self.x.double(), y=y, noise=noise, levels=self.levels.double()
        )

    def onward(self, params: Params, first: int, x: Tensor) -> Tensor:
        """Return the loss of each member, given what enters layer ``first``."""
        return self.objective(self.forward(params, x=x, first=first), self.y, params)


def measure(
    snapshot: Snapshot,
    losses: Tensor,
    gradients: Params | None,
    after: Params,
    model: StackedNet,
    batches: MemberBatches,
    objective: Objective,
    penalized: bool,
) -> MemberRows:
    """Take every reading that is due at ``snapshot``.

    What the training step has computed, loss and gradient before the update, is not computed again.

    Args:
        snapshot: The state before the update.
        losses: Loss of each member before the update, ``[K]``.
        gradients: Gradient of it by every parameter, where autograd computed it.
        after: Parameters after the update that the optimizer really made.
        model: The network; its own parameters and running statistics are not used.
        batches: Source of the step's batch and noise.
        objective: Loss of each member from outputs, targets and parameters.
        penalized: Whether it has terms beside the loss on the batch.

    Returns:
        For each member, ``(name, layer, value)``.
    """
    model.train()
    x, y, noise = batches.batch(batches.draws(snapshot.step))
    loss = StepLoss(model, snapshot.buffers, x, y, noise, batches.levels, objective)
    if gradients is None:
        losses, gradients = member_gradients(loss, snapshot.params)
    step = _Step(snapshot, losses, gradients, after, batches, loss, penalized)
    rows: MemberRows = [[] for _ in losses]
    for name, options in snapshot.probes.items():
        for own, values in zip(rows, _PROBES[name](step, options), strict=True):
            own.extend(values)
    return rows


@dataclass(frozen=True)
class _Step:
    """All there is to know of the step that is measured."""

    snapshot: Snapshot
    losses: Tensor
    gradients: Params
    after: Params
    batches: MemberBatches
    loss: StepLoss
    penalized: bool

    def redrawn(self, index: int) -> StepLoss:
        return replace(self.loss, noise=self.batches.noise(self.snapshot.step, f"probe {index}"))

    def resampled(self, options: Mapping[str, Any]) -> bool:
        return options["noise"] == "resampled" and self.loss.noise is not None


def _ics(step: _Step, options: Mapping[str, Any]) -> MemberRows:
    model, before, members = step.loss.model, step.snapshot.params, len(step.losses)
    measured = _layers(options["layers"], model)
    if _closed_form(step):
        root = step.batches.weight**0.5
        x, y = step.loss.x * root, step.loss.y * root
        reading = linear_covariate_shift(before, step.after, model.layers, measured, members, x, y)
    else:
        other = step.redrawn(0) if step.resampled(options) else None
        reading = internal_covariate_shift(
            step.loss, before, step.after, model.layers, measured, members, other, gradients=step.gradients
        )
    return [ics_rows(reading, member) for member in range(members)]


def _closed_form(step: _Step) -> bool:
    """Whether the loss is that of a product of matrices and nothing else."""
    plan = step.loss.model.plan
    bare = all(spec.kind == "linear" and not (spec.activated or spec.bias) for spec in plan.layers)
    return plan.norm == "none" and bare and step.loss.y.is_floating_point() and not step.penalized


def _landscape(step: _Step, options: Mapping[str, Any]) -> MemberRows:
    members = len(step.losses)
    reading = gradient_landscape(
        step.loss,
        step.snapshot.params,
        step.snapshot.lr,
        options["step_sizes"],
        members,
        step.redrawn if step.resampled(options) else None,
        (step.losses, step.gradients),
    )
    each = options.get("keep") == "each"
    return [landscape_rows(reading, member, each) for member in range(members)]


def _moments(step: _Step, options: Mapping[str, Any]) -> MemberRows:
    model, members, following = step.loss.model, len(step.losses), step.snapshot.step + 1
    chosen = _layers(options["layers"], model)
    sites = [site for site, layer in enumerate(model.site_layers) if layer in chosen]
    if not sites:
        return [[] for _ in range(members)]
    records: list[list[Tensor]] = [[], []]
    x, _, noise = step.batches.batch(step.batches.draws(following))
    after = replace(step.loss, x=x, noise=noise)
    with torch.no_grad():
        step.loss.forward(step.snapshot.params, record=records[0])
        after.forward(step.after, record=records[1])
    first, second = (activation_moments([record[site] for site in sites], members) for record in records)
    change = moment_change(first, second)
    layers = [model.site_layers[site] for site in sites]
    return [moments_rows(change, member, layers) for member in range(members)]


def _activations(step: _Step, options: Mapping[str, Any]) -> MemberRows:
    model, members = step.loss.model, len(step.losses)
    chosen = _layers(options["layers"], model)
    sites = [site for site, layer in enumerate(model.site_layers) if layer in chosen]
    if not sites:
        return [[] for _ in range(members)]
    record: list[Tensor] = []
    with torch.no_grad():
        step.loss.forward(step.snapshot.params, record=record)
    reading = sampled_activations([record[site] for site in sites], members)
    layers = [model.site_layers[site] for site in sites]
    return [activations_rows(reading, member, layers) for member in range(members)]


def _theory(step: _Step, options: Mapping[str, Any]) -> MemberRows:
    """Check the theorems where there is a batch normalization; other layers and norms have no readings."""
    model, members = step.loss.model, len(step.losses)
    chosen = _layers(options["layers"], model)
    found = [one for one in model.layers if one.index in chosen and isinstance(_norm(model, one), BatchNorm)]
    if not found:
        return [[] for _ in range(members)]
    exact = step.loss.in_double()
    params = {name: value.detach().double() for name, value in step.snapshot.params.items()}
    with torch.no_grad():
        entering = exact.entering(params)
    readings = [_layer_theory(step, exact, params, entering[one.index - 1], one) for one in found]
    layers = [one.index for one in found]
    return [theory_rows(readings, member, layers) for member in range(members)]


def _layer_theory(step: _Step, exact: StepLoss, params: Params, x: Tensor, layer: LayerInfo) -> TheoryReading:
    norm, weight = _norm(exact.model, layer), params[layer.weight].clone().requires_grad_()
    assert isinstance(norm, BatchNorm)
    normed: list[tuple[Tensor, Tensor]] = []
    with torch.enable_grad():
        outputs = exact.forward(params | {layer.weight: weight}, x=x, first=layer.index, normed=normed)
        losses = batch_loss(outputs, exact.y)
    start = [exact.model.initial_weight(layer, seed, step.batches.init) for seed in step.batches.seeds]
    gamma = params.get(f"{layer.name}.norm.weight")
    return layer_theory(losses, *normed[0], weight, torch.cat(start), gamma, norm.eps)


def _norm(model: StackedNet, layer: LayerInfo) -> torch.nn.Module:
    return model.get_submodule(f"{layer.name}.norm")


_PROBES: dict[str, Callable[[_Step, Mapping[str, Any]], MemberRows]] = {
    "ics": _ics,
    "landscape": _landscape,
    "moments": _moments,
    "activations": _activations,
    "theory": _theory,
}


def _layers(choice: str | Sequence[int], model: StackedNet) -> list[int]:
    every = [layer.index for layer in model.layers]
    return every if isinstance(choice, str) else [index for index in every if index in choice]
