"""What a worker keeps of trials that are done, and how it goes on from what was kept."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bnsweep.errors import LedgerError
from bnsweep.sweep.continuing import ended_early, on_schedule
from bnsweep.sweep.curves import CurveRow, rows_of
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig, TrialState

if TYPE_CHECKING:
    from bnsweep.models import StackedNet
    from bnsweep.training import PackTrainer

__all__ = ["go_on", "keep", "load_network"]


def keep(
    ledger: Ledger, trainer: PackTrainer, trials: Sequence[TrialConfig], *, states: bool, weights: bool
) -> dict[int, str]:
    """Store what is to be kept of a finished pack's members, before their records are committed.

    Args:
        ledger: Where.
        trainer: The pack, finished.
        trials: Its members.
        states: Keep what is needed to train them to more steps.
        weights: Store the final weights of those that have not diverged.

    Returns:
        SHA-256 of the weights by member.
    """
    import torch

    digests: dict[int, str] = {}
    if not states and not weights:
        return digests
    for outcome, state in zip(trainer.outcomes(), trainer.member_states(), strict=True):
        trial_id = trials[outcome.member].trial_id
        if state is None or ledger.record(trial_id) is not None:
            continue
        own = _on_cpu(state)
        if states and outcome.state is not TrialState.STOPPED:
            ledger.keep_state(trial_id, int(own["step"]), partial(torch.save, own))
        if weights and outcome.state is not TrialState.DIVERGED:
            model = own["stack"]["model"]
            digests[outcome.member] = ledger.write_weights(trial_id, partial(torch.save, model))
    return digests


def _on_cpu(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _on_cpu(value) for name, value in content.items()}
    return content.cpu() if hasattr(content, "cpu") else content


def go_on(
    ledger: Ledger, trainer: PackTrainer, trials: Sequence[TrialConfig], starts: Mapping[str, str]
) -> dict[str, list[CurveRow]] | None:
    """Let a new pack go on from where shorter trials ended.

    Args:
        ledger: The sweep's.
        trainer: The pack, at step 0; not to be used where ``None`` is returned.
        trials: Its members.
        starts: For each member's id, that of the trial that it goes on from.

    Returns:
        The readings that are taken over, by member's id; ``None`` where something is absent or damaged,
        of which ``ledger.warnings`` tells.
    """
    states: list[dict[str, Any]] = []
    taken: dict[str, list[CurveRow]] = {}
    for trial in trials:
        former = starts[trial.trial_id]
        record = ledger.record(former)
        table = None if record is None else ledger.curves_of(record)
        state = None if record is None else _state(ledger, record)
        if table is None or state is None:
            return None
        taken[trial.trial_id] = on_schedule(rows_of(table), trial)
        states.append(state)
    last = [{row.name: row.value for row in rows if row.layer == 0} for rows in taken.values()]
    try:
        trainer.go_on(states, last)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        for former in starts.values():
            ledger.reject_state(former, f"it does not fit: {error}")
        return None
    return taken


def _state(ledger: Ledger, record: Record) -> dict[str, Any] | None:
    """Return a trial's kept state; of one that ended early its end, where nothing else was kept."""
    import torch

    trial_id = record.trial_id
    kept = ledger.kept_state(trial_id)
    if kept is not None:
        try:
            with warnings.catch_warnings(action="ignore"):  # torch warns of what it then refuses
                content = torch.load(io.BytesIO(kept[1]), map_location="cpu", weights_only=True)
            if isinstance(content, dict) and content.get("step") == kept[0] == int(
                record.parameters["steps"]
            ):
                return content
            ledger.reject_state(trial_id, "it is of another step than its trial")
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
            ledger.reject_state(trial_id, f"it cannot be read: {str(error).splitlines()[0]}")
    if not ended_early(record):
        return None
    loss = float("nan") if record.last_finite_loss is None else record.last_finite_loss
    return {"diverged": record.diverged_step, "last_loss": loss}


def load_network(ledger: Ledger, trial_id: str) -> StackedNet:
    """Return a finished trial's network with its final weights, in evaluation mode.

    Args:
        ledger: The sweep's.
        trial_id: The trial.

    Returns:
        A stack of one: it takes ``[1, N, C, H, W]`` (``[1, N, features]`` for ``dln``) and returns
        ``[1, N, classes]``.

    Raises:
        LedgerError: If the trial is not done, or has no weights that verify.
    """
    import torch

    from bnsweep.models import make_model
    from bnsweep.names import DATASETS, DataFacts

    record = ledger.record(trial_id)
    if record is None:
        raise LedgerError(
            f"Trial {trial_id} must be done to have a network, but {ledger.name} has no record."
        )
    facts = DATASETS.get(str(record.parameters["dataset"]))
    if facts is None:
        names = ("channels", "size", "classes", "train", "test")
        channels, size, classes, train, test = (int(record.data[name]) for name in names)
        facts = DataFacts(channels, size, classes, train, test)
    dtype = getattr(torch, record.config.tensor_dtype)
    model = make_model(record.parameters, facts, 1, dtype=dtype)
    content = io.BytesIO(ledger.weights(record))
    model.load_state_dict(torch.load(content, map_location="cpu", weights_only=True))
    return model.eval()
