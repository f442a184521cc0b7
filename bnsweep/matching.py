"""Makes a ledger match a plan: the one operation behind run, resume, extend, retry and confirm."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError
from bnsweep.execution import Execution, Outcome, Runner, data_folder, device_type
from bnsweep.extending import describe_starts, starts_of, tell_what_is_not_kept
from bnsweep.guards import agree, changes_since, claims_of, stop_on_request
from bnsweep.lookup import find_ledger, known_ledger, storage_folder
from bnsweep.sequential import run_in_looks
from bnsweep.sweep import Plan, SweepSpec, make_plan
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.places import Place, local_folder
from bnsweep.sweep.plan import kinds_of_trials
from bnsweep.trial import TrialConfig
from bnsweep.where import Where, join

if TYPE_CHECKING:
    from bnsweep.runners import Preflight, Progress, Site
    from bnsweep.search.warm_start import Known
    from bnsweep.sweep.ledger import Ledger

__all__ = [
    "HERE",
    "Wishes",
    "admit",
    "match",
    "match_in_looks",
    "one_of_each",
    "refuse_unprepared",
    "stored_plan",
    "text_of",
    "tracking_of",
]


HERE = Where()


def _ignore(_: Any) -> None:
    """Take what nobody wants to hear."""


@dataclass(frozen=True)
class Wishes:
    """How a ledger is to be made to match its plan, and who hears of it; see :func:`bnsweep.api.run`.

    Attributes:
        runner: Where to train; Ray Tune by default.
        storage: Folder of results, instead of the file's.
        root: The sweep's own folder, where that exists already, instead of ``storage``.
        retry_failed: Take up the trials that failed before.
        accept_changes: Go on although claims, data or the code's numbers changed.
        where: On which cluster, and how long to wait for another process.
        progress: Called with the workers' progress.
        tell: Called with sentences for people.
        begin: Called with the number of trials to run, before the first starts.
    """

    runner: Runner | None = None
    storage: str | None = None
    root: Place | None = None
    retry_failed: bool = False
    accept_changes: bool = False
    where: Where = HERE
    progress: Callable[[Progress], None] = _ignore
    tell: Callable[[str], None] = _ignore
    begin: Callable[[int], None] = _ignore

    @classmethod
    def of(
        cls,
        progress: Callable[[Progress], None] | None,
        say: Callable[[str], None] | None,
        begin: Callable[[int], None] | None,
        **rest: Any,
    ) -> Wishes:
        """Return wishes of which those to be told may be ``None``."""
        return cls(progress=progress or _ignore, tell=say or _ignore, begin=begin or _ignore, **rest)


def match_in_looks(spec: SweepSpec, wanted: Plan, wishes: Wishes) -> Outcome:
    """Make a ledger match a plan, once, or look by look where seeds are added; see :func:`match`."""
    if spec.sequential is None:
        return match(spec, wanted, wishes)
    return run_in_looks(
        spec,
        lambda: known_ledger(spec, wishes.storage, wishes.root),
        lambda own, look: match(own, make_plan(own), wishes, look),
        wishes.tell,
    )


def match(
    spec: SweepSpec, wanted: Plan, wishes: Wishes, look: Callable[[Ledger], bool] | None = None
) -> Outcome:
    """Make a ledger match a plan.

    Args:
        spec: The sweep.
        wanted: Its plan.
        wishes: How, and who hears of it.
        look: Called when all is trained; where it says that the sweep goes on, no report is made yet.

    Raises:
        BnsweepError: As for :func:`bnsweep.api.run`.
    """
    from bnsweep.sweep.ledger import Ledger

    began = time.monotonic()
    tell, where, root = wishes.tell, wishes.where, wishes.root
    folder = root or storage_folder(spec, wishes.storage) / spec.name
    before = known_ledger(spec, wishes.storage, root)
    if before and where.wait:
        with before.exclusive(where.wait):
            pass  # what is left is known when the other process has ended
    planned, unasked = wanted, 0
    if spec.method == "optuna":
        planned = wanted.with_suggestions(before) if before else wanted
        asked = sum(event["event"] == "suggest" for event in before.search_log) if before else 0
        unasked = max(0, wanted.condition_count - asked) * len(wanted.seeds)
    with before.one_look() if before else nullcontext():
        left, skipped = _left(planned, before, wishes.retry_failed)
        tell(_opening(wanted, len(left) + unasked, skipped))
        if before:
            agree(changes_since(spec, planned, before), wishes.accept_changes, tell)
        starts = starts_of(planned, before, left)
    for line in describe_starts(spec, starts):
        tell(line)
    tell_what_is_not_kept(spec, planned, before, tell)
    uri = tracking_of(spec, folder.parent)
    more = bool(left or unasked)
    if not more and uri is not None and before is not None:
        uri = _reachable(uri, before, tell)
    knowledge = _knowledge(spec, before, str(folder.parent), tell)
    address = where.cluster if more and wishes.runner is None else None
    with join(spec, address, where.insecure, tell) as site:
        kinds = kinds_of_trials(spec) if unasked else left
        found = admit(spec, kinds, site, folder, uri, tell) if more else None
        ledger = Ledger(folder) if root else Ledger.open(folder.parent, spec.name, create=True)
        with ledger.exclusive(where.wait), stop_on_request(ledger):
            stored = stored_plan(spec, wanted) | {"claims": claims_of(spec, ledger)}
            ledger.write_sweep(spec.text or text_of(spec), stored)
            execution = Execution(
                spec, planned, ledger, wishes.runner, wishes.progress, tell, began, starts,
                len(left) + unasked, site,
            )  # fmt: skip
            execution.known = knowledge
            execution.look = look
            return execution.run(left, found, uri, lambda count: wishes.begin(count + unasked))


def _knowledge(
    spec: SweepSpec, before: Ledger | None, storage: str, tell: Callable[[str], None]
) -> Known | None:
    """Return what a search that begins now knows already; one that has begun keeps what it knew."""
    if "warm_start" not in spec.search or (before is not None and before.search_log.length):
        return None
    from bnsweep.search import knowledge

    known = knowledge(spec, lambda name: find_ledger(name, storage))
    tell(str(known))
    return known


def refuse_unprepared(wanted: Plan) -> None:
    """Refuse a plan whose trials have no ids, since its image folder was not prepared."""
    if wanted.unprepared is not None:
        raise BnsweepError(
            f"The image folder must be prepared before its trials have ids, but {wanted.unprepared} has no "
            f"fingerprint.json. Run bnsweep data prepare {wanted.unprepared} once."
        )


def _left(wanted: Plan, ledger: Ledger | None, retry_failed: bool) -> tuple[list[TrialConfig], int]:
    """Return the trials to run, and the number of those left out because they failed before."""
    if ledger is None:
        return list(wanted.trials), 0
    done, failed = ledger.done(), ledger.failed()
    pending = [(trial_id, trial) for trial_id, trial in wanted.by_id.items() if trial_id not in done]
    left = [trial for trial_id, trial in pending if retry_failed or trial_id not in failed]
    return left, len(pending) - len(left)


def _opening(wanted: Plan, left: int, skipped: int) -> str:
    conditions, seeds = wanted.condition_count, len(wanted.seeds)
    text = f"{wanted.name}: {wanted.count} trials = {conditions} conditions x {seeds} seeds"
    done = wanted.count - left - skipped
    if left < wanted.count:
        text += f"; {done} done, {left} to run" if left else "; nothing to run"
    if skipped:
        text += f"; {skipped} failed before: --retry-failed takes them up again"
    return text


def _say_if_away(uri: str, tell: Callable[[str], None]) -> None:
    """Say that a tracking store does not answer now; one that never will is an error. Warn of plain http."""
    from bnsweep.runners.access import plain_text_warning
    from bnsweep.tracking import unreachable
    from bnsweep.tracking.credentials import redacted

    if warning := plain_text_warning(uri):
        tell(f"warning: {warning}")
    if reason := unreachable(uri):
        tell(
            f"note: MLflow must answer at {redacted(uri)}, but {reason}. Training goes on without; what is "
            "missing is sent once it answers, or by bnsweep sync."
        )


def _reachable(uri: str, ledger: Ledger, tell: Callable[[str], None]) -> str | None:
    """Return the store if it answers; a run with nothing to train does without it otherwise."""
    from bnsweep.errors import ServiceError
    from bnsweep.tracking import check_uri, unsent

    try:
        check_uri(uri)
    except ServiceError as error:
        summary = unsent(ledger, uri, "it does not answer")
        tell(f"not mirrored: {error}" if summary.complete else f"not mirrored: {error} {summary}")
        return None
    return uri


def one_of_each(trials: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return one trial of each static signature."""
    kinds: dict[tuple[object, ...], TrialConfig] = {}
    for trial in trials:
        static = ("model", "width", "depth", "features", "dataset", "norm", "groups", "inputs")
        kinds.setdefault(tuple(trial.parameters.get(name) for name in static), trial)
    return list(kinds.values())


