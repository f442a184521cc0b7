"""Measures on a device how many members a pack should have, and which kernel computes it fastest.

One second for one static signature: stacks of growing size are built and take a few steps with every
kernel that the device has. What is chosen here changes speed and rounding, never meaning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from bnsweep.data import Dataset
from bnsweep.models import make_model
from bnsweep.trial import TrialConfig

from .memory import peak_bytes, reset_peak
from .probing import MemberRows
from .stack import MemberStack, kernels_of

__all__ = ["Calibration", "calibrate", "kernels_for"]

BUDGET = 1.0
"""Wall seconds after which no larger stack is tried."""

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Members of the stacks that are tried; a signature with fewer trials ends the list."""

QUICK = 0.05
"""Share of the budget: where one member's step takes less, stacks of fewer than four are left out."""

PREFERENCE = 1.05
"""How much slower a member may be in the pack that is chosen than in the fastest one: smaller packs
divide better among workers and need less memory. The default kernel has the same advantage."""

PATIENCE = 4.0
"""Recording steps, where a device does that, may take this many budgets on top."""

HOPELESS = 1.3
"""A kernel that was slower than the best by this factor is not tried on larger stacks."""


@dataclass(frozen=True)
class Calibration:
    """What was measured of one static signature on one device.

    Attributes:
        kernel: Kernel chosen, one of :data:`bnsweep.names.KERNELS`.
        members: Most members of a pack.
        step_seconds: Wall time of one step of a whole pack by its number of members, with ``kernel``.
        timings: Microseconds of a member's step by kernel, then by number of members: what was tried.
        evaluation_seconds: Wall time of one evaluation of a pack of ``members``.
        probe_seconds: Wall time of one measurement of such a pack by probe.
        build_seconds: Wall time of building such a pack.
        pack_bytes: Memory of such a pack on top of what the process had, at its highest.
        rows: Name and layer of every reading of a member, by what takes it: ``evaluation``,
            ``training``, or a probe.
        limited: What kept the pack from being larger: ``speed``, ``memory``, ``time`` or ``trials``.
    """

    kernel: str
    members: int
    step_seconds: Mapping[int, float]
    timings: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    evaluation_seconds: float = 0.0
    probe_seconds: Mapping[str, float] = field(default_factory=dict)
    build_seconds: float = 0.0
    pack_bytes: int = 0
    rows: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)
    limited: str = "speed"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def kernels_for(trial: TrialConfig, dataset: Dataset) -> tuple[str, ...]:
    """Return the kernels that are worth a try for a trial's network, the default one first.

    A dense network has one, so that two runs of a sweep on busy machines have the same bits.
    """
    parameters = trial.parameters
    if str(parameters["model"]).startswith("vgg"):
        return ("grouped", "channels_last", "loop_channels_last")
    plan = make_model(parameters, dataset.facts).plan
    lower = parameters["precision"] not in ("float32", "float64")
    return (*kernels_of(plan, parameters["batch_size"], dataset, lower), "grouped")[:1]


def calibrate(
    trial: TrialConfig,
    dataset: Dataset,
    count: int,
    *,
    memory: int | None = None,
    stackable: bool = True,
    budget: float = BUDGET,
    clock: Callable[[], float] | None = None,
) -> Calibration:
    """Find the fastest pack of a signature.

    On one CPU thread its CPU time counts, so that neighbours on the machine decide nothing.

    Args:
        trial: One of the trials; its like are made by changing the seed.
        dataset: Their data set, on the device to be measured.
        count: Trials of the signature.
        memory: Bytes that a pack may take; unlimited if absent.
        stackable: Whether the norm can be stacked; if not, a pack has one member.
        budget: Wall seconds to spend on the search.
        clock: Seconds; by default as above.

    Returns:
        What was chosen and measured.
    """
    search = _Search(trial, dataset, memory, clock or _clock(dataset.train_x.device))
    limited = search.explore([size for size in SIZES if size <= (count if stackable else 1)], budget)
    members, kernel = search.choose()
    if limited == "" or members < search.largest:
        limited = "trials" if members == search.largest and limited == "" else "speed"
    return search.finish(members, kernel, limited)


