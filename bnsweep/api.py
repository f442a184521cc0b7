"""The verbs as functions: where loading, planning, running, tracking and reporting are joined.

The command line and a notebook call the same. There is one operation behind run, resume and extend:
*make the ledger match the plan*.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING

from bnsweep.errors import BnsweepError
from bnsweep.execution import (
    MIRROR_SECONDS,
    Execution,
    Outcome,
    Runner,
    device_type,
    measurements,
    worker_count,
)
from bnsweep.lookup import Source, find_ledger, known_ledger, load, storage_folder
from bnsweep.matching import (
    HERE,
    Wishes,
    admit,
    match,
    match_in_looks,
    refuse_unprepared,
    stored_plan,
    text_of,
)
from bnsweep.standing import Status, read_status
from bnsweep.sweep import Plan, make_plan
from bnsweep.sweep.places import Place, local_folder
from bnsweep.where import Where

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from bnsweep.analysis import Report
    from bnsweep.runners import Progress
    from bnsweep.search import Shown
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
    "storage_folder",
    "sync",
    "sync_study",
    "tracking_uri",
]


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
        no figures. :func:`calibrate` makes them, and so does every run on one type of device.
    """
    spec = load(source)
    wanted = make_plan(spec)
    ledger = known_ledger(spec, storage)
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
    refuse_unprepared(wanted)
    site = Machine()
    place = storage_folder(spec, storage) / spec.name
    found = admit(spec, wanted.trials, site, place, None, lambda _: None)
    ledger = Ledger.open(storage_folder(spec, storage), spec.name, create=True)
    with ledger.exclusive():
        ledger.write_sweep(spec.text or text_of(spec), stored_plan(spec, wanted))
        tell = say or (lambda _: None)
        execution = Execution(spec, wanted, ledger, runner, lambda _: None, tell, time.monotonic())
        execution.train(execution.source(wanted.trials, found, train=False))


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
    refuse_unprepared(wanted)
    wishes = Wishes.of(
        progress, say, begin, runner=runner, storage=storage, root=root, retry_failed=retry_failed,
        accept_changes=accept_changes, where=where,
    )  # fmt: skip
    return match_in_looks(spec, wanted, wishes)


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
    refuse_unprepared(wanted)
    wishes = Wishes.of(
        progress, say, begin, runner=runner, storage=storage, root=ledger.root, retry_failed=retry_failed,
        accept_changes=accept_changes, where=where,
    )  # fmt: skip
    return match_in_looks(spec, wanted, wishes)


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
    wishes = Wishes.of(
        progress, say, begin, runner=runner, storage=str(ledger.root.parent), retry_failed=retry_failed,
        accept_changes=accept_changes, where=where,
    )  # fmt: skip
    return match(spec, wanted, wishes)


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
