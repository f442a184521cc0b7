"""Trains a pack: K trials that differ in per-member parameters only, as one stacked network.

The trainer knows nothing of files, clocks or clusters. Whoever drives it asks for one step after
another, takes the readings, and stores :meth:`PackTrainer.state_dict` when it wants to be able to go on.
No random state outlives a step: all draws are functions of a seed, a purpose and the step. So a
trainer that goes on from a checkpoint repeats the uninterrupted one to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnsweep.data import Dataset
from bnsweep.models import StackedNet, make_model, parameter_decay
from bnsweep.trial import TrialConfig, TrialState

from .batches import MemberBatches
from .objective import accuracy, batch_loss, l2_penalty
from .optimizers import MemberOptimizer
from .probing import Moment, measure

__all__ = ["COMPACT_EVERY", "Outcome", "PackTrainer", "Row"]

COMPACT_EVERY = 25
"""Steps between looks for members that have diverged; part of what makes a resumed pack repeat itself."""

EVAL_CHUNK = 512
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
        diverged_step: First step whose training loss, before the update, was not finite.
        last_finite_loss: Last finite training loss; the loss of chance where there was none.
        readings: Last value of every network-wide reading.
    """

    member: int
    state: TrialState
    steps: int
    diverged_step: int | None
    last_finite_loss: float
    readings: dict[str, float]


