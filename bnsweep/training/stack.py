"""The members of a pack that are being trained, as one stacked network with its data and optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnsweep.data import Dataset
from bnsweep.models import NetworkPlan, StackedNet, make_model, parameter_decay
from bnsweep.norms.noise import SiteNoise
from bnsweep.trial import TrialConfig

from .batches import MemberBatches
from .fused import DensePass, fused_available
from .moment_points import moments_available, on_moment_points
from .objective import Loss, accuracy, batch_loss, l2_gradients, l2_penalty
from .optimizers import MemberOptimizer
from .probing import MemberRows, Snapshot, measure
from .recording import RECORDERS, Recording, same_bits, try_recording

__all__ = ["EVAL_CHUNK", "MemberStack", "TrainingPass", "kernels_of"]

EVAL_CHUNK = 512
"""Test samples that are evaluated at a time."""

WARM_UP = 3
"""Updates before one is recorded, in which libraries choose their kernels and take their work space."""


@dataclass(frozen=True, eq=False)
class TrainingPass:
    """What a forward and backward pass on the members' own batches gave.

    Attributes:
        losses: Loss of each member, ``[K]``.
        outputs: ``[K, N, outputs]``.
        targets: ``[K, N]``, or ``[K, N, outputs]`` for a regression.
        gradients: Gradient of every member's loss by parameter name.
    """

    losses: Tensor
    outputs: Tensor
    targets: Tensor
    gradients: dict[str, Tensor]


def kernels_of(
    plan: NetworkPlan, batch_size: object, dataset: Dataset, lower: bool = False
) -> tuple[str, ...]:
    """Return the kernels beside ``grouped`` that are made for dense networks, the fastest first.

    ``fused`` are passes that are written out; ``moments`` are the same on a few points with the
    moments of the data set, where that is exact. With products in ``lower`` precision there are none.
    """
    if not fused_available(plan) or lower:
        return ()
    return ("moments", "fused") if moments_available(plan, batch_size, dataset) else ("fused",)


class MemberStack:
    """K trials of one static signature as one network, with their batches and optimizer.

    Args:
        trials: The members, in order.
        dataset: Their data set, in the precision and on the device to train on.
        model: Their network, taken over as it is; a new one with zero weights where absent.
        kernel: How the stack is computed, one of :data:`bnsweep.names.KERNELS`. Where ``moments`` is not
            exact it is ``fused``, and where a network has no ``fused`` passes they are ``grouped``.

    Attributes:
        kernel: How the stack is computed.
        unsteady: Updates that come before those whose pace is that of all the others.
    """

    def __init__(
        self,
        trials: Sequence[TrialConfig],
        dataset: Dataset,
        model: StackedNet | None = None,
        kernel: str = "grouped",
    ) -> None:
        self.trials, self.dataset = tuple(trials), dataset
        parameters = trials[0].parameters
        like = dataset.train_x
        if model is None:
            model = make_model(parameters, dataset.facts, len(trials), dtype=like.dtype, kernel=kernel)
        self.model = model.to(like.device)
        self._lower = model.products is not None
        dense = kernels_of(model.plan, parameters["batch_size"], dataset, self._lower)
        if kernel in ("moments", "fused") and kernel not in dense:
            kernel = "fused" if "fused" in dense else "grouped"
        self.kernel = kernel
        self._seen, self._train_loss, self._test_loss = dataset, Loss(), Loss()
        if self.kernel == "moments":
            self._seen, self._train_loss, self._test_loss = on_moment_points(dataset)
        fused = self.kernel in ("fused", "moments")
        self._dense = (
            DensePass(model, len(dataset.train_x) if self.kernel == "moments" else None) if fused else None
        )
        self.batches = MemberBatches(trials, self._seen, model.noise_sites, self._train_loss.scale)
        self._noisy_evaluation = bool(parameters.get("noise_at_eval", False))
        self._leaves = dict(model.named_parameters())
        params = {name: value.detach() for name, value in self._leaves.items()}
        decayed = list(params) if parameters["weight_decay_on"] == "all" else list(parameter_decay(model))
        strengths = [float(trial.parameters["weight_decay"]) for trial in trials]
        in_loss = parameters["weight_decay_as"] == "loss"
        self._penalized = decayed if in_loss and any(strengths) else []
        self._strength = torch.tensor(strengths, dtype=like.dtype, device=like.device)
        values = [trial.parameters for trial in trials]
        self.optimizer = MemberOptimizer(params, values, [] if in_loss else decayed)
        records = like.device.type in RECORDERS and kernel != "loop" and ":" not in model.plan.norm
        self.unsteady = WARM_UP if records else 0
        self._updates = 0
        self._recording: Recording[TrainingPass] | None = None

    def initialize(self) -> None:
        """Draw every member's initial weights from its seed."""
        seeds = [trial.seed for trial in self.trials]
        self.model.initialize(seeds, str(self.trials[0].parameters["init"]))

    def gradients(self, step: int) -> TrainingPass:
        """Compute losses and gradients on the batch of ``step``; moves the running statistics."""
        return self._pass(self.batches.draws(step))

    def update(self, step: int) -> TrainingPass:
        """Do what :meth:`gradients` does, and make the optimizer's update.

        After :attr:`unsteady` updates a device that can do so repeats them from a recording, to the same
        bits. Two things are not recorded: the kernel ``loop``, which is the reference, and norms of the
        user's, whose code may count its calls. What is returned holds until the next update.
        """
        inputs = self.batches.draws(step) | self.optimizer.advance()
        if self._recording is not None:
            return self._recording(inputs)
        self._updates += 1
        if self._updates != self.unsteady:
            return self._updated(inputs)
        done, self._recording = try_recording(self._updated, inputs, self._state())
        return done

    def _state(self) -> list[Tensor]:
        return [*self.optimizer.state(), *self.model.buffers()]

    def _updated(self, inputs: Mapping[str, Tensor]) -> TrainingPass:
        done = self._pass(inputs)
        self.optimizer.update(done.gradients, inputs)
        return done

    def _pass(self, drawn: Mapping[str, Tensor]) -> TrainingPass:
        self.model.train()
        x, y, noise = self.batches.batch(drawn)
        levels = self.batches.levels
        if self._dense is not None:
            losses, outputs, own = self._dense.gradients(x, y, noise, levels, self._train_loss)
            if self._penalized:
                params = self.optimizer.params
                losses = losses + l2_penalty(params, self._penalized, self._strength)
                for name, decay in l2_gradients(params, self._penalized, self._strength).items():
                    own[name] = own[name] + decay
            return TrainingPass(losses, outputs, y, own)
        outputs = self.model(x, noise, levels)
        losses = self.objective(outputs, y, self._leaves)
        gradients = torch.autograd.grad(
            losses.sum(), list(self._leaves.values()), allow_unused=True, materialize_grads=True
        )
        return TrainingPass(
            losses.detach(), outputs.detach(), y, dict(zip(self._leaves, gradients, strict=True))
        )

    def objective(self, outputs: Tensor, targets: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Return what each member minimizes, ``[K]``: batch loss, and weight decay where it is a term."""
        losses = self._train_loss.of(batch_loss(outputs, targets))
        return losses + l2_penalty(params, self._penalized, self._strength) if self._penalized else losses

    def snapshot(self, step: int, probes: Mapping[str, Mapping[str, Any]]) -> Snapshot:
        """Copy what ``probes`` need to know of the time before the update of ``step``."""
        params = {name: value.clone() for name, value in self.optimizer.params.items()}
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        return Snapshot(step, probes, params, buffers, self.optimizer.lr)

    def measure(self, snapshot: Snapshot, done: TrainingPass) -> MemberRows:
        """Take the readings of an update that has just been made from what ``done`` gave.

        A probe subtracts gradients that are nearly equal, so that all must be rounded alike: those of
        autograd are taken over, those of another kernel or of a lower precision are computed again.
        """
        taken_over = self._dense is None and not self._lower
        with self.model.exact():
            return measure(
                snapshot,
                done.losses,
                done.gradients if taken_over else None,
                self.optimizer.params,
                self.model,
                self.batches,
                self.objective,
                penalized=bool(self._penalized),
            )

    def evaluate(self, step: int) -> dict[str, Tensor]:
        """Return ``test_loss`` and, for classes, ``test_accuracy``: float64 ``[K]``, over the test split.

        The loss is that of :func:`~bnsweep.training.objective.batch_loss` for the whole split as one
        batch, without any penalty.
        """
        regression = self._seen.test_y.dtype.is_floating_point
        count = len(self._seen.test_x)
        zeros = torch.zeros(len(self.trials), dtype=torch.float64, device=self._seen.test_x.device)
        values = {"test_loss": zeros} if regression else {"test_loss": zeros, "test_accuracy": zeros}
        for chunk in range(self._chunks):
            outputs, targets = self._test_outputs(step, chunk)
            share = 1.0 if regression else targets.shape[1] / count
            values["test_loss"] = values["test_loss"] + batch_loss(outputs, targets).double() * share
            if not regression:
                values["test_accuracy"] = values["test_accuracy"] + accuracy(outputs, targets) * share
        values["test_loss"] = self._test_loss.of(values["test_loss"])
        return values

    @property
    def _chunks(self) -> int:
        return -(-len(self._seen.test_x) // EVAL_CHUNK)

    @torch.no_grad()
    def _test_outputs(self, step: int, chunk: int) -> tuple[Tensor, Tensor]:
        self.model.eval()
        part = slice(chunk * EVAL_CHUNK, (chunk + 1) * EVAL_CHUNK)
        x, y = self._seen.test_x[part], self._seen.test_y[part]
        noise: list[SiteNoise] | None = None
        if self._noisy_evaluation:
            noise = self.batches.noise(step, f"evaluation {chunk}", len(x))
        with self.model.exact():
            outputs = self.model(x.expand(len(self.trials), *x.shape), noise, self.batches.levels)
        return outputs, y.expand(len(self.trials), *y.shape)

    def select(self, rows: Sequence[int]) -> MemberStack:
        """Return a stack of the members at ``rows``, with copies of their state."""
        trials = [self.trials[row] for row in rows]
        smaller = MemberStack(trials, self.dataset, self.model.compact(rows), self.kernel)
        smaller.optimizer.take(self.optimizer, rows)
        return smaller

    def agrees(self, smaller: MemberStack, rows: Sequence[int], step: int) -> bool:
        """Whether ``smaller`` trains and evaluates the members at ``rows`` to the same bits.

        Kernels are chosen by shape, so a pass of ``step`` and one evaluation of each size decide. The
        state of both stacks is left as it was.
        """
        for mine, theirs in zip(self._trace(step), smaller._trace(step), strict=True):
            if not same_bits(mine.reshape(len(self.trials), -1)[list(rows)], theirs.reshape(len(rows), -1)):
                return False
        return True

    def _trace(self, step: int) -> list[Tensor]:
        """Return everything that one step and one evaluation compute, member-major."""
        stacked = [buffer for buffer in self.model.buffers() if buffer.dim()]
        before = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        done = self.gradients(step)
        trace = [done.losses, done.outputs, *done.gradients.values(), *(value.clone() for value in stacked)]
        for buffer, value in before:
            buffer.copy_(value)
        for chunk in dict.fromkeys((0, self._chunks - 1)):
            outputs, targets = self._test_outputs(step, chunk)
            trace += [outputs, batch_loss(outputs, targets)]
        return trace

    def state_dict(self) -> dict[str, Any]:
        """Return copies of weights, running statistics and optimizer state."""
        model = {name: value.clone() for name, value in self.model.state_dict().items()}
        return {"model": model, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Take over copies of what :meth:`state_dict` returned for the same members."""
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])

    def member_states(self) -> list[dict[str, Any]]:
        """Return copies of weights, statistics and moments of each member, as a stack of one has them."""
        content = self.state_dict()

        def own(values: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
            return {name: _rows_of(value, len(self.trials))[row].clone() for name, value in values.items()}

        moments = content["optimizer"]["moments"]
        return [
            {
                "model": own(content["model"], row),
                "optimizer": {
                    "steps": content["optimizer"]["steps"],
                    "moments": {moment: own(values, row) for moment, values in moments.items()},
                },
            }
            for row in range(len(self.trials))
        ]

    def load_members(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take over what :meth:`member_states` returned for every member, of this stack or of others.

        A moment that a member's former stack had no use for counts as 0.

        Raises:
            ValueError: If the members have not made the same number of updates, or are of other shapes.
        """
        steps = {int(state["optimizer"]["steps"]) for state in states}
        if len(states) != len(self.trials) or len(steps) != 1:
            raise ValueError(
                f"there must be {len(self.trials)} states after the same number of updates, but found "
                f"{len(states)} after {sorted(steps)}"
            )
        mine = self.state_dict()
        moments = {
            moment: _stacked(values, [state["optimizer"]["moments"].get(moment, {}) for state in states])
            for moment, values in mine["optimizer"]["moments"].items()
        }
        model = _stacked(mine["model"], [state["model"] for state in states], needed=True)
        self.load_state_dict({"model": model, "optimizer": {"steps": steps.pop(), "moments": moments}})


def _rows_of(value: Tensor, members: int) -> Tensor:
    """Return a tensor with one row a member; a single number is every member's."""
    return value.reshape(members, -1, *value.shape[1:]) if value.dim() else value.expand(members)


def _stacked(
    like: Mapping[str, Tensor], parts: Sequence[Mapping[str, Tensor]], needed: bool = False
) -> dict[str, Tensor]:
    """Put the members' tensors side by side in the shapes of ``like``; absent ones are 0, or an error."""
    stacked = {}
    for name, value in like.items():
        own = _rows_of(value, len(parts))[0]
        found = [part.get(name) for part in parts]
        rows = [torch.zeros_like(own) if row is None else row.to(own.device) for row in found]
        if any(row.shape != own.shape for row in rows) or (needed and any(row is None for row in found)):
            raise ValueError(f"every member's {name} must have the shape {list(own.shape)}")
        stacked[name] = torch.cat(rows) if value.dim() else rows[0]
    return stacked
