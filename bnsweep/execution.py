"""One run of a sweep: opens its packs, lets a runner train them, mirrors meanwhile, reports at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bnsweep.errors import BnsweepError, caused_by_interrupt
from bnsweep.names import DEFAULT_KERNEL
from bnsweep.parameters import CUSTOM_NORM
from bnsweep.positions import Positions
from bnsweep.sweep import Plan, SweepSpec
from bnsweep.sweep.forecast import Measured
from bnsweep.sweep.objectives import Goal
from bnsweep.sweep.packs import device_name
from bnsweep.sweep.places import Place
from bnsweep.sweep.plan import expander, kinds_of_trials
from bnsweep.trial import TrialConfig

if TYPE_CHECKING:
    from bnsweep.analysis import Report
    from bnsweep.runners import GpuType, Preflight, Progress, Site, Source, WorkerContext
    from bnsweep.runners.search_source import SearchSource
    from bnsweep.search import Search, StudyMirrorProcess
    from bnsweep.search.warm_start import Known
    from bnsweep.sweep.continuing import Start
    from bnsweep.sweep.ledger import Ledger
    from bnsweep.tracking import MirrorProcess, Summary

__all__ = [
    "MIRROR_SECONDS",
    "Execution",
    "Outcome",
    "Runner",
    "count_states",
    "data_folder",
    "device_type",
    "measurements",
    "worker_count",
]

MIRROR_SECONDS = 120.0
"""How long the end of a run waits for a tracking store that does not answer."""

STUDY_SECONDS = 15.0
"""How long the end of a run waits for a study's database that does not answer."""

GIVE_UP_AFTER = 20
"""Trials that must fail, before any has come to a result, for a run to be given up."""

STOP_SECONDS = 2.0
"""How long an interrupted run waits for either."""

LEAVE_SECONDS = 60.0
"""How long what an interrupted run has left behind goes on sending; the rest is for the next run, or sync."""


