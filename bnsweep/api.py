"""The verbs as functions: where loading, planning, running, tracking and reporting are joined.

The command line and a notebook call the same. There is one operation behind run, resume and extend:
*make the ledger match the plan*.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnsweep.errors import BnsweepError, LedgerError
from bnsweep.execution import (
    MIRROR_SECONDS,
    Execution,
    Outcome,
    Runner,
    Where,
    data_folder,
    device_type,
    join,
    measurements,
    worker_count,
)
from bnsweep.extending import describe_starts, starts_of, tell_what_is_not_kept
from bnsweep.guards import agree, changes_since, claims_of, stop_on_request
from bnsweep.standing import Status, read_status
from bnsweep.sweep import Plan, SweepSpec, load_spec, make_plan
from bnsweep.sweep.folder import NAME
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.places import ObjectPath, Place, is_url, local_folder, place
from bnsweep.sweep.plan import kinds_of_trials
from bnsweep.trial import TrialConfig

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from bnsweep.analysis import Report
    from bnsweep.runners import Preflight, Progress, Site
    from bnsweep.search import Shown
    from bnsweep.search.warm_start import Known
    from bnsweep.sweep.forecast import Forecast
    from bnsweep.sweep.ledger import Ledger
    from bnsweep.tracking import Summary

__all__ = [
    "Outcome",
    "Status",
    "Where",
    "calibrate",
    "confirm",
    "find_ledger",
    "forecast",
    "load",
    "network",
    "plan",
    "report",
    "results",
    "resume",
    "run",
    "status",
    "stop",
    "sync",
    "sync_study",
]

HERE = Where()

Source = str | PathLike[str] | Mapping[str, Any] | SweepSpec


def load(source: Source) -> SweepSpec:
    """Read and check a sweep file.

    Args:
        source: A path, a mapping like the file's content, or a spec, which is returned as it is.

    Raises:
        SpecError: With every mistake in it.
    """
    from bnsweep import analysis, search

    spec = source if isinstance(source, SweepSpec) else load_spec(source)
    search.check(spec)
    analysis.check(spec)
    return spec


def plan(source: Source) -> Plan:
    """Return every trial that a sweep file asks for, in order; starts nothing.

    Raises:
        SpecError: With every mistake in the file.
    """
    return make_plan(load(source))


def forecast(source: Source, storage: str | None = None, *, left_only: bool = True) -> Forecast:
    """Say how a sweep is divided into packs, and what time, memory and disk it is expected to take.

    Args:
        source: A sweep file, its content, or a spec.
        storage: Folder of results, instead of the file's.
        left_only: Leave out the trials that the ledger has.

    Returns:
        The forecast, from the calibrations in the ledger; without them packs of a default size and
        no figures. :func:`calibrate` makes them, and so does every run.
    """
    spec = load(source)
    wanted = make_plan(spec)
    ledger = _known_ledger(spec, storage)
    done = ledger.done() if ledger and left_only else set()
    left = [trial for trial_id, trial in wanted.by_id.items() if trial_id not in done]
    return measurements(spec, ledger).forecast(left, worker_count(spec), device_type(spec))


def calibrate(
    source: Source,
    *,
    runner: Runner | None = None,
    storage: str | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Measure here how the packs of a sweep are trained best, and what they take; trains nothing.

    Args:
        source: A sweep file, its content, or a spec.
        runner: Where to measure; Ray Tune on this machine by default.
        storage: Folder of results, instead of the file's.
        say: Called with sentences for people.

    Raises:
        SpecError: If the file is wrong.
        BnsweepError: If data, norm, storage or resources are not as they must be.
        LedgerBusyError: If another process is running this sweep.
    """
    from bnsweep.runners import Machine
    from bnsweep.sweep.ledger import Ledger

    spec = load(source)
    wanted = make_plan(spec)
    _refuse_unprepared(wanted)
    site = Machine()
    place = storage_folder(spec, storage) / spec.name
    found = _admit(spec, wanted.trials, site, place, None, lambda _: None)
    ledger = Ledger.open(storage_folder(spec, storage), spec.name, create=True)
    with ledger.exclusive():
        ledger.write_sweep(spec.text or text_of(spec), _stored_plan(spec, wanted))
        tell = say or (lambda _: None)
        execution = Execution(spec, wanted, ledger, runner, lambda _: None, tell, time.monotonic())
        execution.train(execution.source(wanted.trials, found, train=False))


