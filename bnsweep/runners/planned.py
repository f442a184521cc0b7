"""The packs of a plan as a source of work: calibrations first, then packs of the size that they found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bnsweep.sweep import Plan
from bnsweep.sweep.continuing import Start, group_starts
from bnsweep.sweep.forecast import Measured
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.packs import Pack, by_signature, share_out
from bnsweep.trial import TrialConfig

from .failing import abandon_pack, divide_pack, may_be_divided
from .gpu_types import GpuType
from .messages import Progress, unit_key
from .source import Unit, calibration_unit, pack_unit

__all__ = ["PlannedPacks"]


class PlannedPacks:
    """Everything that is left of a plan.

    Packs that a run before left open come as they are. Each signature that was never measured on
    this type of device is calibrated by a worker; when all are, the rest is divided into packs. With several
    types of GPU, each is measured and given its share of the trials, in packs of its own size.

    Args:
        plan: The plan.
        ledger: Where packs and calibrations are stored.
        left: Trials to train.
        device: Type of the device that packs are made for.
        measured: The calibrations, and what the user decided.
        stackable: Whether a trial can share a pack with others.
        tell: Called with sentences for people.
        train: Whether there is more to do than to measure.
        starts: Where trials may go on from, by id.
        gpu_types: The types of GPU that workers have, where there are several.
    """

    given_up = ""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        left: Sequence[TrialConfig],
        device: str,
        measured: Measured,
        stackable: Callable[[TrialConfig], bool],
        tell: Callable[[str], None],
        train: bool = True,
        starts: Mapping[str, Start] | None = None,
        gpu_types: Sequence[GpuType] = (),
    ) -> None:
        self.plan, self.ledger, self.device = plan, ledger, device
        self.measured, self.stackable, self.tell = measured, stackable, tell
        self.by_gpu = bool(gpu_types)
        self._types = list(gpu_types) or [GpuType("", 1, measured)]
        open_packs, self._rest = self._reopen(left) if train else ([], list(left))
        if train and starts:
            open_packs += self._go_on(starts)
        self.count = len(left)
        self.width = max(1, len(open_packs) + len(self._rest))
        self._units: list[Unit] = [*self._calibrations(), *map(self._unit, open_packs)]
        self._rest = self._rest if train else []
        self._measuring = {unit_key(unit) for unit in self._units if "calibrate" in unit}
        self._open = len(open_packs)
        if self._measuring:
            on = f" on {len(self._types)} types of GPU" if self.by_gpu else ""
            kinds = len({unit_key({**unit, "gpu": ""}) for unit in self._units if "calibrate" in unit})
            self.tell(f"measuring the fastest packs of {kinds} kinds of trials{on}, once")

    @property
    def expecting(self) -> bool:
        """Whether packs will be made when the calibrations at work have ended."""
        return bool(self._measuring)

    def _reopen(self, left: Sequence[TrialConfig]) -> tuple[list[str], list[TrialConfig]]:
        """Return the packs left open that hold what is wanted, and the trials in none of them."""
        pending = {trial.trial_id: trial for trial in left}
        packs = []
        for pack_id, content in self.ledger.take_up_packs().items():
            members = set(content["members"])
            if all(self.ledger.record(member) for member in members):
                self.ledger.close_pack(pack_id)
            elif members & pending.keys() and content["device"] == self.device:
                packs.append(pack_id)
                for member in members & pending.keys():
                    del pending[member]
        return packs, list(pending.values())

    def _go_on(self, starts: Mapping[str, Start]) -> list[str]:
        """Open packs of the trials that go on from others, packed as those were; the rest is left."""
        packs = []
        for group in group_starts(self._rest, starts, self.measured.limit):
            first, ids = group[0], tuple(trial.trial_id for trial in group)
            kernel = starts[ids[0]].kernel or self.measured.kernel(first)
            pack = Pack(ids, first.signature, str(first.parameters["precision"]), self.device, kernel)
            begin = {trial_id: starts[trial_id].trial_id for trial_id in ids}
            self.ledger.write_pack(pack.pack_id, {**self.plan.pack_content(pack), "starts": begin})
            packs.append(pack.pack_id)
        self._rest = [t for t in self._rest if t.trial_id not in starts or not starts[t.trial_id].ready]
        return packs

    def _unit(self, pack_id: str) -> Unit:
        """Return the unit of work of a pack that stands in the ledger."""
        return pack_unit(pack_id, self.ledger.read_pack(pack_id).get("gpu", "") if self.by_gpu else "")

    def _calibrations(self) -> list[Unit]:
        if self.measured.decided:
            return []
        return [
            calibration_unit(alike[0].to_dict(), len(alike), self.device, self.stackable(alike[0]), kind.name)
            for alike in by_signature(self._rest)
            for kind in self._types
            if kind.measured.of(alike[0]) is None
        ]

    def ready(self, workers: int) -> Sequence[Unit]:
        """Return calibrations and open packs at first, and the packs made of the rest when it is time."""
        units, self._units = self._units, []
        if not self._measuring and self._rest:
            packs = self._packs(workers)
            self.ledger.write_packs({pack.pack_id: self.plan.pack_content(pack) for pack in packs})
            self.tell(
                f"{self.count} trials in {self._open + len(packs)} packs; results in {self.ledger.root}"
            )
            units += [pack_unit(pack.pack_id, pack.gpu) for pack in packs]
            self._rest = []
        return units

    def _packs(self, workers: int) -> list[Pack]:
        """Divide the rest into packs; each type of GPU is given what it does in the same time."""
        if not self.by_gpu:
            self._explain(self._types[0], self._rest)
            return self.measured.packs(self._rest, workers, self.device)
        part = min(1.0, workers / sum(kind.workers for kind in self._types))
        counts = {kind.name: max(1, round(part * kind.workers)) for kind in self._types}
        shares = share_out(self._rest, counts, {kind.name: self._cost_on(kind) for kind in self._types})
        packs: list[Pack] = []
        for kind in self._types:
            own = kind.measured.packs(shares[kind.name], counts[kind.name], self.device)
            packs += [replace(pack, gpu=kind.name) for pack in own]
            self.tell(f"{kind.name}: {len(shares[kind.name])} trials in {len(own)} packs")
            self._explain(kind, shares[kind.name])
        return packs

    def _cost_on(self, kind: GpuType) -> Callable[[TrialConfig], float]:
        """Return what says how long a trial takes on a type: for ever, where others alone were measured."""

        def cost(trial: TrialConfig) -> float:
            if kind.measured.of(trial) is None and any(other.measured.of(trial) for other in self._types):
                return math.inf
            return kind.measured.cost(trial)

        return cost

    def _explain(self, kind: GpuType, trials: Sequence[TrialConfig]) -> None:
        """Say where memory kept packs small."""
        measured, on = kind.measured, f" on {kind.name}" if kind.name else ""
        for alike in by_signature(trials):
            found = measured.of(alike[0])
            if found and found["limited"] == "memory" and measured.size(alike[0]) == found["members"]:
                label = f"{alike[0].parameters['model']} {alike[0].parameters['norm']}"
                self.tell(
                    f"note: packs of {label} hold {found['members']} trials at most{on}: a worker's share of "
                    f"the free memory is {found['memory'] / 1e9:.1f} GB"
                )

    def finished(self, unit: Unit, progress: Progress) -> None:
        """Take note of a calibration, or divide a pack that does not fit in memory or failed."""
        self._measuring.discard(unit_key(unit))
        if progress.too_large or progress.retry:
            self._divide(unit["pack"], alone=progress.retry)

    def _divide(self, pack_id: str, *, alone: bool) -> None:
        parts = divide_pack(self.ledger, pack_id, alone=alone)
        self._units += [self._unit(part) for part, _ in parts]
        if alone:
            self.tell(f"note: a pack of {len(parts)} failed: each of its trials is tried once more, alone")
        else:
            sizes = " and ".join(str(len(members)) for _, members in parts)
            self.tell(f"note: a pack did not fit in memory: it was divided into packs of {sizes}")

    def lost(self, unit: Unit, cause: str) -> Progress:
        """Give up a unit whose worker was lost again and again: divide a pack, or record its failure."""
        self._measuring.discard(unit_key(unit))
        if "pack" not in unit:
            return Progress(unit_key(unit), 0, 0, 0, finished=True, error=cause)
        alone = may_be_divided(self.ledger, unit["pack"], cause)
        if alone is None:
            return abandon_pack(self.ledger, unit["pack"], cause)
        self._divide(unit["pack"], alone=alone)
        return Progress(unit["pack"], 0, 0, 0, finished=True, too_large=not alone, retry=alone)
