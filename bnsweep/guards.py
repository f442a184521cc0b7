"""What a run heeds before and while it writes a sweep's ledger: changes to agree to, and a wish to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError, LedgerError
from bnsweep.execution import device_type
from bnsweep.sweep import Plan, SweepSpec
from bnsweep.sweep.changes import Changes, compare_environments, compare_plans

if TYPE_CHECKING:
    from bnsweep.sweep.ledger import Ledger

__all__ = ["POLL_SECONDS", "agree", "changes_since", "claims_of", "stop_on_request"]

POLL_SECONDS = 1.0
"""How often a run looks whether somebody asked it to stop."""


def claims_of(spec: SweepSpec, ledger: Ledger) -> dict[str, Any]:
    """Return the claims as a run of ``spec`` stores them: frozen since there are results."""
    from bnsweep.analysis.claims import freeze

    own = freeze(spec, {}, False)
    if not (ledger.root / "plan.json").exists():
        return own
    before = ledger.plan()
    if (before.get("claims") or {}).get("first") == own["first"]:
        return own
    return freeze(spec, before, bool(ledger.done()))


def changes_since(spec: SweepSpec, wanted: Plan, before: Ledger) -> Changes:
    """Return what differs from the run before: trials, data, code, packages, machine, claims."""
    from bnsweep.analysis.claims.frozen import FrozenClaims
    from bnsweep.runners.environment import describe_driver

    if not (before.root / "plan.json").exists():
        return Changes()
    done = before.done()
    sample = before.record(min(done)) if done else None
    old = [trial.config for trial in before.planned()]
    found = compare_plans(old, wanted.trials, done, sample.results_version if sample else None)
    found += compare_environments(before.environment(), describe_driver())
    trained_on = str(sample.environment.get("device", "")).partition(":")[0] if sample else ""
    if trained_on and trained_on != device_type(spec):
        found += Changes((f"device: {trained_on} -> {device_type(spec)}",))
    was, own = (FrozenClaims.of_plan(plan) for plan in (before.plan(), {"claims": claims_of(spec, before)}))
    if done and was.hash and own.hash != was.hash:
        found += Changes((), ("the claims or their thresholds",))
    return found


def agree(found: Changes, accepted: bool, tell: Callable[[str], None]) -> None:
    """Say what changed; refuse with a :class:`BnsweepError` what is grave and was not accepted."""
    for line in found.lines:
        tell(f"changed: {line}")
    if found.grave and not accepted:
        raise BnsweepError(
            f"Finished trials must keep their meaning, but since they were run there changed: "
            f"{'; '.join(found.grave)}. Go on with --accept-changes (results stay; the report says what "
            "changed), or give the sweep another name, or take the change back."
        )
    for line in found.grave:
        tell(f"changed, and accepted: {line}")


@contextmanager
def stop_on_request(ledger: Ledger) -> Iterator[None]:
    """Interrupt this process, as Ctrl-C does, when somebody asks the ledger for a stop."""
    over = threading.Event()
    ledger.clear_stop()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            try:
                if not ledger.stop_requested:
                    continue
                ledger.clear_stop()
            except (LedgerError, OSError):
                continue  # a store that is away for a while, or a disk that cannot be written
            else:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    thread = threading.Thread(target=watch, name="bnsweep-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
