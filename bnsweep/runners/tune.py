"""Runs packs on Ray Tune: placement, worker life cycle and lost processes are Tune's business.

Tune is used for placement, not for memory. A fresh :class:`ray.tune.Tuner` gets its packs from
:class:`PackSearcher`; which packs are left is the ledger's knowledge, and tables travel through the
ledger, so a suggestion is a list of pack ids or calibrations, and a result a handful of numbers.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune

from bnsweep.errors import LedgerError, ServiceError

from .barrier import make_barrier
from .cluster import Cluster
from .gpu_types import GpuPlaces
from .joining import prepare_tune, start_ray
from .leftovers import driver_folder, ray_folder
from .messages import Progress, WorkerContext
from .searcher import PackSearcher
from .source import Source
from .trainable import PackTrainable

__all__ = ["TuneRunner"]

MOST_WORKERS = 1000
"""Most workers that are asked for at once of a cluster that grows."""

LOOK_AGAIN_SECONDS = 10.0
"""How often the driver looks whether its own machine is still part of the cluster."""

Report = Callable[[Progress], None]


class _Watch(tune.Callback):
    """Passes the workers' progress on; never raises, since an exception would end the sweep."""

    def __init__(self, searcher: PackSearcher, report: Report) -> None:
        self.searcher, self.report = searcher, report

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Note that a step of Tune begins."""
        self.searcher.stepping = True

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Note that it has ended."""
        self.searcher.stepping = False
        try:
            self._tell_abandoned()
        except Exception:
            logging.getLogger(__name__).exception("progress could not be shown")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a suggestion has come to a worker."""
        if trial.trial_id in self.searcher.live:
            self.searcher.started.add(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        try:
            for content in result.get("progress", ()):
                progress = Progress(**content)
                self.searcher.stands(progress)
                if progress.finished:
                    self.searcher.finished(trial.trial_id, progress)
                self.report(progress)
            self._tell_abandoned()
        except LedgerError as error:
            self.searcher.broken = error
        except Exception:
            logging.getLogger(__name__).exception("progress could not be shown")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Hand out again what a lost worker had."""
        try:
            lines = str(trial.get_error()).strip().splitlines()
            self.searcher.lost(trial.trial_id, " ".join(lines[:3]) if lines else "unknown")
            self._tell_abandoned()
        except LedgerError as error:
            self.searcher.broken = error
        except Exception:
            logging.getLogger(__name__).exception("the units of a lost worker could not be handed out again")

    def _tell_abandoned(self) -> None:
        while self.searcher.abandoned:
            self.report(self.searcher.abandoned.pop(0))


class _UntilStuck(tune.Stopper):
    """Ends a run of Tune in which nothing can happen, so that another is begun, or the sweep ends.

    A driver whose own raylet has died, the rest of the cluster being well, may be ended by Ray or not:
    where it is not, all its workers are, and it waits for new ones for ever.
    """

    def __init__(self, searcher: PackSearcher) -> None:
        self.searcher, self.stopped, self.left = searcher, False, False
        self._next_look = time.monotonic() + LOOK_AGAIN_SECONDS

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self.stopped = self.stopped or self.searcher.stuck()
        if time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + LOOK_AGAIN_SECONDS
            with suppress(Exception):  # a control service that is slow; Ray ends who has lost it
                self.left = self.left or not Cluster().has_this_machine
        return self.stopped or self.left


