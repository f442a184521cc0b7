"""What the probes cost, beside their definitions: ``python -m benchmarks.probes``.

Each probe reads one step of a stack of K networks on random data, as the trainer lets it, with the
training step's own loss and gradient at hand, and again word by word: for internal covariate shift a
whole backward pass by all parameters for each layer, for the landscape one for the point and one for each of
four step sizes, both compared by the same sums. ``naive, W only`` asks autograd for nothing but the gradient
of each layer's weights, as the package's reference does. Times are CPU milliseconds of one thread;
``steps`` is how many training passes the reading costs.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bnsweep.models import LayerSpec, NetworkPlan, StackedNet
from bnsweep.models.dln import dln_layers
from bnsweep.models.vgg import vgg_layers
from bnsweep.probes import (
    activation_moments,
    gradient_landscape,
    internal_covariate_shift,
    linear_covariate_shift,
    member_difference,
    member_gradients,
    member_shift,
)
from bnsweep.training.objective import batch_loss
from bnsweep.training.probing import StepLoss

SIZES = [0.5, 1.0, 2.0, 4.0]


@dataclass(frozen=True)
class Case:
    """A network, with the batch that each of its members sees."""

    name: str
    layers: tuple[LayerSpec, ...]
    norm: str
    members: int
    batch: int
    sample: tuple[int, ...]


def cnn_layers(images: int, width: int) -> tuple[LayerSpec, ...]:
    """Lay out nine convolutions of 1, 2 and 4 times ``width`` channels, three each, and a classifier."""
    layers, inputs, size = [], 1, images
    for index in range(9):
        outputs, pooled = width * 2 ** (index // 3), index % 3 == 2
        layers.append(LayerSpec(f"conv{index + 1}", "conv", inputs, outputs, size, pooled=pooled))
        inputs, size = outputs, size // 2 if pooled else size
    last = LayerSpec("linear1", "linear", inputs * size**2, 10, site=False, activated=False)
    return (*layers, last)


def cases(quick: bool) -> list[Case]:
    """Return the networks; small ones if ``quick``."""
    images, members, batch, depth, units = (8, 2, 8, 4, 8) if quick else (28, 4, 64, 25, 64)
    samples, stack = (32, 2) if quick else (512, 8)
    vgg = vgg_layers("vgg11", 1, 8, 10, 0.125)[0]
    return [
        Case("10-layer CNN, batch norm", cnn_layers(images, 8), "batch", members, batch, (1, images, images)),
        Case("VGG-11 of the quickstart, batch norm", vgg, "batch", stack, batch, (1, 8, 8)),
        Case(
            f"DLN {depth} x {units}, batch norm", dln_layers(depth, units), "batch", stack, samples, (units,)
        ),
        Case(f"DLN {depth} x {units}, no norm", dln_layers(depth, units), "none", stack, samples, (units,)),
    ]


class Step:
    """One step of a case, and every way to read it."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case, self.members = case, case.members
        net = StackedNet(NetworkPlan(case.layers, norm=case.norm), case.members)
        net.initialize(range(case.members))
        x = torch.randn(case.members, case.batch, *case.sample)
        self.linear = len(case.sample) == 1
        y = torch.randn_like(x) if self.linear else torch.randint(10, (case.members, case.batch))
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        levels = torch.zeros(case.members)
        self.loss = StepLoss(
            net.train(), buffers, x, y, None, levels, lambda out, target, _: batch_loss(out, target)
        )
        self.layers = net.layers
        self.before = {name: value.detach().clone() for name, value in net.named_parameters()}
        self.known = member_gradients(self.loss, self.before)
        self.lr = torch.full((case.members,), 1e-7 if self.linear else 0.01)
        self.after = member_shift(self.before, self.known[1], self.lr)
        self.every = range(1, len(self.layers) + 1)

    def training(self) -> object:
        """Return loss and gradient, as a training step does."""
        return member_gradients(self.loss, self.before)

    def shift_by_definition(self) -> object:
        """Take all gradients of the whole network for every layer."""
        old, found, hybrid = member_gradients(self.loss, self.before)[1], [], dict(self.before)
        for layer, earlier in zip(self.layers[1:], self.layers, strict=False):
            hybrid |= {name: self.after[name] for name in earlier.block}
            new = member_gradients(self.loss, hybrid)[1][layer.weight]
            found.append(member_difference({"": old[layer.weight]}, {"": new}, self.members))
        return found

    def shift_naive(self) -> object:
        """Take the package's reference."""
        return internal_covariate_shift(
            self.loss, self.before, self.after, self.layers, self.every, self.members, method="naive"
        )

    def shift(self) -> object:
        """Take what training takes."""
        if self.linear and self.case.norm == "none":
            x, y = self.loss.x, self.loss.y
            return linear_covariate_shift(
                self.before, self.after, self.layers, self.every, self.members, x, y
            )
        return internal_covariate_shift(
            self.loss, self.before, self.after, self.layers, self.every, self.members, gradients=self.known[1]
        )

    def landscape_by_definition(self) -> object:
        """Take the point itself too."""
        return gradient_landscape(self.loss, self.before, self.lr, SIZES, self.members)

    def landscape(self) -> object:
        """Take what training takes."""
        return gradient_landscape(self.loss, self.before, self.lr, SIZES, self.members, known=self.known)

    @torch.no_grad()
    def moments(self) -> object:
        """Take the moments of two steps."""
        readings = []
        for params in (self.before, self.after):
            record: list[Tensor] = []
            self.loss.forward(params, record=record)
            readings.append(activation_moments(record, self.members))
        return readings


def medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each way, taken in turn after one call of each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if repeat:
                times[name].append(1e3 * (time.process_time() - began))
    return {name: statistics.median(own) for name, own in times.items()}


def rows(case: Case, repeats: int) -> list[str]:
    """Return the lines of one network."""
    step = Step(case)
    ways = {
        "step": step.training,
        "shift by definition": step.shift_by_definition,
        "shift naive": step.shift_naive,
        "shift": step.shift,
        "landscape by definition": step.landscape_by_definition,
        "landscape": step.landscape,
        "moments": step.moments,
    }
    found = medians(ways, repeats)
    unit = found["step"]

    def line(name: str, cost: float, definition: float | None = None) -> str:
        beside = (
            f"{definition:10.1f} {definition / cost:6.1f}" if definition is not None else f"{'':10} {'':6}"
        )
        return f"  {name:<34} {beside} {cost:10.2f} {cost / unit:7.2f}"

    every = (found["shift"] + found["landscape"] + found["moments"]) / 50
    return [
        f"{case.name}: {case.members} members, batch {case.batch}, a training pass {unit:.1f} ms",
        line("ics", found["shift"], found["shift by definition"]),
        line("ics, naive, W only", found["shift naive"], found["shift by definition"]),
        line("landscape, 4 step sizes", found["landscape"], found["landscape by definition"]),
        line("moments", found["moments"]),
        f"  all three every 50 steps add {100 * every / unit:.0f} % to the training passes",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="interleaved runs of each way")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one run: shows that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 1 if options.quick else options.repeats
    print(
        f"{os.cpu_count()} CPUs ({platform.machine()}), torch {torch.__version__}, one thread, float32; ",
        end="",
    )
    print(f"medians of {repeats} interleaved runs, CPU ms")
    print(f"  {'':<34} {'definition':>10} {'ratio':>6} {'now':>10} {'steps':>7}")
    for case in cases(options.quick):
        print("\n".join(rows(case, repeats)), flush=True)


if __name__ == "__main__":
    main()