def _known_ledger(spec: SweepSpec, storage: str | None) -> Ledger | None:
    from bnsweep.sweep.ledger import Ledger

    root = storage_folder(spec, storage) / spec.name
    return Ledger(root) if (root / "ledger.json").is_file() else None


def _ledger_at(spec: SweepSpec, storage: str | None, root: Place | None) -> Ledger | None:
    from bnsweep.sweep.ledger import Ledger

    return Ledger(root) if root else _known_ledger(spec, storage)


def storage_folder(spec: SweepSpec | None = None, storage: str | None = None) -> Place:
    """Return the folder of results: as given, as the file says, ``$BNSWEEP_STORAGE``, or ``results``.

    Raises:
        LedgerError: If it is the address of a store of another kind than S3.
    """
    stated = spec.storage if spec is not None and "storage" in spec.given else None
    return place(storage or stated or os.environ.get("BNSWEEP_STORAGE") or "results")


def find_ledger(name: str | PathLike[str] | ObjectPath, storage: str | None = None) -> Ledger:
    """Return the ledger that ``name`` means.

    Args:
        name: A sweep's name, a ledger's folder or URL, or a sweep file.
        storage: Folder of results to look in, for a name.

    Raises:
        LedgerError: If there is none.
        SpecError: If ``name`` is a sweep file with mistakes.
    """
    from bnsweep.sweep.ledger import Ledger

    if isinstance(name, ObjectPath) or is_url(name):
        return Ledger(place(name))
    try:
        found = _ledger_path(Path(name).expanduser(), storage)
    except BnsweepError:
        raise
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a home that is not there
        found = None
    if found is not None:
        return found
    folder = storage_folder(None, storage)
    if not NAME.fullmatch(str(name)) or not (folder / str(name)).is_dir():
        known = sorted(entry.parent.name for entry in folder.glob("*/ledger.json"))
        there = f"it holds {', '.join(known)}" if known else "it holds none"
        raise LedgerError(
            f"A sweep called {_shown(name)} must have been run in {folder}, but {there}. Name one of these, "
            "a ledger's folder or a sweep file, or say where to look with --storage."
        )
    return Ledger.open(folder, str(name))


def _ledger_path(path: Path, storage: str | None) -> Ledger | None:
    """Return the ledger that a path means: a sweep file's, or a folder's; ``None`` where it is none."""
    from bnsweep.sweep.ledger import Ledger

    here = path.resolve()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        spec = load(path)
        return Ledger.open(storage_folder(spec, storage), spec.name)
    if path.is_dir() and (len(path.parts) > 1 or (path / "ledger.json").exists()):
        return Ledger(here)
    return None