class _Search:
    """Stacks of growing size with every kernel, until more members no longer pay."""

    def __init__(
        self, trial: TrialConfig, dataset: Dataset, memory: int | None, clock: Callable[[], float]
    ) -> None:
        self.trial, self.dataset, self.memory, self.clock = trial, dataset, memory, clock
        self.device = dataset.train_x.device
        self.steps: dict[str, dict[int, float]] = {}
        self.bytes: dict[int, int] = {}
        self.recording = 0.0

    @property
    def largest(self) -> int:
        return max(size for sizes in self.steps.values() for size in sizes)

    def explore(self, sizes: Sequence[int], budget: float) -> str:
        """Time stacks of ``sizes``; return what ended it early, or an empty string."""
        began = self.clock()
        kernels = list(kernels_for(self.trial, self.dataset))
        worse = 0
        if sizes[-1] >= 4 and self._step(self._build(1, kernels[0]), 0) < QUICK * budget:
            sizes = [size for size in sizes if size >= 4]
        for size in sizes:
            if self.bytes and self.memory and self._expected(size) > self.memory:
                return "memory"
            for kernel in kernels:
                self.steps.setdefault(kernel, {})[size] = self._time(size, kernel)
            each = {kernel: self.steps[kernel][size] / size for kernel in kernels}
            best = min(each.values())
            kernels = [kernel for kernel in kernels if each[kernel] <= HOPELESS * best]
            before = [s / k for sizes in self.steps.values() for k, s in sizes.items() if k < size]
            worse = worse + 1 if before and best > min(before) / PREFERENCE else 0
            if worse == 2:
                return "speed"
            spent = self.clock() - began - self.recording
            if spent + 2 * len(kernels) * (best * size * 4) > 2 * budget or spent > budget:
                return "time"
            if self.recording > PATIENCE * budget:
                return "time"
        return ""

    def _expected(self, size: int) -> int:
        """Extrapolate the memory of a stack from the largest that was built."""
        known = max(self.bytes)
        return self.bytes[known] * size // known

    def _time(self, size: int, kernel: str) -> float:
        reset_peak(self.device)
        before = peak_bytes(self.device)
        stack = self._build(size, kernel)
        self.recording += sum(self._step(stack, step) for step in range(stack.unsteady))
        times = [self._step(stack, stack.unsteady + step) for step in range(3)]
        self.bytes[size] = max(peak_bytes(self.device) - before, self.bytes.get(size, 0))
        return min(times[1:])

    def _build(self, size: int, kernel: str) -> MemberStack:
        stack = MemberStack(_like(self.trial, size), self.dataset, kernel=kernel)
        stack.initialize()
        return stack

    def _step(self, stack: MemberStack, step: int) -> float:
        return self._timed(lambda: stack.update(step))

    def _timed(self, call: Callable[[], object]) -> float:
        self._wait()
        began = self.clock()
        call()
        self._wait()
        return self.clock() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def choose(self) -> tuple[int, str]:
        """Return the smallest pack whose members are nearly as fast as in the fastest, and its kernel."""
        each = {(size, kernel): s / size for kernel, sizes in self.steps.items() for size, s in sizes.items()}
        best = min(each.values())
        members = min(size for (size, _), seconds in each.items() if seconds <= PREFERENCE * best)
        kernels = {kernel: seconds for (size, kernel), seconds in each.items() if size == members}
        default = kernels_for(self.trial, self.dataset)[0]
        fastest = min(kernels, key=lambda kernel: kernels[kernel])
        near = default in kernels and kernels[default] <= PREFERENCE * kernels[fastest]
        return members, default if near else fastest

    def finish(self, members: int, kernel: str, limited: str) -> Calibration:
        """Measure everything that a pack of the chosen kind does, once."""
        reset_peak(self.device)
        before = peak_bytes(self.device)
        stacks: list[MemberStack] = []
        build = self._timed(lambda: stacks.append(self._build(members, kernel)))
        stack = stacks[0]
        for step in range(stack.unsteady):
            stack.update(step)
        rows: dict[str, list[tuple[str, int]]] = {"evaluation": [(name, 0) for name in stack.evaluate(0)]}
        evaluation = self._timed(lambda: stack.evaluate(0))
        training = stack.gradients(0)
        rows["training"] = [("train_loss", 0)]
        if not training.targets.dtype.is_floating_point:
            rows["training"].append(("train_accuracy", 0))
        probes = {}
        for name, options in self.trial.probes.items():
            probes[name], rows[name] = self._probe(stack, {name: options})
        used = peak_bytes(self.device) - before
        return Calibration(
            kernel,
            members,
            dict(self.steps[kernel]),
            {name: {k: 1e6 * s / k for k, s in sizes.items()} for name, sizes in self.steps.items()},
            evaluation,
            probes,
            build,
            used,
            rows,
            limited,
        )

    def _probe(
        self, stack: MemberStack, probes: Mapping[str, Mapping[str, Any]]
    ) -> tuple[float, list[tuple[str, int]]]:
        """Return how long a measurement takes, and what one member has to say then."""
        snapshot = stack.snapshot(0, probes)
        done = stack.update(0)
        measured: list[MemberRows] = []
        seconds = self._timed(lambda: measured.append(stack.measure(snapshot, done)))
        return seconds, [(name, layer) for name, layer, _ in measured[0][0]]


def _clock(device: torch.device) -> Callable[[], float]:
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def _like(trial: TrialConfig, count: int) -> list[TrialConfig]:
    """Return trials that differ from ``trial`` in their seeds."""
    return [replace(trial, parameters={**trial.parameters, "seed": seed}) for seed in range(count)]