def admit(
    spec: SweepSpec,
    kinds: Sequence[TrialConfig],
    site: Site,
    place: Place,
    uri: str | None,
    tell: Callable[[str], None],
) -> Preflight:
    """Look, before anything is written, for what would stop the sweep where its workers will be."""
    from bnsweep.sweep.ledger import Ledger

    resources = spec.resources
    if device_type(spec) == "cuda" and not resources.gpus:
        raise BnsweepError(
            "resources.gpus must be > 0 where resources.device is cuda, but found 0. Say how much of a GPU a "
            "pack takes, such as 0.25."
        )
    site.admit(resources.cpus, resources.gpus, str(place.parent), uri)
    if uri is not None:
        _say_if_away(uri, tell)
    if not (place / "ledger.json").is_file():
        Ledger.check_place(place)
    found = site.preflight(one_of_each(kinds), data_folder(spec))
    for note in found.notes:
        tell(f"note: {note}")
    site.check_gpus(resources.gpus, found)
    return found


def tracking_of(spec: SweepSpec | None, folder: Place) -> str | None:
    """Return the store of a sweep: its file's, else ``$BNSWEEP_TRACKING_URI``, else beside the results."""
    from bnsweep.tracking import default_uri
    from bnsweep.tracking.uris import absolute_uri

    stated = _stated_uri(spec)
    if stated == "none":
        return None
    return absolute_uri(stated) if stated else default_uri(local_folder(folder))


