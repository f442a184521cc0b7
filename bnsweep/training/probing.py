"""Feeds the probes: the batch, the noise draw and the two parameter sets of one optimizer step.

The probes themselves are pure functions in :mod:`bnsweep.probes`; here they get a loss that is a
function of the parameters alone. Running statistics are passed as copies, so nothing that
training owns is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from bnsweep.models import StackedNet
from bnsweep.norms.noise import SiteNoise
from bnsweep.probes import (
    activation_moments,
    gradient_landscape,
    ics_rows,
    internal_covariate_shift,
    landscape_rows,
    moment_change,
    moments_rows,
)

from .batches import MemberBatches

__all__ = ["MemberRows", "Snapshot", "measure"]

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


def measure(
    snapshot: Snapshot, after: Params, model: StackedNet, batches: MemberBatches, objective: Objective
) -> MemberRows:
    """Take every reading that is due at ``snapshot``.

    Args:
        snapshot: The state before the update.
        after: Parameters after the update that the optimizer really made.
        model: The network; its own parameters and running statistics are not used.
        batches: Source of the step's batch and noise.
        objective: Loss of each member from outputs, targets and parameters.

    Returns:
        For each member, ``(name, layer, value)``.
    """
    model.train()
    step = snapshot.step
    x, y = batches.inputs(step)
    frozen = batches.noise(step)

    def forward(
        params: Params, inputs: Tensor, noise: Sequence[SiteNoise] | None, record: list[Tensor] | None = None
    ) -> Tensor:
        buffers = {name: value.clone() for name, value in snapshot.buffers.items()}
        outputs = functional_call(model, (params, buffers), (inputs, noise, batches.levels, record))
        assert isinstance(outputs, Tensor)
        return outputs

    def loss_with(noise: Sequence[SiteNoise] | None) -> Callable[[Params], Tensor]:
        return lambda params: objective(forward(params, x, noise), y, params)

    def redrawn(index: int) -> Callable[[Params], Tensor]:
        return loss_with(batches.noise(step, f"probe {index}"))

    members = len(snapshot.lr)
    rows: MemberRows = [[] for _ in range(members)]
    loss = loss_with(frozen)
    if "ics" in snapshot.probes:
        options = snapshot.probes["ics"]
        other = redrawn(0) if options["noise"] == "resampled" and frozen is not None else None
        measured = _layers(options["layers"], model)
        shift = internal_covariate_shift(loss, snapshot.params, after, model.layers, measured, members, other)
        _extend(rows, [ics_rows(shift, member) for member in range(members)])
    if "landscape" in snapshot.probes:
        options = snapshot.probes["landscape"]
        resample = redrawn if options["noise"] == "resampled" and frozen is not None else None
        reading = gradient_landscape(
            loss, snapshot.params, snapshot.lr, options["step_sizes"], members, resample
        )
        _extend(rows, [landscape_rows(reading, member) for member in range(members)])
    if "moments" in snapshot.probes:
        chosen = _layers(snapshot.probes["moments"]["layers"], model)
        records: list[list[Tensor]] = [[], []]
        with torch.no_grad():
            forward(snapshot.params, x, frozen, records[0])
            forward(after, batches.inputs(step + 1)[0], batches.noise(step + 1), records[1])
        sites = [site for site, layer in enumerate(model.site_layers) if layer in chosen]
        first, second = (activation_moments([record[site] for site in sites], members) for record in records)
        change = moment_change(first, second)
        layers = [model.site_layers[site] for site in sites]
        _extend(rows, [moments_rows(change, member, layers) for member in range(members)])
    return rows


def _layers(choice: str | Sequence[int], model: StackedNet) -> list[int]:
    every = [layer.index for layer in model.layers]
    return every if isinstance(choice, str) else [index for index in every if index in choice]


def _extend(rows: MemberRows, more: Sequence[Sequence[tuple[str, int, float]]]) -> None:
    for target, values in zip(rows, more, strict=True):
        target.extend(values)
