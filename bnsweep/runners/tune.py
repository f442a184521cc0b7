"""Runs packs on Ray Tune: placement, worker life cycle and lost processes are Tune's business.

Tune is used for placement, not for memory. A fresh :class:`ray.tune.Tuner` gets its packs from
:class:`PackSearcher`; which packs are left is the ledger's knowledge, and tables travel through the
ledger, so a suggestion is a list of pack ids and a result a handful of numbers.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from bnsweep.errors import BnsweepError, ServiceError
from bnsweep.sweep.ledger import Ledger

from .work import PackWorker, Progress, WorkerContext, abandon_pack

__all__ = ["TuneRunner"]

STEP_SECONDS = 2.0
"""Wall time of one step of the worker: short enough that a stop reaches it before Tune kills it."""

CHUNK_SECONDS = 20.0
"""Tune hands the actor of a very short trial to the next one and cancels the one still starting, so
that a sweep of short packs ends up on one worker; a Tune trial therefore carries packs for about
this long."""

BARRIER_SECONDS = 60.0
MAX_LOSSES = 3

Report = Callable[[Progress], None]


class _Barrier:
    """Counts the workers that have called in, so that none finishes before all have started."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def call_in(self, pid: int) -> int:
        self.seen.add(pid)
        return len(self.seen)


