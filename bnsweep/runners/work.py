"""What a worker does with a pack, whoever placed it: train, seal, checkpoint, write the records.

The same class serves the in-process runner and Ray's workers, so both give the same results.
Torch is imported when the first pack is opened: the driver imports this module and never needs it.
"""

from __future__ import annotations

import io
import platform
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError, LedgerError
from bnsweep.sweep.curves import CurveRow
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.packs import device_name
from bnsweep.sweep.records import Record, now
from bnsweep.trial import TrialConfig

from .environment import describe_environment
from .failing import abandon_pack, out_of_memory
from .keeping import go_on, keep
from .messages import Progress, WorkerContext, unit_key
from .patience import Patience
from .watchdog import HangError, Watchdog

if TYPE_CHECKING:
    from bnsweep.data import Dataset
    from bnsweep.training import Outcome, PackTrainer

__all__ = ["PackWorker"]


class PackWorker:
    """Trains packs one after another, for as long as the process lives.

    Data sets stay loaded between packs. An error of the network, the data or the code is data:
    it is written to the ledger as a failure of the pack's trials and reported, never raised.

    Args:
        context: Where the ledger and the data lie, and how to train.
    """

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        if context.import_path and context.import_path not in sys.path:
            sys.path.insert(0, context.import_path)
        self.ledger = Ledger(context.ledger)
        self._datasets: dict[tuple[str, ...], Dataset] = {}
        self._pack_id, self._device = "", "cpu"
        self._trainer: PackTrainer | None = None
        self._trials: list[TrialConfig] = []
        self._labels: list[str] = []
        self._attempts: list[dict[str, Any]] = []
        self._started = self._checkpointed = 0.0
        self._sealed = 0
        self._states: dict[str, int] = {}
        self._rows: dict[str, list[CurveRow]] = {}
        self._failure: Progress | None = None
        self._rungs: set[int] = set()
        self._alone = False
        self._goal: Goal | None = None
        self._starts: dict[str, str] = {}
        self._note, self._kernel = "", ""
        self._storage = Patience()
        self._watchdog = Watchdog(context.step_limit, self._note_hang)
        self.ledger.serve(context.epoch)

    @property
    def busy(self) -> bool:
        """Whether a pack is open."""
        return bool(self._pack_id)

    def take(self, unit: Mapping[str, Any]) -> Progress | None:
        """Take up a unit of work.

        Args:
            unit: ``{"pack": pack_id}``, which :meth:`advance` then trains, or ``{"calibrate": {...}}``,
                which is done at once.

        Returns:
            How it ended, if it was done at once.
        """
        if "pack" in unit:
            self.open(unit["pack"])
            return None
        began = time.monotonic()
        error = ""
        try:
            self._calibrate(**unit["calibrate"], gpu=unit.get("gpu", ""))
        except Exception as caught:  # training meets it too, and records it
            error = f"{type(caught).__name__}: {caught}"
        seconds = time.monotonic() - began
        return Progress(unit_key(unit), 0, 0, 0, finished=True, seconds=seconds, error=error)

    def _calibrate(
        self, trial: Mapping[str, Any], count: int, device: str, stackable: bool, gpu: str
    ) -> None:
        """Measure how packs of a signature are trained best here, and store it in the ledger."""
        from bnsweep.training import prepare_process

        from .calibration import measure_signature

        prepare_process(self.context.threads)
        config = TrialConfig.from_dict(trial)
        self._device = device
        content = measure_signature(
            config, self._dataset(config), count, stackable=stackable, neighbours=self.context.neighbours
        )
        self.ledger.write_calibration(config.signature, device_name(device, gpu), content)

    def open(self, pack_id: str) -> None:
        """Take up a pack, from its newest checkpoint that verifies where there is one."""
        self._pack_id, self._trials, self._trainer, self._failure = pack_id, [], None, None
        self._started = self._checkpointed = time.monotonic()
        self._attempts = [{"started": now(), "host": platform.node(), "pack_id": pack_id, "from_step": 0}]
        self._sealed, self._rows, self._rungs, self._alone = 0, {}, set(), False
        self._starts, self._note = {}, ""
        self._storage, self._states = Patience(), {}
        self._watchdog.forget()
        try:
            self._storage.does(self._take_up, time.monotonic())
        except Exception as error:
            self._fail(error)

    def _take_up(self) -> None:
        pack_id = self._pack_id
        if not self.ledger.has_pack(pack_id):
            self._failure = Progress(pack_id, 0, 0, 0, finished=True)  # done by a worker that was lost
            return
        pack = self.ledger.read_pack(pack_id)
        self._device = str(pack["device"])
        self._trials = [TrialConfig.from_dict(content) for content in pack["trials"]]
        self._labels = list(pack["labels"])
        self._rungs, self._alone = set(pack.get("rungs", ())), bool(pack.get("alone"))
        self._goal = Goal.from_dict(pack["goal"]) if self._rungs else None
        self._kernel = str(pack["kernel"])
        if stack := self.ledger.hang(pack_id):
            raise HungBefore(stack)  # and took its worker with it
        self._begin(dict(pack.get("starts", {})))

    def _begin(self, starts: dict[str, str]) -> None:
        """Start from the newest checkpoint, else from where shorter trials ended, else at step 0."""
        import torch

        from bnsweep.training import prepare_process

        prepare_process(self.context.threads)
        self._trainer = self._new_trainer()
        found = self.ledger.load_checkpoint(self._pack_id)
        self._tell_of_lost_checkpoints(found[0] if found else 0)
        if found is None:
            if starts:
                self._go_on(starts)
            return
        content = torch.load(io.BytesIO(found[1]), map_location="cpu", weights_only=True)
        self._trainer.load_state_dict(content["trainer"])
        self._sealed = int(content["sealed"])
        self._starts = dict(content.get("starts", {}))
        self._attempts = [*content["attempts"], {**self._attempts[0], "from_step": found[0]}]

    def _tell_of_lost_checkpoints(self, step: int) -> None:
        """Say where a pack goes on whose newest checkpoint, or each, is damaged or gone."""
        damaged = [text for text in self.ledger.warnings if f"a checkpoint of pack {self._pack_id}" in text]
        if damaged or (not step and self.ledger.sealed_files(self._pack_id)):
            why = damaged[-1] if damaged else "no checkpoint of theirs is there"
            self._note = f"{len(self._trials)} trials go on from step {step}: {why}"

    def _new_trainer(self) -> PackTrainer:
        from bnsweep.training import PackTrainer

        return PackTrainer(self._trials, self._dataset(self._trials[0]), self._kernel)

    def _go_on(self, starts: dict[str, str]) -> None:
        """Go on from where shorter trials ended; at step 0 where that cannot be, which is said."""
        assert self._trainer is not None
        rows = go_on(self.ledger, self._trainer, self._trials, starts)
        if rows is None:
            self._trainer = self._new_trainer()
            why = self.ledger.warnings[-1] if self.ledger.warnings else "what they go on from is absent"
            self._note = f"{len(self._trials)} trials start at step 0: {why}"
            return
        self._rows, self._starts = rows, starts
        self._attempts[0]["from_step"] = self._trainer.step_index

    def _dataset(self, trial: TrialConfig) -> Dataset:
        import torch

        from bnsweep.data import load_node_copy

        parameters = trial.parameters
        device = self._device
        keys = ("dataset", "inputs", "precision", "features")
        key = (*(str(parameters.get(name)) for name in keys), trial.fingerprint, device)
        if key not in self._datasets:
            self._datasets[key] = load_node_copy(
                str(parameters["dataset"]),
                parameters,
                root=Path(self.context.data_root) if self.context.data_root else None,
                device=device,
                dtype=getattr(torch, trial.tensor_dtype),
                fingerprint=trial.fingerprint,
            )
        return self._datasets[key]

    def advance(self, deadline: float) -> Progress:
        """Train until the pack is finished or ``time.monotonic()`` passes ``deadline``.

        Args:
            deadline: Reading of :func:`time.monotonic`; at least one step is made.

        Returns:
            Where the pack stands; ``finished`` closes it.
        """
        if self._failure is None:
            try:
                with self._watchdog.watch():
                    found = self._advance(deadline)
                if found is not None:
                    return found
            except Exception as error:
                self._fail(error)
        assert self._failure is not None
        self._pack_id = ""
        return self._failure

    def _advance(self, deadline: float) -> Progress | None:
        """Train; ``None`` where the pack turned out to be done, or to have failed, when it was taken up."""
        if not self._storage.goes_on(deadline):
            return self._progress(paused=self._storage.reason)
        if self._failure is not None:
            return None
        trainer = self._trainer
        assert trainer is not None
        while not trainer.finished:
            if trainer.step_index in self._rungs and not self._decided():
                return self._at_rung()
            if trainer.finished:
                break
            with self._watchdog.step():
                trainer.step()
            self._collect()
            now = time.monotonic()
            due = not trainer.finished and now - self._checkpointed > self.context.checkpoint_seconds
            if due and not self._storage.does(self._checkpoint, deadline):
                return self._progress(paused=self._storage.reason)
            if now > deadline:
                break
        if not trainer.finished:
            return self._progress()
        if not self._states and not self._storage.does(self._commit, deadline):
            return self._progress(paused=self._storage.reason)
        progress = self._progress(finished=True, states=self._states)
        self._pack_id = ""
        return progress

    def _decided(self) -> bool:
        """Whether it is known if the condition goes on from this rung; if it does not, it stops.

        It is evaluated whatever is known, so that an interruption leaves no trace in the readings.
        """
        assert self._trainer is not None
        self._trainer.evaluate()
        self._collect()
        stop = self.ledger.decision(self._pack_id, self._trainer.step_index)
        if stop is None:
            return False
        self._rungs.discard(self._trainer.step_index)
        if stop:
            self._trainer.stop()
        return True

    def _at_rung(self) -> Progress:
        """Report what the condition is worth so far."""
        assert self._trainer is not None and self._goal is not None
        records = [self._record(outcome, {}) for outcome in self._trainer.standings()]
        return self._progress(value=self._goal.worth(records).values[0])

    def _progress(self, **more: Any) -> Progress:
        trainer = self._trainer
        step, steps = (trainer.step_index, trainer.steps) if trainer else (0, 0)
        seconds = time.monotonic() - self._started
        note, self._note = self._note, ""
        more |= {"note": note, "from_step": int(self._attempts[-1]["from_step"])}
        return Progress(self._pack_id, len(self._trials), step, steps, seconds=seconds, **more)

    def _collect(self) -> None:
        """Stamp the readings of the step just made with the time."""
        assert self._trainer is not None
        stamp = time.time_ns() // 1_000_000
        for row in self._trainer.take_readings():
            own = self._rows.setdefault(self._trials[row.member].trial_id, [])
            own.append(CurveRow(row.step, row.name, row.layer, row.value, stamp))

    def _checkpoint(self) -> None:
        import torch

        assert self._trainer is not None
        if self._rows:
            self.ledger.seal_readings(self._pack_id, self._sealed + 1, self._rows)
            self._sealed, self._rows = self._sealed + 1, {}
        ended = {**self._attempts[-1], "ended": now(), "to_step": self._trainer.step_index}
        content = {
            "sealed": self._sealed,
            "starts": self._starts,
            "attempts": [*self._attempts[:-1], ended],
            "trainer": self._trainer.state_dict(),
        }
        self.ledger.save_checkpoint(
            self._pack_id, self._trainer.step_index, lambda stream: torch.save(content, stream)
        )
        self._checkpointed = time.monotonic()

    def suspend(self) -> None:
        """Checkpoint the open pack, if there is one and the storage takes it, and let it go."""
        if self._pack_id and self._trainer is not None and self._failure is None:
            with suppress(LedgerError):  # the checkpoint before stands: at most an interval is repeated
                self._checkpoint()
        self._pack_id = ""

    def _note_hang(self, stack: str) -> None:
        self.ledger.write_hang(self._pack_id, stack)

    def _commit(self) -> None:
        """Write every member's curves and record, then remove what only an open pack needs."""
        assert self._trainer is not None
        curves = self.ledger.sealed(self._pack_id)
        for trial_id, rows in self._rows.items():
            curves.setdefault(trial_id, []).extend(rows)
        self._attempts[-1] |= {"ended": now(), "to_step": self._trainer.step_index}
        environment = describe_environment(str(self._trainer.device)) | {"threads": self.context.threads}
        states: dict[str, int] = {}
        weights = keep(
            self.ledger,
            self._trainer,
            self._trials,
            states=self.context.keep_states,
            weights=self.context.save_weights,
        )
        finished = []
        for outcome in self._trainer.outcomes():
            record = self._record(outcome, environment, weights.get(outcome.member, ""))
            finished.append((record, curves.get(record.trial_id, [])))
            states[outcome.state] = states.get(outcome.state, 0) + 1
        self.ledger.write_records(finished)
        self.ledger.close_pack(self._pack_id)
        self._states = states

    def _record(self, outcome: Outcome, environment: dict[str, Any], weights: str = "") -> Record:
        assert self._trainer is not None
        facts = self._trainer.dataset.facts
        start = self._starts.get(self._trials[outcome.member].trial_id, "")
        former = self.ledger.record(start) if start else None
        place = {"kernel": self._kernel, "member": outcome.member, "members": len(self._trials)}
        attempts = (*self._attempts[:-1], {**self._attempts[-1], **place})
        return Record.of(
            self._trials[outcome.member],
            outcome.state,
            outcome.steps,
            outcome.readings,
            label=self._labels[outcome.member],
            diverged_step=outcome.diverged_step,
            last_finite_loss=outcome.last_finite_loss,
            attempts=(*former.attempts, *attempts) if former else attempts,
            environment=environment,
            data={name: getattr(facts, name) for name in ("channels", "size", "classes", "train", "test")},
            continued_from=start,
            weights_sha256=weights,
        )

    def _fail(self, error: Exception) -> None:
        """Write the error being handled as a failure of every member, or ask for smaller packs.

        An error of the code or the network is tried once more with every member alone, which finds the
        guilty one. Where the ledger refuses, nobody is guilty: the pack stays open for the next run.
        """
        members = len(self._trials)
        self._trainer = None
        if isinstance(error, LedgerError):
            self._failure = Progress(self._pack_id, members, 0, 0, finished=True, error=str(error))
            return
        if members > 1 and out_of_memory(error) and not self._rungs:
            self._failure = Progress(self._pack_id, members, 0, 0, finished=True, too_large=True)
            return
        if members and not self._alone and not isinstance(error, BnsweepError):
            self._failure = Progress(self._pack_id, members, 0, 0, finished=True, retry=True)
            return
        hung = isinstance(error, (HangError, HungBefore))
        cause = "timeout" if hung else "memory" if out_of_memory(error) else "error"
        reason = str(error) if isinstance(error, HungBefore) else traceback.format_exc()
        try:
            self._failure = abandon_pack(self.ledger, self._pack_id, reason, cause)
        except LedgerError as refused:  # by a full disk, or since another driver has the sweep
            self._failure = Progress(self._pack_id, members, 0, 0, finished=True, error=str(refused))


class HungBefore(Exception):
    """A step of the pack ended its process with it; the message is its stack."""