class TuneRunner:
    """Runs packs on the Ray that this process has joined, or on one started here for the time of the sweep.

    Args:
        cpus: CPUs of one worker.
        gpus: GPUs of one worker; a fraction shares a device.
        max_concurrent: Most workers at once; by default as many as there are slots.
    """

    def __init__(
        self,
        cpus: float = 1,
        gpus: float = 0,
        max_concurrent: int | None = None,
    ) -> None:
        self.cpus, self.gpus = cpus, gpus
        self.max_concurrent = max_concurrent
        self.trainable: type[tune.Trainable] = PackTrainable

    def run(self, source: Source, context: WorkerContext, report: Report) -> bool:
        """Do everything that ``source`` has.

        Args:
            source: What is to be done; its packs stand in the ledger.
            context: What the workers have to know.
            report: Called with every progress of every worker, in the driver.

        Returns:
            Whether all was tried; ``False`` after a stop.

        Raises:
            BnsweepError: If one worker needs more than the cluster has.
            ServiceError: If Ray does not start or does not answer, or the driver's machine has left it.
        """
        with driver_folder() as folder, _ray(folder):
            try:
                broken, idle = self._do(source, context, report, str(folder))
            finally:
                gc.collect()  # a handle of an actor that outlives the end of Ray leaves a socket here
        if broken:
            raise broken
        return idle

    def _do(
        self, source: Source, context: WorkerContext, report: Report, folder: str
    ) -> tuple[LedgerError | None, bool]:
        slots, most = self._slots()
        places = GpuPlaces(self._gpu_types, time.monotonic) if source.by_gpu else None
        workers = min(most, source.width)
        searcher = PackSearcher(source, workers, places=places)
        while self._fit(searcher, context, report, folder, min(slots, workers)):
            pass  # what waits for machines that do not come is handed out anew
        return searcher.broken, searcher.idle

    def _slots(self) -> tuple[int, int]:
        """Count the workers that fit now, and those that may be asked for, before anything waits for a place.

        Where machines can join, as many are asked for as there may be: what waits for a place is what an
        autoscaler goes by.
        """
        cluster = Cluster()
        cluster.check_place(self.cpus, self.gpus)
        slots = cluster.slots(self.cpus, self.gpus)
        if cluster.grows:
            return slots, self.max_concurrent or MOST_WORKERS
        most = min(slots, self.max_concurrent) if self.max_concurrent else slots
        return most, most

    def _gpu_types(self) -> dict[str, int]:
        found = Cluster().gpu_types(self.cpus, self.gpus)
        return {gpu: count for gpu, count in found.items() if gpu}

    def _resources(self, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Ask for a worker's place on a machine with the type of GPU that its units are for."""
        place = {"CPU": self.cpus, "GPU": self.gpus, f"accelerator_type:{config['gpu']}": 0.001}
        return tune.PlacementGroupFactory([place])

    def _fit(
        self, searcher: PackSearcher, context: WorkerContext, report: Report, folder: str, present: int
    ) -> bool:
        """Run Tune until nothing is left, or nothing can happen; return whether it is to be run again."""
        workers, stopper = searcher.workers, _UntilStuck(searcher)
        barrier, name = make_barrier(workers)
        searcher.supply, searcher.halt = barrier.supply.remote, barrier.halt.remote
        trainable = tune.with_resources(
            _bound(self.trainable, context=context, barrier=name, workers=present),
            self._resources if searcher.places else {"cpu": self.cpus, "gpu": self.gpus},
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, max_concurrent_trials=workers, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=folder,
                callbacks=[_Watch(searcher, report)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                stop=stopper,
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            with suppress(Exception):  # Ray itself may be gone
                ray.kill(barrier)  # one that is only let go of leaves a socket here
        if stopper.left:
            raise ServiceError(
                "The driver's machine must be part of the cluster to the end, but Ray has died there; see "
                "ray status. Start Ray on it again, and resume."
            )
        return stopper.stopped


def _bound(trainable: type[tune.Trainable], **parameters: Any) -> type[tune.Trainable]:
    """Return a trainable whose ``setup`` is given ``parameters``.

    What ``tune.with_parameters`` is given stays in this process and in Ray's object store for good, held by
    a hook of Ray.
    """

    class Bound(trainable):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config, **parameters)

    Bound.__name__ = trainable.__name__
    return Bound


@contextmanager
def _ray(folder: Path) -> Iterator[None]:
    """Use the Ray that was joined, or start one for a while, which only this process may use; quietly."""
    prepare_tune()
    quiet = logging.getLogger("ray.tune")
    level = quiet.level
    with ExitStack() as stack:
        if not ray.is_initialized():
            start_ray(ray_folder(folder))
            stack.callback(ray.shutdown)
        quiet.setLevel(logging.CRITICAL)  # a lost worker is handed out again, and its end is reported by us
        stack.callback(quiet.setLevel, level)
        yield
