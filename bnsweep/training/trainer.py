"""Trains a pack: K trials that differ in per-member parameters only, as one stacked network.

The trainer knows nothing of files, clocks or clusters. Whoever drives it asks for one step after
another, takes the readings, and stores :meth:`PackTrainer.state_dict` when it wants to be able to go on.
No random state outlives a step: all draws are functions of a seed, a purpose and the step. So a
trainer that goes on from a checkpoint repeats the uninterrupted one to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnsweep.data import Dataset
from bnsweep.trial import TrialConfig, TrialState

from .objective import accuracy
from .stack import MemberStack, TrainingPass

__all__ = ["COMPACT_EVERY", "Outcome", "PackTrainer", "Row"]

COMPACT_EVERY = 25
"""Steps between looks for members that have diverged; part of what makes a resumed pack repeat itself."""

_FORMAT = 1


class Row(NamedTuple):
    """One value of one reading: ``member`` counts within the pack, ``layer`` 0 is the network."""

    member: int
    step: int
    name: str
    layer: int
    value: float


@dataclass(frozen=True)
class Outcome:
    """How one member of a pack ended.

    Attributes:
        member: Position within the pack.
        state: ``completed`` or ``diverged``.
        steps: Updates made; for a diverged member, the step at which it diverged.
        diverged_step: First step whose training loss, before the update, was not finite; the number
            of steps where the last evaluation was the first loss that was not.
        last_finite_loss: Last finite training loss, ``None`` where there was none.
        readings: Last value of every network-wide reading.
    """

    member: int
    state: TrialState
    steps: int
    diverged_step: int | None
    last_finite_loss: float | None
    readings: dict[str, float]


class PackTrainer:
    """Trains K trials of one static signature at once.

    A member that diverges costs no more from the next multiple of :data:`COMPACT_EVERY` on, where
    the others' arithmetic is the same to the bit without it; where it is not, it stays and is ignored.

    Args:
        trials: The members; :attr:`TrialConfig.signature` must be equal in all of them.
        dataset: Their data set, in the precision and on the device to train on.
        kernel: How the stack is computed, one of :data:`bnsweep.names.KERNELS`.

    Attributes:
        step_index: Updates made, which is the number of the next step.
        steps: Updates to be made.
        members: Positions within the pack of those that are still computed.

    Raises:
        ValueError: If ``trials`` is empty or mixes signatures, or ``dataset`` is not in their precision.
    """

    def __init__(self, trials: Sequence[TrialConfig], dataset: Dataset, kernel: str = "grouped") -> None:
        signatures = {trial.signature for trial in trials}
        if len(signatures) != 1:
            raise ValueError(
                "a pack must have one member or more, all of one static signature, "
                f"but found {len(trials)} trials of {len(signatures)} signatures"
            )
        parameters = trials[0].parameters
        if str(dataset.train_x.dtype) != f"torch.{trials[0].tensor_dtype}":
            raise ValueError(
                f"the data set must be in the precision of the trials, {trials[0].tensor_dtype}, "
                f"but found {dataset.train_x.dtype}"
            )
        self.trials, self.dataset, self.kernel = tuple(trials), dataset, kernel
        self.device = dataset.train_x.device
        self.steps = int(parameters["steps"])
        self._eval_every, self._log_every = int(parameters["eval_every"]), int(parameters["log_every"])
        self.step_index = 0
        self._stack = MemberStack(trials, dataset, kernel=kernel)
        self._stack.initialize()
        self._set_members(range(len(trials)))
        self._refused: set[int] = set()
        self._diverged = torch.full((len(trials),), -1, device=self.device)
        self._last_loss = torch.full((len(trials),), torch.nan, dtype=torch.float64, device=self.device)
        self._rows: list[Row] = []
        self._last: list[dict[str, float]] = [{} for _ in trials]
        self._evaluated, self._stopped = -1, False

    def _set_members(self, members: Sequence[int]) -> None:
        self.members = list(members)
        self._index = torch.tensor(self.members, dtype=torch.int64, device=self.device)

    @property
    def finished(self) -> bool:
        """Whether every member has made its last step, has diverged or was stopped."""
        return self.step_index >= self.steps or not self.members or self._stopped

    def step(self) -> None:
        """Make one update of every member, with the readings that are due.

        Where all members turn out to have diverged the pack is finished, and no update is made.

        Raises:
            ValueError: If the pack is finished.
        """
        if self.finished:
            raise ValueError(f"the pack is finished: it stands at step {self.step_index} of {self.steps}")
        step = self.step_index
        if step % COMPACT_EVERY == 0:
            self._compact()
            if not self.members:
                return
        if step % self._eval_every == 0:
            self.evaluate()
        probes = self._probes_due(step)
        snapshot = self._stack.snapshot(step, probes) if probes else None
        done = self._stack.update(step)
        self._watch(step, done)
        self.step_index = step + 1
        if snapshot is not None:
            self._emit(step, self._stack.measure(snapshot, done))
        if self.step_index == self.steps:
            self._finish()

    def evaluate(self) -> None:
        """Evaluate now, unless that was done at this very step; changes nothing else."""
        if self._evaluated != self.step_index and self.members:
            self._evaluated = self.step_index
            self._record(self.step_index, self._stack.evaluate(self.step_index))

    def stop(self) -> None:
        """End every member here, before its last step."""
        self._stopped = True

    def _probes_due(self, step: int) -> dict[str, Mapping[str, Any]]:
        probes = self.trials[0].probes
        return {name: options for name, options in probes.items() if step % int(options["every"]) == 0}

    def _watch(self, step: int, done: TrainingPass) -> None:
        """Note who diverges at this step, and the training readings where they are due."""
        alive = self._note_divergence(step, done.losses)
        last = self._last_loss[self._index]
        self._last_loss[self._index] = torch.where(alive, done.losses.double(), last)
        if step % self._log_every == 0 or step == self.steps - 1:
            values = {"train_loss": done.losses}
            if not done.targets.dtype.is_floating_point:
                values["train_accuracy"] = accuracy(done.outputs, done.targets)
            self._record(step, values)

    def _note_divergence(self, step: int, losses: Tensor) -> Tensor:
        """Mark the members whose first loss that is not finite is this one; returns who is left."""
        known = self._diverged[self._index]
        known = torch.where((known < 0) & ~losses.isfinite(), step, known)
        self._diverged[self._index] = known
        return known < 0

    def _finish(self) -> None:
        """Evaluate after the last update; a loss that is not finite there is a divergence too."""
        values = self._stack.evaluate(self.steps)
        self._record(self.steps, values)
        self._note_divergence(self.steps, values["test_loss"])

    def _record(self, step: int, values: Mapping[str, Tensor]) -> None:
        columns = {name: value.tolist() for name, value in values.items()}
        members = range(len(self.members))
        self._emit(step, [[(name, 0, column[k]) for name, column in columns.items()] for k in members])

    def _emit(self, step: int, readings: Sequence[Sequence[tuple[str, int, float]]]) -> None:
        """Take over the readings of those members that have not diverged."""
        diverged = self._diverged.tolist()
        for member, values in zip(self.members, readings, strict=True):
            if diverged[member] >= 0:
                continue
            self._rows.extend(Row(member, step, *value) for value in values)
            self._last[member].update({name: value for name, layer, value in values if layer == 0})

    def _compact(self) -> None:
        """Let as many diverged members go as can be without a change of the others' bits."""
        diverged = self._diverged.tolist()
        rows = range(len(self.members))
        lost = [row for row in rows if diverged[self.members[row]] >= 0]
        if len(lost) == len(self.members):
            self._set_members([])
            return
        for dropped in range(len(lost), 0, -1):
            kept = [row for row in rows if row not in lost[:dropped]]
            if not kept or len(kept) in self._refused:
                continue
            smaller = self._stack.select(kept)
            if self._stack.agrees(smaller, kept, self.step_index):
                self._stack = smaller
                self._set_members([self.members[row] for row in kept])
                return
            self._refused.add(len(kept))

    def take_readings(self) -> list[Row]:
        """Return the readings since the last call, in the order in which they were taken."""
        rows, self._rows = self._rows, []
        return rows

    def outcomes(self) -> list[Outcome]:
        """Return how every member ended.

        Raises:
            ValueError: If the pack is not finished.
        """
        if not self.finished:
            raise ValueError(
                f"the pack must be finished, but stands at step {self.step_index} of {self.steps}"
            )
        return self.standings()

    def standings(self) -> list[Outcome]:
        """Return how every member would have ended if it ended here."""
        steps, losses = self._diverged.tolist(), self._last_loss.tolist()
        early = self.step_index < self.steps
        alive = TrialState.STOPPED if early else TrialState.COMPLETED
        return [
            Outcome(
                member,
                alive if step < 0 else TrialState.DIVERGED,
                self.step_index if step < 0 else step,
                None if step < 0 else step,
                loss if loss == loss else None,
                dict(last),
            )
            for member, (step, loss, last) in enumerate(zip(steps, losses, self._last, strict=True))
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that is needed to go on bit for bit: copies of tensors, and plain values.

        Readings that have not been taken are not part of it: take them first.
        """
        return {
            "format": _FORMAT,
            "trials": [trial.trial_id for trial in self.trials],
            "step": self.step_index,
            "members": list(self.members),
            "refused": sorted(self._refused),
            "diverged": self._diverged.clone(),
            "last_loss": self._last_loss.clone(),
            "last": [dict(last) for last in self._last],
            "stack": self._stack.state_dict() if self.members else {},
        }

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, which is copied.

        Raises:
            ValueError: If the state belongs to other trials or to another version of the format.
        """
        if content.get("format") != _FORMAT:
            raise ValueError(
                f"the checkpoint must be of format {_FORMAT}, but found {content.get('format')!r}: "
                "it was written by another version of bnsweep"
            )
        expected = [trial.trial_id for trial in self.trials]
        if content["trials"] != expected:
            raise ValueError(
                f"the checkpoint must belong to the trials {', '.join(expected)} in this order, "
                f"but found {', '.join(content['trials'])}"
            )
        self._set_members(content["members"])
        if self.members:
            trials = [self.trials[member] for member in self.members]
            self._stack = MemberStack(trials, self.dataset, kernel=self.kernel)
            self._stack.load_state_dict(content["stack"])
        self.step_index = int(content["step"])
        self._refused = set(content["refused"])
        self._diverged = content["diverged"].to(self.device, copy=True)
        self._last_loss = content["last_loss"].to(self.device, copy=True)
        self._last = [dict(last) for last in content["last"]]
        self._rows = []

    def member_states(self) -> list[dict[str, Any] | None]:
        """Return what each member needs to go on beyond the last step, in this pack or in another.

        What the last step adds is left out: the final evaluation's divergence is none where training
        goes on. Readings are not part of it.

        Returns:
            One state a member: tensors and plain values. ``None`` for one that diverged and is no longer
            computed: it needs none.
        """
        diverged, losses = self._diverged.tolist(), self._last_loss.tolist()
        stacks = dict(zip(self.members, self._stack.member_states(), strict=True)) if self.members else {}
        return [
            {
                "format": _FORMAT,
                "step": self.step_index,
                "diverged": diverged[member] if diverged[member] < self.steps else -1,
                "last_loss": losses[member],
                "refused": sorted(self._refused),
                "stack": stacks[member],
            }
            if member in stacks
            else None
            for member in range(len(self.trials))
        ]

    def go_on(self, states: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, float]]) -> None:
        """Go on from where trials that are equal in all but ``steps`` ended.

        Members that have been together, in this order, go on as if they had never stopped, to the bit.

        Args:
            states: What :meth:`member_states` returned of each member; for one that has none,
                ``{"diverged": step, "last_loss": value}``.
            last: The last network-wide readings of each member at the steps that this trial too is read.

        Raises:
            ValueError: If the states are not of one step before the last, or are of another format or shape.
        """
        whole = [state for state in states if "stack" in state]
        found, steps = {state["format"] for state in whole}, {int(state["step"]) for state in whole}
        fits = len(states) == len(self.trials) and found <= {_FORMAT} and len(steps) <= 1
        if not fits or max(steps, default=0) >= self.steps:
            raise ValueError(
                f"{len(self.trials)} members must go on from one step before {self.steps}, in format "
                f"{_FORMAT}, but found {len(states)} at steps {sorted(steps)} in formats {sorted(found)}"
            )
        self._set_members([k for k, state in enumerate(states) if "stack" in state])
        if self.members:
            self._stack = MemberStack(
                [self.trials[k] for k in self.members], self.dataset, kernel=self.kernel
            )
            self._stack.load_members([state["stack"] for state in whole])
        self.step_index = max(steps, default=0)
        refused = {tuple(state["refused"]) for state in whole}
        self._refused = set(refused.pop()) if len(refused) == 1 else set()
        self._diverged = self._of([int(state["diverged"]) for state in states], self._diverged)
        self._last_loss = self._of([float(state["last_loss"]) for state in states], self._last_loss)
        self._last, self._rows = [dict(values) for values in last], []

    @staticmethod
    def _of(values: Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)