def _stated_uri(spec: SweepSpec | None) -> str | None:
    """Return the store that a sweep's file or the environment names, without a password."""
    from bnsweep.tracking.credentials import without_login

    given = without_login(os.environ.get("BNSWEEP_TRACKING_URI", ""))
    return (spec.tracking if spec else None) or given or None


def text_of(spec: SweepSpec) -> str:
    """Return a spec as the text of a sweep file."""
    from bnsweep.sweep import to_yaml

    return to_yaml(spec.to_dict())


def stored_plan(spec: SweepSpec, wanted: Plan) -> dict[str, Any]:
    """Return a plan as the ledger stores it, with all that a run without the file has to know."""
    return {
        **wanted.to_dict(),
        "description": spec.description,
        "method": spec.method,
        "metric": {"name": spec.metric.name, "goal": spec.metric.goal},
        "tracking": _stored_uri(spec),
        "data_root": data_folder(spec) if spec.data_root else None,
        "import_path": os.getcwd(),
        "search": _stored_search(spec),
    }


def _stored_search(spec: SweepSpec) -> dict[str, Any] | None:
    """Return the search with what it is after, and its database as other directories name it."""
    from bnsweep.tracking.uris import absolute_uri

    if not spec.search:
        return None
    found = {**spec.search, "goal": Goal.of(spec).to_dict()}
    return found | ({"storage": absolute_uri(found["storage"])} if "storage" in found else {})


def _stored_uri(spec: SweepSpec) -> str | None:
    """Return the tracking store as other commands, in other directories, have to name it."""
    from bnsweep.tracking.uris import absolute_uri

    stated = _stated_uri(spec)
    return absolute_uri(stated) if stated and stated != "none" else stated