def _shown(name: object) -> str:
    """Return a name for a message: short, and without what a terminal would obey."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(name))
    return text if len(text) <= 80 else f"{text[:80]}..."


def run(
    source: Source,
    *,
    runner: Runner | None = None,
    storage: str | None = None,
    root: Place | None = None,
    retry_failed: bool = False,
    accept_changes: bool = False,
    where: Where = HERE,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    begin: Callable[[int], None] | None = None,
) -> Outcome:
    """Make the ledger match the plan, here; running again resumes, and runs only what is new.

    Args:
        source: A sweep file, its content, or a spec.
        runner: Where to train; Ray Tune on this machine by default.
        storage: Folder of results, instead of the file's.
        root: The sweep's own folder, where that exists already, instead of ``storage``.
        retry_failed: Take up the trials that failed before; otherwise they stay failed.
        accept_changes: Go on although claims, data or the code's numbers changed since there are results.
        where: On which cluster, and how long to wait for another process; this machine by default.
        progress: Called with the workers' progress.
        say: Called with sentences for people.
        begin: Called with the number of trials to run, before the first starts.

    Returns:
        How it ended. Failed trials and an interruption are outcomes, not errors.

    Raises:
        SpecError: If the file is wrong; nothing was started.
        BnsweepError: If data, norm, storage, tracking or resources are not as they must be;
            nothing was started.
        LedgerBusyError: If another process is running this sweep.
    """
    spec = load(source)
    wanted = make_plan(spec)
    _refuse_unprepared(wanted)
    return _run_looks(
        spec, wanted, runner, storage, root, retry_failed, accept_changes, where, progress, say, begin
    )


def resume(
    name: str | PathLike[str],
    *,
    runner: Runner | None = None,
    storage: str | None = None,
    retry_failed: bool = False,
    accept_changes: bool = False,
    where: Where = HERE,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    begin: Callable[[int], None] | None = None,
) -> Outcome:
    """Go on with a sweep from its stored plan, without the file; see :func:`run`.

    Args:
        name: The sweep, as for :func:`find_ledger`.
        runner: As for :func:`run`, like all that follow.
        storage: Folder of results to look in.
        retry_failed: Take up the trials that failed before.
        accept_changes: Go on although norms, claims, data or the code's numbers changed.
        where: On which cluster; this machine by default.
        progress: Called with the workers' progress.
        say: Called with sentences for people.
        begin: Called with the number of trials to run.

    Raises:
        LedgerError: If there is no such sweep, or it cannot be read.
        BnsweepError: As for :func:`run`; or if trials would not be what the stored plan says.
    """
    from bnsweep.resuming import stored_sweep

    ledger = find_ledger(name, storage)
    spec, wanted = stored_sweep(ledger, accept_changes)
    _refuse_unprepared(wanted)
    root = ledger.root
    return _run_looks(
        spec, wanted, runner, storage, root, retry_failed, accept_changes, where, progress, say, begin
    )


def confirm(
    name: str | PathLike[str],
    *,
    top: int = 3,
    seeds: int = 10,
    runner: Runner | None = None,
    storage: str | None = None,
    retry_failed: bool = False,
    accept_changes: bool = False,
    where: Where = HERE,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    begin: Callable[[int], None] | None = None,
) -> Outcome:
    """Train the best conditions of a search again, with seeds that had no part in choosing them.

    The best of many conditions owes its place to luck too; its mean over fresh seeds does not. The
    trials are a sweep of their own, called ``NAME-confirm``, beside the search's.

    Args:
        name: The search.
        top: Conditions to confirm, the best first.
        seeds: Fresh seeds of each.
        runner: As for :func:`run`, like all that follow.
        storage: Folder of results to look in.
        retry_failed: Take up the trials that failed before.
        accept_changes: Go on although the code's numbers changed since there are results.
        where: As for :func:`run`.
        progress: Called with the workers' progress.
        say: Called with sentences for people.
        begin: Called with the number of trials to run.

    Raises:
        BnsweepError: If the sweep is no search, or none of its conditions has run to its end.
    """
    from bnsweep.analysis.results import Results

    ledger = find_ledger(name, storage)
    found = Results.read(ledger).found
    if found is None or not found.complete:
        raise BnsweepError(
            f"A search with finished conditions can be confirmed, but {ledger.name} "
            f"{'is a grid' if found is None else 'has none yet'}. Run a sweep of method random or optuna."
        )
    spec = load(ledger.sweep_text() or "")
    fresh = tuple(range(max(spec.seeds) + 1, max(spec.seeds) + 1 + seeds))
    chosen = [one.condition_id for one in found.ranked[:top]]
    of = {trial.config.condition_id: trial.config for trial in ledger.planned()}
    trials = tuple(
        replace(of[condition], parameters={**of[condition].parameters, "seed": seed})
        for condition in chosen
        for seed in fresh
    )
    called = f"{ledger.name[:56]}-confirm"
    said = f"The best {len(chosen)} conditions of {ledger.name}, trained again with fresh seeds."
    text = f"# bnsweep confirm {ledger.name} --top {top} --seeds {seeds}\n{ledger.sweep_text()}"
    wanted = Plan(called, trials, found.names, fresh, len(trials), said)
    spec = replace(spec, name=called, method="grid", early_stop={}, description=said, seeds=fresh, text=text)
    return _run(
        spec,
        wanted,
        runner,
        str(ledger.root.parent),
        None,
        retry_failed,
        accept_changes,
        where,
        progress,
        say,
        begin,
    )


def _run_looks(
    spec: SweepSpec, wanted: Plan, runner: Runner | None, storage: str | None, root: Place | None, *rest: Any
) -> Outcome:
    """Make a ledger match a plan, once, or look by look. Takes what :func:`_run` does."""
    if spec.sequential is None:
        return _run(spec, wanted, runner, storage, root, *rest)
    from bnsweep.sequential import run_in_looks

    def once(own: SweepSpec, look: Callable[[Ledger], bool]) -> Outcome:
        return _run(own, make_plan(own), runner, storage, root, *rest, look)  # type: ignore[call-arg]

    say = rest[-2]
    return run_in_looks(spec, lambda: _ledger_at(spec, storage, root), once, say or (lambda _: None))


def _run(
    spec: SweepSpec,
    wanted: Plan,
    runner: Runner | None,
    storage: str | None,
    root: Place | None,
    retry_failed: bool,
    accept_changes: bool,
    where: Where,
    progress: Callable[[Progress], None] | None,
    say: Callable[[str], None] | None,
    begin: Callable[[int], None] | None,
    look: Callable[[Ledger], bool] | None = None,
) -> Outcome:
    """Make a ledger match a plan; see :func:`run`.

    ``look`` is called when all is trained; where it says that the sweep goes on, no report is made yet.
    """
    from bnsweep.sweep.ledger import Ledger

    began = time.monotonic()
    tell = say or (lambda _: None)
    folder = root or storage_folder(spec, storage) / spec.name
    known = (folder / "ledger.json").is_file()
    before = Ledger(folder) if known else None
    if before and where.wait:
        with before.exclusive(where.wait):
            pass  # what is left is known when the other process has ended
    planned, unasked = wanted, 0
    if spec.method == "optuna":
        planned = wanted.with_suggestions(before) if before else wanted
        asked = sum(event["event"] == "suggest" for event in before.search_log) if before else 0
        unasked = max(0, wanted.condition_count - asked) * len(wanted.seeds)
    left, skipped = _left(planned, before, retry_failed)
    tell(_opening(wanted, len(left) + unasked, skipped))
    if before:
        agree(changes_since(spec, planned, before), accept_changes, tell)
    starts = starts_of(planned, before, left)
    for line in describe_starts(spec, starts):
        tell(line)
    tell_what_is_not_kept(spec, planned, before, tell)
    uri = _tracking_uri(spec, folder.parent)
    more = bool(left or unasked)
    if not more and uri is not None and before is not None:
        uri = _reachable(uri, before, tell)
    knowledge = _knowledge(spec, before, str(folder.parent), tell)
    address = where.cluster if more and runner is None else None
    with join(spec, address, where.insecure, tell) as site:
        kinds = kinds_of_trials(spec) if unasked else left
        found = _admit(spec, kinds, site, folder, uri, tell) if more else None
        ledger = Ledger(folder) if root else Ledger.open(folder.parent, spec.name, create=True)
        with ledger.exclusive(where.wait), stop_on_request(ledger):
            stored = _stored_plan(spec, wanted) | {"claims": claims_of(spec, ledger)}
            ledger.write_sweep(spec.text or text_of(spec), stored)
            show, start, count = progress or (lambda _: None), begin or (lambda _: None), len(left) + unasked
            execution = Execution(spec, planned, ledger, runner, show, tell, began, starts, count, site)
            execution.known = knowledge
            execution.look = look
            return execution.run(left, found, uri, lambda count: start(count + unasked))


def stop(name: str | PathLike[str], storage: str | None = None, patience: float = 15.0) -> bool:
    """Ask the process that runs a sweep, here or on another machine, to stop at its next checkpoint.

    Args:
        name: The sweep, as for :func:`find_ledger`.
        storage: Folder of results to look in.
        patience: Seconds in which a process that runs the sweep has to answer.

    Returns:
        Whether one has taken note; ``False`` where nobody runs the sweep.

    Raises:
        LedgerError: If there is no such sweep, or its folder cannot be written.
    """
    ledger = find_ledger(name, storage)
    ledger.request_stop()
    end = time.monotonic() + patience
    while ledger.stop_requested:
        if time.monotonic() > end:
            ledger.clear_stop()
            return False
        time.sleep(0.1)
    return True


def status(name: str | PathLike[str], storage: str | None = None) -> Status:
    """Say where a sweep stands, while another process runs it or not.

    Raises:
        LedgerError: If there is no such sweep.
    """
    from bnsweep.tracking.uris import absolute_uri

    ledger = find_ledger(name, storage)
    untracked = ledger.plan().get("tracking") == "none"
    return read_status(ledger, None if untracked else absolute_uri(tracking_uri(ledger)))


def report(name: str | PathLike[str], storage: str | None = None, out: str | None = None) -> Report:
    """Write a sweep's report, from its ledger alone.

    Raises:
        LedgerError: If there is no such sweep.
    """
    from bnsweep.analysis import make_report
    from bnsweep.search import weigh

    return make_report(find_ledger(name, storage), out, weigh)


def results(name: str | PathLike[str], storage: str | None = None) -> pd.DataFrame:
    """Return a table of a sweep's finished trials, one row each.

    Raises:
        LedgerError: If there is no such sweep.
    """
    from bnsweep.analysis import results_table

    return results_table(find_ledger(name, storage))


def network(name: str | PathLike[str], trial_id: str, storage: str | None = None) -> nn.Module:
    """Return the network of a finished trial, with the final weights that ``save_weights: final`` stored.

    Args:
        name: The sweep, as for :func:`find_ledger`.
        trial_id: The trial.
        storage: Folder of results to look in.

    Returns:
        A stack of one member, in evaluation mode: it takes ``[1, N, C, H, W]`` (``[1, N, features]`` for
        ``dln``) and returns ``[1, N, classes]``.

    Raises:
        LedgerError: If there is no such sweep or trial, or no weights of it that verify.
    """
    from bnsweep.runners.keeping import load_network

    return load_network(find_ledger(name, storage), trial_id)


def tracking_uri(ledger: Ledger, uri: str | None = None) -> str:
    """Return the store that a sweep is tracked in: as given, as its file says, or beside the results.

    Raises:
        BnsweepError: If its file says that it is not tracked, and ``uri`` names no store.
    """
    from bnsweep.tracking import default_uri

    stored = ledger.plan().get("tracking")
    if uri is None and stored == "none":
        raise BnsweepError(
            f"Sweep {ledger.name} must be tracked to be shown, but its file says tracking: none. Name a "
            "store with --uri."
        )
    return str(uri or stored or default_uri(local_folder(ledger.root.parent)))


def sync(name: str | PathLike[str], storage: str | None = None, uri: str | None = None) -> Summary:
    """Make MLflow show what the ledger holds; repeating it changes nothing.

    Raises:
        LedgerError: If there is no such sweep.
        ServiceError: If the store does not answer.
    """
    from bnsweep import tracking

    ledger = find_ledger(name, storage)
    store = tracking_uri(ledger, uri)
    tracking.check_uri(store)
    return tracking.sync(ledger.root, store, timeout=MIRROR_SECONDS)


def sync_study(name: str | PathLike[str], storage: str | None = None, uri: str | None = None) -> Shown | None:
    """Make a database of Optuna's show a search; repeating it changes nothing.

    Args:
        name: The sweep, as for :func:`find_ledger`.
        storage: Folder of results to look in.
        uri: The database; by default the one that the sweep's file names.

    Returns:
        What it shows; ``None`` where no database is named.

    Raises:
        BnsweepError: If a database is named for a sweep that is no search of Optuna's.
    """
    from bnsweep.search import show_study

    ledger = find_ledger(name, storage)
    plan = ledger.plan()
    if plan.get("method") != "optuna":
        if uri is None:
            return None
        raise BnsweepError(
            f"A study can be shown of a sweep of method optuna, but {ledger.name} is of method "
            f"{plan.get('method')}. Its report shows what it found."
        )
    uri = uri or plan["search"].get("storage")
    return show_study(ledger.root, str(uri)) if uri else None


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


def _refuse_unprepared(wanted: Plan) -> None:
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
    """Say that a tracking store does not answer now; one that never will is an error."""
    from bnsweep.tracking import unreachable
    from bnsweep.tracking.credentials import redacted

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


def _one_of_each(trials: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return one trial of each static signature."""
    kinds: dict[tuple[object, ...], TrialConfig] = {}
    for trial in trials:
        static = ("model", "width", "depth", "features", "dataset", "norm", "groups", "inputs")
        kinds.setdefault(tuple(trial.parameters.get(name) for name in static), trial)
    return list(kinds.values())


def _admit(
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
    found = site.preflight(_one_of_each(kinds), data_folder(spec))
    for note in found.notes:
        tell(f"note: {note}")
    site.check_gpus(resources.gpus, found)
    return found


def _tracking_uri(spec: SweepSpec, folder: Place) -> str | None:
    from bnsweep.tracking import default_uri
    from bnsweep.tracking.uris import absolute_uri

    if spec.tracking == "none":
        return None
    return absolute_uri(spec.tracking) if spec.tracking else default_uri(local_folder(folder))


def text_of(spec: SweepSpec) -> str:
    """Return a spec as the text of a sweep file."""
    from bnsweep.sweep import to_yaml

    return to_yaml(spec.to_dict())


def _stored_plan(spec: SweepSpec, wanted: Plan) -> dict[str, Any]:
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

    return absolute_uri(spec.tracking) if spec.tracking and spec.tracking != "none" else spec.tracking