class _PackTrainable(tune.Trainable):
    """Trains the packs of one suggestion, one after another; long-lived, reused by Tune."""

    def setup(
        self,
        config: dict[str, Any],
        context: WorkerContext | None = None,
        barrier: Any = None,
        workers: int = 1,
    ) -> None:
        """Open the ledger; called once in a worker's life."""
        assert context is not None
        self._worker = PackWorker(context)
        self._queue = list(config["packs"])
        self._barrier, self._workers = barrier, workers

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the packs of the next suggestion without starting a new process."""
        self._queue = list(new_config["packs"])
        return True

    def step(self) -> dict[str, Any]:
        """Train for about two seconds and say where this worker stands."""
        self._wait_for_the_others()
        deadline = time.monotonic() + STEP_SECONDS
        results: list[dict[str, Any]] = []
        while (self._worker.busy or self._queue) and time.monotonic() < deadline:
            if not self._worker.busy:
                self._worker.open(self._queue.pop(0))
            progress = self._worker.advance(deadline)
            results.append(progress.to_dict())
        return {"progress": results, "done": not self._worker.busy and not self._queue}

    def _wait_for_the_others(self) -> None:
        if self._barrier is None:
            return
        barrier, self._barrier = self._barrier, None
        deadline = time.monotonic() + BARRIER_SECONDS
        while ray.get(barrier.call_in.remote(os.getpid())) < self._workers and time.monotonic() < deadline:
            time.sleep(0.1)

    def cleanup(self) -> None:
        """Checkpoint what is under way, so that the next run goes on from here."""
        self._worker.suspend()


class PackSearcher(Searcher):
    """Hands out packs, and hands out again those whose worker was lost.

    Args:
        packs: Ids of the packs that are left, in order.
        workers: Number of workers that share them.
    """

    def __init__(self, packs: Sequence[str], workers: int) -> None:
        super().__init__(metric="progress", mode="max")
        self.left = list(packs)
        self.live: dict[str, list[str]] = {}
        self.losses: dict[str, int] = {}
        self.given_up: list[str] = []
        self.cause = "unknown"
        self.workers = workers
        self.durations: list[float] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next packs, ``None`` while a lost one could still come back."""
        if not self.left:
            return None if self.live else Searcher.FINISHED
        count = min(self._chunk(), -(-len(self.left) // self.workers))
        packs, self.left = self.left[:count], self.left[count:]
        self.live[trial_id] = packs
        return {"packs": packs}

    def _chunk(self) -> int:
        if not self.durations:
            return 1
        typical = sorted(self.durations)[len(self.durations) // 2]
        return max(1, int(CHUNK_SECONDS / max(typical, 1e-3)))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Forget a finished suggestion; take back the unfinished packs of a lost worker."""
        packs = self.live.pop(trial_id, [])
        if not error:
            return
        for pack in packs:
            self.losses[pack] = self.losses.get(pack, 0) + 1
            if self.losses[pack] < MAX_LOSSES:
                self.left.append(pack)
            else:
                self.given_up.append(pack)

    def finished(self, trial_id: str, pack: str, seconds: float) -> None:
        """Note that a pack of a suggestion is in the ledger."""
        self.durations.append(seconds)
        if pack in self.live.get(trial_id, []):
            self.live[trial_id].remove(pack)

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger knows what is left."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a run always starts from the ledger."""


class _Watch(tune.Callback):
    """Passes the workers' progress on; never raises, since an exception would end the sweep."""

    def __init__(self, searcher: PackSearcher, report: Report) -> None:
        self.searcher, self.report = searcher, report

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        try:
            for content in result.get("progress", ()):
                progress = Progress(**content)
                if progress.finished:
                    self.searcher.finished(trial.trial_id, progress.pack_id, progress.seconds)
                self.report(progress)
        except Exception:
            logging.getLogger(__name__).exception("progress could not be shown")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keep the last line of why a worker was lost."""
        try:
            lines = str(trial.get_error()).strip().splitlines()
            self.searcher.cause = lines[0] if lines else "unknown"
        except Exception:
            logging.getLogger(__name__).exception("the cause of a lost worker could not be read")


class TuneRunner:
    """Runs packs on a Ray cluster, or on a Ray started here for the time of the sweep.

    Args:
        cpus: CPUs of one worker.
        gpus: GPUs of one worker; a fraction shares a device.
        max_concurrent: Most workers at once; by default as many as there are slots.
        address: Address of a running cluster; ``None`` starts Ray on this machine.
    """

    def __init__(
        self, cpus: float = 1, gpus: float = 0, max_concurrent: int | None = None, address: str | None = None
    ) -> None:
        self.cpus, self.gpus = cpus, gpus
        self.max_concurrent = max_concurrent
        self.address = address
        self.trainable: type[tune.Trainable] = _PackTrainable

    def run(self, packs: Sequence[str], context: WorkerContext, report: Report) -> bool:
        """Train every pack.

        Args:
            packs: Ids of packs that stand in the ledger.
            context: What the workers have to know.
            report: Called with every progress of every worker, in the driver.

        Returns:
            Whether all packs were tried; ``False`` after a stop.

        Raises:
            BnsweepError: If one worker needs more than the cluster has.
            ServiceError: If Ray does not start or does not answer.
        """
        with _ray(self.address), tempfile.TemporaryDirectory(prefix="bnsweep-tune-") as folder:
            workers = min(self._slots(), len(packs))
            searcher = PackSearcher(packs, workers)
            self._fit(searcher, context, report, workers, folder)
            for pack in searcher.given_up:
                reason = f"its worker ended {MAX_LOSSES} times without a word: {searcher.cause}"
                report(abandon_pack(Ledger(context.ledger), pack, reason))
            return not searcher.left and not searcher.live

    def _slots(self) -> int:
        """Count the workers that fit, before anything waits for a place that cannot come."""
        have = ray.cluster_resources()
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        for name, need in needs.items():
            if need > have.get(name, 0):
                raise BnsweepError(
                    f"resources.{name.lower()}s must be <= {have.get(name, 0):g}, the {name}s of this Ray "
                    f"cluster, but found {need:g}; ask for less, or use a larger cluster"
                )
        slots = min(int(have.get(name, 0) / need) for name, need in needs.items() if need)
        return min(slots, self.max_concurrent) if self.max_concurrent else slots

    def _fit(
        self, searcher: PackSearcher, context: WorkerContext, report: Report, workers: int, folder: str
    ) -> None:
        barrier = ray.remote(num_cpus=0)(_Barrier).remote()
        trainable = tune.with_resources(
            tune.with_parameters(self.trainable, context=context, barrier=barrier, workers=workers),
            {"cpu": self.cpus, "gpu": self.gpus},
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, max_concurrent_trials=workers, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="packs",
                storage_path=folder,
                callbacks=[_Watch(searcher, report)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        tuner.fit()


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Connect to Ray, or start it for a while; quiet, and without what Tune would write for itself."""
    for name, value in {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_DEDUP_LOGS": "0",
    }.items():
        os.environ.setdefault(name, value)
    started = not ray.is_initialized()
    if started:
        with _own_sigterm():
            _start(address)
    quiet = logging.getLogger("ray.tune")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # a lost worker is handed out again, and its end is reported by us
    try:
        yield
    finally:
        quiet.setLevel(level)
        if started:
            ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the driver's handler of SIGTERM, which starting Ray replaces by one that ends the process."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _start(address: str | None, attempts: int = 3) -> None:
    """Start Ray, again where a busy machine was slow: Ray gives its own processes 30 s."""
    for attempt in range(1, attempts + 1):
        try:
            ray.init(
                address=address or "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == attempts or "timed out during startup" not in str(error):
                where = address or "this machine"
                raise ServiceError(f"Ray must start on {where}, but it said: {error}") from error