class PackTrainer:
    """Trains K trials of one static signature at once.

    Args:
        trials: The members; :attr:`TrialConfig.signature` must be equal in all of them.
        dataset: Their data set, in the precision and on the device to train on.

    Raises:
        ValueError: If ``trials`` is empty or mixes signatures.
    """

    def __init__(self, trials: Sequence[TrialConfig], dataset: Dataset) -> None:
        if len({trial.signature for trial in trials}) != 1:
            raise ValueError("the members of a pack must have one static signature, and at least one member")
        self.trials = tuple(trials)
        self.dataset = dataset
        self.parameters = trials[0].parameters
        self.device = dataset.train_x.device
        self.dtype = dataset.train_x.dtype
        self.steps = int(self.parameters["steps"])
        self.step_index = 0
        self.refused: set[int] = set()
        self._rows: list[Row] = []
        self._last: list[dict[str, float]] = [{} for _ in trials]
        self._set_members(list(range(len(trials))))
        self.model.initialize([trial.seed for trial in trials], str(self.parameters["init"]))
        count = len(trials)
        self.diverged_step = torch.full((count,), -1, dtype=torch.int64, device=self.device)
        worst = math.log(dataset.facts.classes) if dataset.facts.classes else 0.0
        self.last_loss = torch.full((count,), worst, dtype=self.dtype, device=self.device)

    def _set_members(self, members: list[int]) -> None:
        """Build everything that has one part for each living member."""
        self.members = members
        trials = [self.trials[member] for member in members]
        self.model: StackedNet = make_model(
            self.parameters, self.dataset.facts, len(members), dtype=self.dtype
        ).to(self.device)
        self.params = {name: value.detach() for name, value in self.model.named_parameters()}
        self.batches = MemberBatches(trials, self.dataset, self.model.noise_sites)
        weights = parameter_decay(self.model)
        self.decayed = list(self.params) if self.parameters["weight_decay_on"] == "all" else list(weights)
        in_loss = self.parameters["weight_decay_as"] == "loss"
        strengths = [float(trial.parameters["weight_decay"]) for trial in trials]
        self.penalty: Tensor | None = None
        if in_loss and any(strengths):
            self.penalty = torch.tensor(strengths, dtype=self.dtype, device=self.device)
        values = [trial.parameters for trial in trials]
        self.optimizer = MemberOptimizer(self.params, values, [] if in_loss else self.decayed)

    @property
    def finished(self) -> bool:
        """Whether every member has made its last step or has diverged."""
        return self.step_index >= self.steps or not self.members

    def step(self) -> None:
        """Make one optimizer step of every living member, with the readings that are due before it."""
        step = self.step_index
        if step % COMPACT_EVERY == 0:
            self._compact()
            if not self.members:
                return
        if step % int(self.parameters["eval_every"]) == 0:
            self._evaluate(step)
        moment = self._moment(step)
        losses, outputs, targets, gradients = self._gradients(step)
        self._watch(step, losses, outputs, targets)
        self.optimizer.step(gradients)
        self.step_index = step + 1
        if moment is not None:
            after = dict(self.params)
            self._emit(step, measure(moment, after, self.model, self.batches, self._objective))
        if self.step_index == self.steps:
            self._finish()

    def _gradients(self, step: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        self.model.train()
        x, y = self.batches.inputs(step)
        outputs = self.model(x, self.batches.noise(step), self.batches.levels)
        params = dict(self.model.named_parameters())
        losses = self._objective(outputs, y, params)
        gradients = torch.autograd.grad(losses.sum(), list(params.values()))
        return losses.detach(), outputs.detach(), y, dict(zip(params, gradients, strict=True))

    def _objective(self, outputs: Tensor, targets: Tensor, params: dict[str, Tensor]) -> Tensor:
        losses = batch_loss(outputs, targets)
        if self.penalty is not None:
            losses = losses + l2_penalty(params, self.decayed, self.penalty)
        return losses

    def _moment(self, step: int) -> Moment | None:
        """Keep what the probes due at ``step`` need from before the update."""
        probes = self.trials[0].probes
        due = {name: options for name, options in probes.items() if step % int(options["every"]) == 0}
        if not due:
            return None
        params = {name: value.clone() for name, value in self.params.items()}
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        return Moment(step, due, params, buffers, self.optimizer.settings["lr"].flatten())

    def _watch(self, step: int, losses: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Note who diverges at this step, and the training readings where they are due."""
        rows = torch.tensor(self.members, device=self.device)
        finite = losses.isfinite()
        known = self.diverged_step[rows]
        self.diverged_step[rows] = torch.where((known < 0) & ~finite, step, known)
        self.last_loss[rows] = torch.where(finite & (known < 0), losses, self.last_loss[rows])
        if step % int(self.parameters["log_every"]) == 0 or step == self.steps - 1:
            values = {"train_loss": losses}
            if not targets.dtype.is_floating_point:
                values["train_accuracy"] = accuracy(outputs, targets)
            self._record(step, values)

    @torch.no_grad()
    def _evaluate(self, step: int) -> Tensor:
        """Read loss and accuracy on the test split; returns the losses ``[living members]``."""
        self.model.eval()
        count, members = len(self.dataset.test_x), len(self.members)
        noisy = bool(self.parameters.get("noise_at_eval", False))
        total = torch.zeros(members, dtype=torch.float64, device=self.device)
        correct = torch.zeros_like(total)
        regression = self.dataset.test_y.dtype.is_floating_point
        for chunk, start in enumerate(range(0, count, EVAL_CHUNK)):
            x = self.dataset.test_x[start : start + EVAL_CHUNK]
            y = self.dataset.test_y[start : start + EVAL_CHUNK]
            x, y = x.expand(members, *x.shape), y.expand(members, *y.shape)
            noise = self.batches.noise(step, f"evaluation {chunk}", x.shape[1]) if noisy else None
            outputs = self.model(x, noise, self.batches.levels)
            share = 1.0 if regression else x.shape[1] / count
            total += batch_loss(outputs, y).double() * share
            if not regression:
                correct += accuracy(outputs, y) * share
        values = {"test_loss": total} if regression else {"test_loss": total, "test_accuracy": correct}
        self._record(step, values)
        return total

    def _record(self, step: int, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._emit(step, [[(name, 0, number)] for number in value.tolist()])

    def _emit(self, step: int, readings: Sequence[Sequence[tuple[str, int, float]]]) -> None:
        """Take over the readings of the living members, leaving out those that have diverged."""
        diverged = self.diverged_step.tolist()
        for member, values in zip(self.members, readings, strict=True):
            if diverged[member] >= 0:
                continue
            for name, layer, value in values:
                self._rows.append(Row(member, step, name, layer, value))
                if layer == 0:
                    self._last[member][name] = value

    def _finish(self) -> None:
        """Evaluate after the last update; a loss that is not finite there is a divergence too."""
        finite = self._evaluate(self.steps).isfinite()
        rows = torch.tensor(self.members, device=self.device)
        known = self.diverged_step[rows]
        self.diverged_step[rows] = torch.where((known < 0) & ~finite, self.steps, known)

    def _compact(self) -> None:
        """Let the diverged members go, if the others' arithmetic is the same to the bit without them."""
        diverged = self.diverged_step.tolist()
        rows = [row for row, member in enumerate(self.members) if diverged[member] < 0]
        if len(rows) == len(self.members) or len(rows) in self.refused:
            return
        if not rows:
            self.members = []
            return
        _, _, _, gradients = self._trial_gradients()
        state, old = self.state_dict(), len(self.members)
        smaller = self.model.compact(rows)
        optimizer, members = self.optimizer, [self.members[row] for row in rows]
        self._set_members(members)
        self.model.load_state_dict(smaller.state_dict())
        self.optimizer = optimizer.compact(self.params, rows)
        _, _, _, fewer = self._trial_gradients()
        index = torch.tensor(rows, device=self.device)
        same = all(
            torch.equal(gradients[name].unflatten(0, (old, -1))[index].flatten(0, 1), fewer[name])
            for name in fewer
        )
        if not same:
            readings = self._rows
            self.load_state_dict(state)
            self._rows = readings
            self.refused.add(len(rows))

    def _trial_gradients(self) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Compute the gradients of this step and put the running statistics back."""
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        result = self._gradients(self.step_index)
        for name, value in self.model.named_buffers():
            value.copy_(buffers[name])
        return result

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
            raise ValueError(f"the pack stands at step {self.step_index} of {self.steps}")
        return [self._outcome(member) for member in range(len(self.trials))]

    def _outcome(self, member: int) -> Outcome:
        step = int(self.diverged_step[member])
        state = TrialState.COMPLETED if step < 0 else TrialState.DIVERGED
        steps = self.steps if step < 0 else step
        loss = float(self.last_loss[member])
        return Outcome(member, state, steps, None if step < 0 else step, loss, dict(self._last[member]))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that is needed to go on bit for bit: tensors and plain values only."""
        return {
            "format": _FORMAT,
            "trials": [trial.trial_id for trial in self.trials],
            "step": self.step_index,
            "members": list(self.members),
            "refused": sorted(self.refused),
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "diverged_step": self.diverged_step.clone(),
            "last_loss": self.last_loss.clone(),
            "last": [dict(last) for last in self._last],
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            ValueError: If the state belongs to other trials or to another version of the format.
        """
        if content["format"] != _FORMAT or content["trials"] != [trial.trial_id for trial in self.trials]:
            raise ValueError("the checkpoint belongs to other trials or to another version of bnsweep")
        if content["members"]:
            self._set_members(list(content["members"]))
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
        self.members = list(content["members"])
        self.step_index = int(content["step"])
        self.refused = set(content["refused"])
        self.diverged_step = content["diverged_step"].to(self.device)
        self.last_loss = content["last_loss"].to(self.device)
        self._last = [dict(last) for last in content["last"]]
        self._rows = []
