"""Readings as rows of a trial's curves: the names that the ledger, MLflow and the report use.

A row is ``(name, layer, value)``: layer 0 is the network as a whole, which for a probe of layers
is the mean over the measured ones; 1 and more are weight layers. A layer whose value is undefined
(NaN, see the probes) is left out of that mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from bnsweep.probes.activations import LEVELS, ActivationsReading
from bnsweep.probes.ics import ICSReading
from bnsweep.probes.landscape import LandscapeReading
from bnsweep.probes.moments import MomentsReading
from bnsweep.probes.theory import TheoryReading

__all__ = ["Row", "activations_rows", "ics_rows", "landscape_rows", "moments_rows", "theory_rows"]

Row = tuple[str, int, float]
"""Name, layer (0: the network), value."""


def ics_rows(reading: ICSReading, member: int) -> list[Row]:
    """Return ``ics/l2``, ``ics/cosine`` and ``ics/relative`` of one member.

    Args:
        reading: What the probe measured.
        member: Position of the member in the pack, from 0.

    Example:
        >>> values = torch.tensor([[0.0], [3.0]])
        >>> ics_rows(ICSReading((1, 2), values, values, values), member=0)[:3]
        [('ics/l2', 0, 1.5), ('ics/l2', 1, 0.0), ('ics/l2', 2, 3.0)]
    """
    return [
        *_layer_rows("ics/l2", reading.layers, reading.l2[:, member]),
        *_layer_rows("ics/cosine", reading.layers, reading.cosine[:, member]),
        *_layer_rows("ics/relative", reading.layers, reading.relative[:, member]),
    ]


def landscape_rows(reading: LandscapeReading, member: int, each: bool = False) -> list[Row]:
    """Return the bands, the smoothness and the point's own loss and gradient norm of one member.

    ``landscape/loss`` is the loss at the point, ``landscape/beta_step`` the step size, in
    multiples of lr, at which ``landscape/beta`` is attained, ``landscape/n_overflow`` the number
    of values that are not finite. ``each`` adds what the bands are made of, one reading a step size, such
    as ``landscape/gradient_change_at_0.5``.

    Args:
        reading: What the probe measured.
        member: Position of the member in the pack, from 0.
        each: Whether every step size has readings of its own.
    """
    loss_min, loss_max = reading.loss_band
    change_min, change_max = reading.gradient_change_band
    width = torch.where(loss_max.isfinite(), loss_max - loss_min, loss_max)
    values = {
        "loss": reading.loss,
        "loss_min": loss_min,
        "loss_max": loss_max,
        "loss_width": width,
        "gradient_norm": reading.gradient_norm,
        "gradient_change_min": change_min,
        "gradient_change_max": change_max,
        "beta": reading.beta,
        "beta_lr": reading.beta_lr,
        "beta_step": reading.beta_step,
        "n_overflow": reading.n_overflow,
    }
    for index, size in enumerate(reading.step_sizes if each else ()):
        values[f"loss_at_{size:g}"] = reading.losses[index]
        values[f"gradient_change_at_{size:g}"] = reading.gradient_change[index]
    return [(f"landscape/{name}", 0, float(value[member])) for name, value in values.items()]


def moments_rows(reading: MomentsReading, member: int, layers: Sequence[int]) -> list[Row]:
    """Return ``moments/mean_change`` and ``moments/variance_change`` of one member.

    Args:
        reading: What the probe measured.
        member: Position of the member in the pack, from 0.
        layers: The weight layer that each measured site follows, 1-based.
    """
    return [
        *_layer_rows("moments/mean_change", layers, reading.mean_change[:, member]),
        *_layer_rows("moments/variance_change", layers, reading.variance_change[:, member]),
    ]


def activations_rows(reading: ActivationsReading, member: int, layers: Sequence[int]) -> list[Row]:
    """Return ``activations/mean``, ``/variance`` and the quantiles ``/q05`` to ``/q95`` of one member.

    A mean over layers would say nothing, so there is none.

    Args:
        reading: What the probe measured.
        member: Position of the member in the pack, from 0.
        layers: The weight layer that each measured site follows, 1-based.
    """
    values = {"mean": reading.mean, "variance": reading.variance}
    values |= {f"q{100 * level:02.0f}": own for level, own in zip(LEVELS, reading.quantiles, strict=True)}
    return [
        (f"activations/{name}", layer, float(value))
        for name, table in values.items()
        for layer, value in zip(layers, table[:, member].tolist(), strict=True)
    ]


def theory_rows(readings: Sequence[TheoryReading], member: int, layers: Sequence[int]) -> list[Row]:
    """Return the readings of Section 4's theorems of one member.

    ``theory/gradient_error``, ``/curvature_error``, ``/undone_error`` and ``/scale_error`` say by how much
    a theorem is missed; the network's is the largest of its layers'. Of the others it is the mean.

    Args:
        readings: What the probe measured, layer by layer.
        member: Position of the member in the pack, from 0.
        layers: The weight layer of each, 1-based.
    """
    rows: list[Row] = []
    for name in (one.name for one in fields(TheoryReading)):
        values = torch.stack([getattr(reading, name)[member] for reading in readings])
        own = _layer_rows(f"theory/{name}", layers, values)
        if name.endswith("_error"):
            own[0] = (own[0][0], 0, float(values.amax()))
        rows.extend(own)
    return rows


def _layer_rows(name: str, layers: Sequence[int], values: Tensor) -> list[Row]:
    rows = [(name, layer, float(value)) for layer, value in zip(layers, values.tolist(), strict=True)]
    return [(name, 0, float(values.contiguous().nanmean())), *rows]
