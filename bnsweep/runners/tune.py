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
from ray.tune.search import Searcher

from bnsweep.errors import LedgerError

from .barrier import make_barrier
from .cluster import Cluster
from .gpu_types import GpuPlaces
from .joining import prepare_tune, start_ray
from .leftovers import driver_folder, ray_folder
from .messages import Progress, WorkerContext, unit_key
from .source import Source, Unit
from .trainable import PackTrainable

__all__ = ["TuneRunner"]

CHUNK_SECONDS = 20.0
"""Tune hands the actor of a very short trial to the next one and cancels the one still starting, so
that a sweep of short packs ends up on one worker; a Tune trial therefore carries packs for about
this long."""

MAX_LOSSES = 3

LONGEST_PAUSE = 60.0
"""Seconds between two losses of workers in a row and the next try, at most; they double from 1."""

MOST_WORKERS = 1000
"""Most workers that are asked for at once of a cluster that grows."""

Report = Callable[[Progress], None]


class PackSearcher(Searcher):
    """Hands out units of work, and hands out again those whose worker was lost.

    Args:
        source: What is to be done.
        workers: Number of workers that share it.
        supply: Called when units have become ready that workers may be held for.
        halt: Called when nothing more is to be done, before the workers are ended.
        clock: Reads the seconds that pauses are counted in.
        places: What says which type of GPU has room, where units are for one each.

    Attributes:
        broken: What the ledger refused the driver; nothing more is handed out then.
        stepping: Whether Tune is in one of its steps.
        started: Ids of the trials of Tune that are with a worker.
    """

    def __init__(
        self,
        source: Source,
        workers: int,
        supply: Callable[[], None] = lambda: None,
        halt: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        places: GpuPlaces | None = None,
    ) -> None:
        super().__init__(metric="progress", mode="max")
        self.source, self.workers, self.supply, self.halt, self.clock = source, workers, supply, halt, clock
        self.places = places
        self.broken: LedgerError | None = None
        self._lost_in_a_row, self._not_before = 0, 0.0
        self.left: list[Unit] = []
        self.live: dict[str, dict[str, Unit]] = {}
        self.losses: dict[str, list[int]] = {}
        self.steps: dict[str, int] = {}
        self.abandoned: list[Progress] = []
        self.durations: list[float] = []
        self.supplies = 0
        self.stepping = False
        self.started: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the actor's handle where Tune pickles what it was given: Ray keeps a copied handle."""
        return {**self.__dict__, "supply": None, "halt": None}

    @property
    def idle(self) -> bool:
        """Whether nothing is at work and nothing is left."""
        return not self.left and not any(self.live.values())

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next units; ``None`` while a lost one could come back, and in the pause after losses."""
        try:
            self._restock()
        except LedgerError as error:
            self.broken = error
        if self.broken or self.source.given_up:
            self.left.clear()
            return None if self.live else Searcher.FINISHED
        if self.left and self.clock() < self._not_before:
            return None
        if not self.left and not self.source.expecting:
            return None if self.live else Searcher.FINISHED
        where, suited = {}, self.left
        if self.places:
            gpu = self.places.choose(self.left, self.live)
            if gpu is None:
                return None
            self.places.note(trial_id, gpu)
            where, suited = {"gpu": gpu}, self.places.suited(self.left, gpu)
        count = min(self._chunk(), -(-len(suited) // self.workers))
        units = suited[:count]
        self.live[trial_id] = {unit_key(unit): unit for unit in units}
        if suited is self.left:
            self.left = self.left[count:]
        else:
            taken = set(map(id, units))
            self.left = [unit for unit in self.left if id(unit) not in taken]
        return {"units": units, **where} if units else {"units": [], "hold": self.supplies, **where}

    def _restock(self) -> None:
        more = self.source.ready(self.workers)
        self.left += more
        if more:
            self.supplies += 1
            self.supply()
        gone = self.places.unmeasurable(self.left) if self.places and self.source.expecting else []
        for unit in gone:
            self.left.remove(unit)
            self.abandoned.append(self.source.lost(unit, f"no machine with a {unit['gpu']} is left"))
        if gone:
            self._restock()  # packs may have waited for these alone

    def _chunk(self) -> int:
        if not self.durations:
            return 1
        typical = sorted(self.durations)[len(self.durations) // 2]
        return max(1, int(CHUNK_SECONDS / max(typical, 1e-3)))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Forget a finished suggestion; a lost one is dealt with by :meth:`lost`, which knows the cause."""
        if not error:
            self.live.pop(trial_id, None)
            self.started.discard(trial_id)

    def lost(self, trial_id: str, cause: str) -> None:
        """Take back the unfinished units of a lost worker.

        A worker that went down with its machine says nothing about its units. One that ended by itself
        counts against the unit that it was at, the first, where that made no progress since the last time:
        three deaths at one step are the unit's own fault. The more are lost without any progress, the longer
        is the pause before the next is handed out.
        """
        self._lost_in_a_row += 1
        if self.places:
            self.places.forget()
        pause = min(LONGEST_PAUSE, 2.0 ** min(self._lost_in_a_row - 1, 16) - 1.0)
        self._not_before = self.clock() + pause
        self.started.discard(trial_id)
        for position, (key, unit) in enumerate(self.live.pop(trial_id, {}).items()):
            if position == 0 and not _machine_lost(cause):
                deaths = self.losses.setdefault(key, [])
                deaths.append(self.steps.get(key, 0))
                if deaths[-MAX_LOSSES:] == [deaths[-1]] * MAX_LOSSES:
                    reason = f"its worker ended {MAX_LOSSES} times without a word: {cause}"
                    self.abandoned.append(self.source.lost(unit, reason))
                    continue
            self.left.append(unit)
        self._restock()
        self.supplies += 1
        self.supply()  # what was lost may be for those who wait

    def stuck(self) -> bool:
        """Whether nothing is at work, and what was handed out waits for a type of GPU of which none comes.

        It is then taken back, for workers with others.
        """
        waiting = self.live.keys() - self.started
        if not self.places or not waiting or any(map(self.live.get, self.started)):
            return False
        if not self.places.give_up(waiting):
            return False
        for units in self.live.values():
            self.left += units.values()
        self.live.clear()
        self.started.clear()
        return True

    def stands(self, progress: Progress) -> None:
        """Note how far a unit is."""
        if progress.step > self.steps.get(progress.pack_id, 0):
            self._lost_in_a_row = 0
        self.steps[progress.pack_id] = progress.step

    def finished(self, trial_id: str, progress: Progress) -> None:
        """Note that a unit of a suggestion has ended."""
        unit = self.live.get(trial_id, {}).pop(progress.pack_id, None)
        if unit is None:
            return
        self._lost_in_a_row = 0
        if "pack" in unit:
            self.durations.append(progress.seconds)
        expecting = self.source.expecting
        self.source.finished(unit, progress)
        self._restock()
        if expecting and not self.source.expecting:
            self.supplies += 1
            self.supply()  # there may be nothing for those who wait

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger knows what is left.

        Outside its steps Tune calls this when it is done or was stopped: workers in a long step are told
        then, since it waits for them for ten seconds only.
        """
        if not self.stepping:
            self.halt()

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a run always starts from the ledger."""


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
    """Ends a run of Tune in which nothing can happen, so that another is begun."""

    def __init__(self, searcher: PackSearcher) -> None:
        self.searcher, self.stopped = searcher, False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self.stopped = self.stopped or self.searcher.stuck()
        return self.stopped


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
            ServiceError: If Ray does not start or does not answer.
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


def _machine_lost(cause: str) -> bool:
    """Tell whether a worker ended because its machine did, as Ray says it."""
    words = ("node has died", "node was", "node is dead", "preempt", "drain")
    return any(word in cause.lower() for word in words)


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