class Runner(Protocol):
    """Trains packs somewhere; see :mod:`bnsweep.runners`."""

    def run(self, source: Source, context: WorkerContext, report: Callable[[Progress], None]) -> bool:
        """Do everything that ``source`` has; return whether all was tried."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        name: The sweep's name.
        root: The ledger's folder.
        states: Trials of the plan by state: ``completed``, ``diverged``, ``failed``, ``pending``.
        started: Trials that this run took up.
        interrupted: Whether it was asked to stop.
        report: The report, if one could be made.
        tracked: What of the sweep the tracking store shows; ``None`` where nothing is tracked.
        tracking_uri: The store, or ``None``.
        seconds: Wall time.
        errors: The last line of each error that made trials fail, with its number of trials.
    """

    name: str
    root: Place
    states: Mapping[str, int]
    started: int
    interrupted: bool
    report: Report | None
    tracked: Summary | None
    tracking_uri: str | None
    seconds: float
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 done, 1 some trials failed, 3 interrupted and resumable."""
        if self.interrupted:
            return 3
        return 1 if self.states.get("failed", 0) or self.states.get("pending", 0) else 0


class Execution:
    """One run of a sweep: its packs, and the errors met on the way.

    Attributes:
        known: What a search that begins now knows already; set it before :meth:`run`.
    """

    known: Known | None = None

    def __init__(
        self,
        spec: SweepSpec,
        wanted: Plan,
        ledger: Ledger,
        runner: Runner | None,
        progress: Callable[[Progress], None],
        tell: Callable[[str], None],
        began: float,
        starts: Mapping[str, Start] | None = None,
        total: int = 0,
        site: Site | None = None,
    ) -> None:
        self.total = total
        self.positions: Positions | None = None
        self.began, self.site = began, site
        self.starts = starts or {}
        self.spec, self.plan, self.ledger = spec, wanted, ledger
        self.runner, self.progress, self.tell = runner, progress, tell
        self.errors: dict[str, int] = {}
        self.device = device_type(spec)
        self._rung: SearchSource | None = None
        self._source: Source | None = None
        self._paused: set[str] = set()
        self._failed, self._good = 0, False
        self._mirror: MirrorProcess | None = None
        self.look: Callable[[Ledger], bool] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mirror's process out: Tune stores its callbacks, and with them the run that they tell."""
        return {**vars(self), "_mirror": None}

    def run(
        self,
        left: Sequence[TrialConfig],
        found: Preflight | None,
        uri: str | None,
        begin: Callable[[int], None],
    ) -> Outcome:
        """Train what is left, mirror it meanwhile, and report.

        A Ctrl-C that the runner does not heed ends it at once: the second one, or one while nothing trains.
        """
        from bnsweep.runners.environment import describe_driver
        from bnsweep.sweep.continuing import prune_states

        finished, made, tracked = found is None, None, None
        study: StudyMirrorProcess | None = None
        suggested = len(self.plan.trials)
        mirror = self._mirror = _start_mirror(self.ledger, uri)
        try:
            if found is not None:
                self.ledger.write_environment(describe_driver())
                self.positions = Positions(self.ledger, self.total)
                source = self.source(left, found)
                study = _show_study(self.spec, self.ledger)  # the events were read, and mended if need be
                begin(len(left))
                finished = self.train(source)
            goes_on = finished and self.look is not None and self.look(self.ledger)
            if finished and not goes_on:
                if self.spec.keep_checkpoints and found is not None:
                    prune_states(self.ledger)
                made = _report(self.ledger, self.tell)
        finally:
            if self.positions is not None:
                self.positions.end("done" if finished and sys.exc_info()[0] is None else "interrupted")
            at_once = sys.exc_info()[0] is KeyboardInterrupt
            if study and at_once:
                study.leave()
            elif study:
                self.tell(str(study.finish(STUDY_SECONDS if finished else STOP_SECONDS)))
            if mirror and at_once:
                mirror.leave()
            elif mirror:
                tracked = mirror.finish(*((MIRROR_SECONDS,) if finished else (LEAVE_SECONDS, STOP_SECONDS)))
        if self.spec.method == "optuna":
            self.plan = self.plan.with_suggestions(self.ledger)
        started = len(left) + len(self.plan.trials) - suggested
        states = count_states(self.ledger, self.plan.trial_ids)
        seconds = time.monotonic() - self.began
        return Outcome(
            self.plan.name, self.ledger.root, states, started, not finished, made, tracked, uri, seconds,
            self.errors,
        )  # fmt: skip

    def source(self, left: Sequence[TrialConfig], found: Preflight, train: bool = True) -> Source:
        """Return what is to be done: packs left open, calibrations (these alone unless ``train``), packs."""
        from bnsweep.runners import PlannedPacks

        stackable = partial(_stackable, found=found)
        if train and (self.spec.method == "optuna" or self.spec.early_stop):
            return self._search(left, stackable)
        measured = measurements(self.spec, self.ledger, stackable)
        return PlannedPacks(
            self.plan, self.ledger, left, self.device, measured, stackable, self.tell, train,
            self.starts if self.spec.keep_checkpoints else None, self._gpu_types(measured, stackable),
        )  # fmt: skip

    def _gpu_types(self, measured: Measured, stackable: Callable[[TrialConfig], bool]) -> list[GpuType]:
        """Return the types of GPU of a cluster that has several, with their calibrations; else none.

        Which types would join a cluster that grows is not known, so that its packs are for any of them.
        """
        from bnsweep.runners import GpuType

        resources = self.spec.resources
        if measured.decided or self.site is None or self.site.grows:
            return []
        workers = self.site.gpu_types(resources.cpus, resources.gpus)
        if len(workers) < 2 or "" in workers:
            return []
        return [
            GpuType(gpu, count, measurements(self.spec, self.ledger, stackable, gpu))
            for gpu, count in sorted(workers.items())
        ]

    def _search(self, left: Sequence[TrialConfig], stackable: Callable[[TrialConfig], bool]) -> Source:
        """Return the conditions of a search, which become known while it runs, or are stopped early."""
        from bnsweep.runners.search_source import PlannedConditions, SearchSource, Suggester

        spec, log = self.spec, self.ledger.search_log
        search: Suggester = (
            PlannedConditions(self.plan, self.ledger.open_packs())
            if spec.method == "random"
            else self._optuna()
        )
        rule = None
        if spec.early_stop:
            from bnsweep.runners.early_stopping import Stopper

            rule = Stopper(spec, log, min(int(kind.parameters["steps"]) for kind in kinds_of_trials(spec)))
        ended = {trial_id for one in search.open for trial_id in one.trial_ids}
        retry = [(trial, self.plan.label_of[trial.trial_id]) for trial in left if trial.trial_id not in ended]
        self._rung = SearchSource(
            search, self.ledger, self.device, spec.resources.kernel or DEFAULT_KERNEL, stackable, rule,
            Goal.of(spec).to_dict(), retry if spec.method == "optuna" else (),
        )  # fmt: skip
        return self._rung

    def _optuna(self) -> Search:
        from bnsweep.search import Search

        return Search(self.spec, self.ledger.search_log, expander(self.spec), self.known)

    def train(self, source: Source) -> bool:
        """Let the runner do what there is to do; return whether all was tried."""
        from bnsweep.runners import WorkerContext

        context = WorkerContext(
            ledger=str(self.ledger.root.resolve()),
            data_root=data_folder(self.spec),
            threads=max(1, int(self.spec.resources.cpus)),
            import_path=os.getcwd(),
            neighbours=worker_count(self.spec, self.site),
            keep_states=self.spec.keep_checkpoints,
            save_weights=self.spec.save_weights == "final",
            step_limit=self.spec.resources.step_limit,
            epoch=self.ledger.epoch,
        )
        runner = self.runner or _tune_runner(self.spec)
        self._source = source
        return runner.run(source, context, self._watch)

    def _watch(self, progress: Progress) -> None:
        if self.positions is not None:
            self.positions.update(progress)
        for sentence in self._mirror.news() if self._mirror else ():
            self.tell(sentence)
        if progress.value is not None and self._rung is not None:
            self._rung.rung(progress)
        if progress.note:
            self.tell(f"note: {progress.note}")
        if progress.error:
            self.errors[progress.error] = self.errors.get(progress.error, 0) + progress.members
        self._note_pause(progress)
        self._count(progress.states)
        self.progress(progress)

    def _note_pause(self, progress: Progress) -> None:
        """Say once when the storage begins to refuse what workers write, and once when it takes it again."""
        before = bool(self._paused)
        if not progress.paused:
            self._paused.discard(progress.pack_id)
        elif not before:
            self.tell(f"paused: {progress.paused} The run goes on by itself when the storage takes it.")
        if progress.paused:
            self._paused.add(progress.pack_id)
        elif before and not self._paused:
            self.tell("the storage takes what is written again: going on")

    def _count(self, states: Mapping[str, int]) -> None:
        """Give up where the first trials that ended have all failed: so will the rest."""
        self._failed += states.get("failed", 0)
        self._good = self._good or any(count for state, count in states.items() if state != "failed")
        if not self._good and self._failed >= GIVE_UP_AFTER and self._source and not self._source.given_up:
            common = max(self.errors, key=lambda error: self.errors[error], default="unknown")
            self._source.given_up = common
            self.tell(
                f"given up: the first {self._failed} trials to end have all failed, most with: {common}. "
                "Mend the cause, then run again with --retry-failed."
            )


