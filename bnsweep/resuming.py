"""A sweep as its ledger has it, without the file that it was run from: what ``resume`` goes on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError, LedgerError
from bnsweep.sweep import Plan, SweepSpec, make_plan
from bnsweep.sweep.loading import load_text

if TYPE_CHECKING:
    from bnsweep.sweep.ledger import Ledger

__all__ = ["stored_sweep"]


def stored_sweep(ledger: Ledger, accept_changes: bool = False) -> tuple[SweepSpec, Plan]:
    """Return the sweep and the plan that a ledger was last run with.

    Relative paths of the file mean what they meant where it was run, as long as they are there. Nothing
    that is stored decides which code is imported from where: a norm of the user's must be found here.

    Args:
        ledger: The sweep's.
        accept_changes: Go on although trials are not what they were.

    Raises:
        LedgerError: If the ledger has no sweep file.
        BnsweepError: If the norms, the data or the code's numbers are not those of the stored plan.
    """
    text, content = ledger.sweep_text(), ledger.plan()
    if text is None:
        raise LedgerError(
            f"{ledger.root} must hold sweep.yaml to be resumed, but has none; run the sweep file again"
        )
    folder = content.get("data_root")
    there = isinstance(folder, str) and Path(folder).is_dir()
    spec = load_text(text, str(ledger.root / "sweep.yaml"), data_root=folder if there else None)
    spec = replace(spec, tracking=_tracking(spec, content))
    if spec.name != content.get("name", spec.name):  # confirmed conditions of a search
        plan = Plan.from_dict(content)
        spec = replace(spec, name=plan.name, seeds=plan.seeds, description=plan.description)
        spec = replace(spec, method="grid", early_stop={}, text=text)
        if not accept_changes:
            _agree(plan, replace(plan, trials=tuple(_renewed(trial) for trial in plan.trials)), content)
        return spec, plan
    plan = make_plan(spec)
    if spec.method != "optuna" and not accept_changes:
        _agree(Plan.from_dict(content), plan, content)
    return spec, plan


def _tracking(spec: SweepSpec, content: dict[str, Any]) -> str | None:
    """Return the store as it was meant where the sweep was run, if its folder is there."""
    stored = content.get("tracking")
    if not spec.tracking or not spec.tracking.startswith("sqlite:///") or not isinstance(stored, str):
        return spec.tracking
    path = Path(stored.removeprefix("sqlite:///"))
    return stored if path.is_absolute() and path.parent.is_dir() else spec.tracking


def _renewed(trial: Any) -> Any:
    """Return a trial with the code of its norm as it is found now."""
    from bnsweep.sweep.plan import norm_code

    norm_code.cache_clear()
    return replace(trial, norm_code=norm_code(str(trial.parameters["norm"])))


def _agree(stored: Plan, found: Plan, content: dict[str, Any]) -> None:
    """Refuse to go on where what is trained now would not be what the stored plan says."""
    ids = [str(trial["trial_id"]) for trial in content["trials"]]
    if list(found.trial_ids) == ids:
        return
    norms = {
        str(old.parameters["norm"])
        for old, new in zip(stored.trials, found.trials, strict=False)
        if old.norm_code != new.norm_code
    }
    data = {
        str(old.parameters["dataset"])
        for old, new in zip(stored.trials, found.trials, strict=False)
        if old.fingerprint != new.fingerprint
    }
    what = [f"the code of norm {norm}" for norm in sorted(norms)]
    what += [f"the contents of data set {name}" for name in sorted(data)]
    what = what or ["the code's numbers"]
    where = content.get("import_path")
    hint = (
        f" It was run in {where}: resume there, or name that folder in PYTHONPATH." if norms and where else ""
    )
    raise BnsweepError(
        f"A sweep is resumed with what it was run with, but {' and '.join(what)} changed or is not found "
        f"here.{hint} Restore it; or resume with --accept-changes, or run the sweep file, to train the "
        "trials anew."
    )
