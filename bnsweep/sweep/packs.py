"""Grouping trials into packs: the members that one worker trains at once as one stack."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bnsweep.names import DEFAULT_KERNEL
from bnsweep.parameters import MEMBER_PARAMETERS
from bnsweep.trial import TrialConfig, short_hash

__all__ = ["Pack", "by_signature", "device_name", "divide", "make_packs", "share_out"]

BALANCE = 1.15
"""How much longer than a perfect division of the work the longest worker may take."""


@dataclass(frozen=True)
class Pack:
    """Trials of one static signature, trained as one stack of K networks.

    Attributes:
        members: Trial ids, in the order of the stack.
        signature: What the members have in common.
        dtype: Arithmetic of training.
        device: Type of the device that it is made for: ``cpu`` or ``cuda``.
        kernel: How the stack is computed, one of :data:`bnsweep.names.KERNELS`.
        gpu: Type of GPU that it was sized for, where a cluster has several; empty where any will do.
    """

    members: tuple[str, ...]
    signature: str
    dtype: str = "float32"
    device: str = "cpu"
    kernel: str = DEFAULT_KERNEL
    gpu: str = ""

    @cached_property
    def pack_id(self) -> str:
        """16 hex digits: the hash of :meth:`to_dict`."""
        return short_hash(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``pack.json``."""
        return {
            "members": list(self.members),
            "size": len(self.members),
            "signature": self.signature,
            "dtype": self.dtype,
            "device": self.device,
            "kernel": self.kernel,
            **({"gpu": self.gpu} if self.gpu else {}),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Pack:
        """Rebuild a pack written by :meth:`to_dict`."""
        names = ("signature", "dtype", "device", "kernel")
        known = {name: content[name] for name in names}
        return cls(tuple(content["members"]), **known, gpu=content.get("gpu", ""))


@dataclass
class _Group:
    trials: list[TrialConfig]
    cost: float
    parts: int

    @property
    def largest(self) -> int:
        return math.ceil(len(self.trials) / self.parts)


def make_packs(
    trials: Sequence[TrialConfig],
    size_of: int | Callable[[TrialConfig], int],
    workers: int = 1,
    *,
    cost_of: Callable[[TrialConfig], float] | None = None,
    device: str = "cpu",
    kernel_of: Callable[[TrialConfig], str] | None = None,
) -> list[Pack]:
    """Divide trials among packs of at most ``size_of`` members, longest pack first.

    Packs are made smaller than allowed where that keeps all workers busy to the end. A group's
    trials are dealt round, so that each pack mixes learning rates: those that diverge early are
    then spread over all packs.

    Args:
        trials: Trials in plan order, each once.
        size_of: Most members of a pack, or a function that says so for a signature, given one
            trial of it.
        workers: Packs that are trained at once.
        cost_of: Cost of one member, in any unit; by default its number of steps.
        device: Type of the device that the packs are made for.
        kernel_of: How a signature is computed, one of :data:`bnsweep.names.KERNELS`, given one trial
            of it; ``grouped`` by default.

    Example:
        >>> trials = [TrialConfig.create({"lr": lr, "seed": s}) for lr in (0.1, 0.2) for s in range(3)]
        >>> [len(pack.members) for pack in make_packs(trials, size_of=16, workers=2)]
        [3, 3]
    """
    size = size_of if callable(size_of) else lambda _: size_of
    cost = cost_of or (lambda trial: float(trial.parameters["steps"]))
    groups = []
    for alike in by_signature(trials):
        most = max(1, size(alike[0]))
        groups.append(_Group(alike, cost(alike[0]), math.ceil(len(alike) / most)))
    _spread(groups, max(1, workers))
    packs: list[tuple[float, Pack]] = []
    for group in groups:
        signature = group.trials[0].signature
        kernel = kernel_of(group.trials[0]) if kernel_of else DEFAULT_KERNEL
        dtype = str(group.trials[0].parameters["precision"])
        for part in range(group.parts):
            members = tuple(trial.trial_id for trial in group.trials[part :: group.parts])
            pack = Pack(members, signature, dtype, device, kernel)
            packs.append((len(members) * group.cost, pack))
    return [pack for _, pack in sorted(packs, key=lambda pair: -pair[0])]


def device_name(device: str, gpu: str = "") -> str:
    """Return the name by which the calibrations of a device are kept.

    Args:
        device: Its type, ``cpu`` or ``cuda``.
        gpu: Type of the GPU, where a cluster has several.

    Example:
        >>> device_name("cpu"), device_name("cuda", "NVIDIA_A100_80G")
        ('cpu', 'cuda-nvidia-a100-80g')
    """
    kind = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return f"{device}-{kind}"[:64] if kind else device


def share_out(
    trials: Sequence[TrialConfig],
    workers: Mapping[str, int],
    cost_of: Mapping[str, Callable[[TrialConfig], float]],
) -> dict[str, list[TrialConfig]]:
    """Divide trials among workers of several types such that all types should end at the same time.

    Args:
        trials: Trials, each once.
        workers: Number of workers by type.
        cost_of: By type, what says how long one of its workers takes for a trial of a signature.

    Returns:
        The trials of each type, in the order given.

    Example:
        >>> trials = [TrialConfig.create({"seed": seed}) for seed in range(6)]
        >>> shares = share_out(trials, {"old": 1, "new": 1}, {"old": lambda _: 2.0, "new": lambda _: 1.0})
        >>> {kind: len(own) for kind, own in shares.items()}
        {'old': 2, 'new': 4}
    """
    loads = dict.fromkeys(workers, 0.0)
    shares: dict[str, list[TrialConfig]] = {kind: [] for kind in workers}
    for alike in by_signature(trials):
        seconds = {kind: cost_of[kind](alike[0]) / max(1, count) for kind, count in workers.items()}
        for trial in alike:
            kind = min(loads, key=lambda kind: loads[kind] + seconds[kind])
            loads[kind] += seconds[kind]
            shares[kind].append(trial)
    return shares


def by_signature(trials: Sequence[TrialConfig]) -> list[list[TrialConfig]]:
    """Group trials that can be members of one pack, in order of the first of each."""
    groups: dict[object, list[TrialConfig]] = {}  # quicker than hashing each trial
    probes: dict[int, str] = {}
    for trial in trials:
        text = probes.setdefault(id(trial.probes), repr(trial.probes))
        static = tuple(pair for pair in trial.parameters.items() if pair[0] not in MEMBER_PARAMETERS)
        groups.setdefault((static, trial.fingerprint, text), []).append(trial)
    return list(groups.values())


def _spread(groups: list[_Group], workers: int) -> None:
    """Cut groups into more parts where the work then divides better among the workers."""
    members = sum(len(group.trials) for group in groups)
    even = sum(len(group.trials) * group.cost for group in groups) / workers
    best, longest = [group.parts for group in groups], math.inf
    while True:
        parts = sum(group.parts for group in groups)
        if parts >= min(workers, members):
            ends = _longest(groups, workers)
            if ends < 0.98 * longest:
                best, longest = [group.parts for group in groups], ends
            if longest <= BALANCE * even or parts >= 8 * workers:
                break
        divisible = [group for group in groups if group.parts < len(group.trials)]
        if not divisible:
            break
        max(divisible, key=lambda group: group.largest * group.cost).parts += 1
    for group, count in zip(groups, best, strict=True):
        group.parts = count


def _longest(groups: Sequence[_Group], workers: int) -> float:
    """Return when the last worker ends, if each takes the longest pack that is left."""
    costs = []
    for group in groups:
        base, more = divmod(len(group.trials), group.parts)
        costs += [(base + 1) * group.cost] * more + [base * group.cost] * (group.parts - more)
    ends = [0.0] * workers
    for cost in sorted(costs, reverse=True):
        heapq.heapreplace(ends, ends[0] + cost)
    return max(ends)


def divide(content: Mapping[str, Any], *, alone: bool) -> list[tuple[Pack, dict[str, Any]]]:
    """Divide an open pack.

    Args:
        content: What ``pack.json`` holds.
        alone: Give every member a pack of its own, since one of them makes the pack fail; such a pack
            says so, and is not tried again. Otherwise the pack, of two members or more, does not fit in
            memory, and is halved.

    Returns:
        The parts, each with what its ``pack.json`` has to hold, where its members go on from included.
        What has rungs is one condition, and stays whole.
    """
    count = len(content["members"])
    if alone and content.get("rungs"):
        return [(Pack.from_dict(dict(content)), {**content, "alone": True})]
    size = 1 if alone else (count + 1) // 2
    parts = []
    for start in range(0, count, size):
        own = {name: content[name][start : start + size] for name in ("members", "trials", "labels")}
        pack = Pack.from_dict({**content, "members": own["members"]})
        mark: dict[str, Any] = {"alone": True} if alone else {}
        if "starts" in content:
            mark["starts"] = {member: content["starts"][member] for member in pack.members}
        parts.append((pack, {**pack.to_dict(), "trials": own["trials"], "labels": own["labels"], **mark}))
    return parts