def data_folder(spec: SweepSpec) -> str | None:
    """Return where data sets lie as an absolute path, which holds on every worker of this machine."""
    root = spec.data_root or os.environ.get("BNSWEEP_DATA")
    return str(Path(root).expanduser().resolve()) if root else None


def device_type(spec: SweepSpec) -> str:
    """Return the type of device that packs are made for."""
    resources = spec.resources
    automatic = "cuda" if resources.gpus > 0 else "cpu"
    return automatic if resources.device == "auto" else resources.device


def worker_count(spec: SweepSpec, site: Site | None = None) -> int:
    """Return how many workers of a sweep share a machine: this one, or the largest of a cluster."""
    from bnsweep.runners import Machine

    resources = spec.resources
    slots = (site or Machine()).neighbours(resources.cpus, resources.gpus)
    return min(slots, resources.max_concurrent or slots)


def measurements(
    spec: SweepSpec,
    ledger: Ledger | None,
    stackable: Callable[[TrialConfig], bool] = lambda _: True,
    gpu: str = "",
) -> Measured:
    """Return what is known of a sweep's signatures on its type of device, with what its file decides."""
    device, resources = device_name(device_type(spec), gpu), spec.resources
    kept = {"state_bytes": spec.keep_checkpoints, "weight_bytes": spec.save_weights == "final"}
    return Measured(
        lambda signature: ledger.calibration(signature, device) if ledger else None,
        pack_size=resources.pack_size,
        kernel=resources.kernel,
        stackable=stackable,
        kept=[name for name, wanted in kept.items() if wanted],
    )


def _stackable(trial: TrialConfig, found: Preflight) -> bool:
    norm = str(trial.parameters["norm"])
    return not CUSTOM_NORM.fullmatch(norm) or found.stacks.get(norm, False)


def _tune_runner(spec: SweepSpec) -> Runner:
    from bnsweep.runners.tune import TuneRunner

    resources = spec.resources
    return TuneRunner(resources.cpus, resources.gpus, resources.max_concurrent)


def _start_mirror(ledger: Ledger, uri: str | None) -> MirrorProcess | None:
    from bnsweep.tracking import start_mirror

    return start_mirror(ledger.root, uri) if uri else None


def _show_study(spec: SweepSpec, ledger: Ledger) -> StudyMirrorProcess | None:
    """Start what shows a search in the database that its file names."""
    from bnsweep.search import StudyMirrorProcess

    uri = spec.search.get("storage")
    return StudyMirrorProcess(ledger.root, str(uri)) if uri else None


def _report(ledger: Ledger, tell: Callable[[str], None]) -> Report | None:
    from bnsweep.analysis import make_report
    from bnsweep.search import weigh

    try:
        return make_report(ledger, weigh=weigh)
    except BnsweepError as error:
        tell(f"no report: {error}")
        return None
    except Exception as error:
        if caused_by_interrupt(error):
            raise KeyboardInterrupt from error
        raise


def count_states(ledger: Ledger, trial_ids: Sequence[str]) -> dict[str, int]:
    """Count trials by state: completed, diverged, stopped, failed, pending."""
    states: dict[str, int] = {}
    with ledger.one_look():
        failed = ledger.failed()
        found = {record.trial_id: record.state.value for record in ledger.records(trial_ids)}
    for trial_id in trial_ids:
        state = found.get(trial_id) or ("failed" if trial_id in failed else "pending")
        states[state] = states.get(state, 0) + 1
    return states
