"""Episodes: a sweep is started, something is killed at a random moment, and it is run again until done."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos import journal
from benchmarks.chaos.cluster import Cluster, TrackingServer
from benchmarks.chaos.judge import Verdict, judge
from benchmarks.chaos.processes import MARK, Run, Server, kill, marked
from benchmarks.chaos.sweeps import sweep

__all__ = ["KINDS", "SHARES", "Chaos", "Tally"]

SHARES = {"driver": 54, "ray-driver": 10, "worker": 14, "raylet": 6, "node": 6, "mlflow": 6, "all": 4}
"""Kill points of each kind, of a hundred: a driver without Ray is started again in seconds."""

KINDS = tuple(SHARES)

SWEPT = {
    "driver": ("grid", "optuna", "asha", "tpe-asha"),
    "ray-driver": ("grid", "optuna", "asha"),
    "worker": ("grid", "optuna", "asha"),
    "raylet": ("grid", "optuna"),
    "node": ("grid", "optuna"),
    "mlflow": ("grid",),
    "all": ("grid", "optuna"),
}

MOST_KILLS = {"driver": 6, "ray-driver": 3, "worker": 4, "raylet": 2, "node": 2, "mlflow": 2, "all": 1}
"""Kills in one episode."""

ATTEMPTS = 6
"""Times that a sweep is run again without being disturbed before it counts as one that never ends."""


@dataclass
class Tally:
    """What came of the kills of one kind."""

    kills: int = 0
    sweeps: int = 0
    verdict: Verdict = field(default_factory=Verdict)

    def add(self, other: Tally) -> None:
        """Count another tally in."""
        self.kills += other.kills
        self.sweeps += other.sweeps
        self.judged(other.verdict)

    def judged(self, found: Verdict) -> None:
        """Count a verdict in."""
        own = self.verdict
        own.repeated += found.repeated
        own.lost += found.lost
        own.longest = max(own.longest, found.longest)
        own.duplicates += found.duplicates
        own.zombies += found.zombies
        own.mismatches += found.mismatches

    @property
    def wrong(self) -> bool:
        """Whether anything was not as it must be."""
        return bool(self.verdict.duplicates or self.verdict.zombies or self.verdict.mismatches)


@dataclass
class Episode:
    """One sweep that is disturbed."""

    kind: str
    swept: str
    root: Path
    file: Path
    run: Run | None = None

    @property
    def journal(self) -> Path:
        """Where its training code writes what it did."""
        return self.root.with_suffix(".journal")


class Chaos:
    """Kills and judges.

    Args:
        folder: Where everything lies.
        seed: What decides when what is killed.
        interval: Seconds between two checkpoints of a pack.
        nodes: Nodes of the Ray cluster beside its head, one or two.
    """

    def __init__(self, folder: Path, seed: int, interval: float, nodes: int = 2) -> None:
        self.folder, self.interval = folder, interval
        folder.mkdir(parents=True, exist_ok=True)
        self.random = random.Random(seed)
        self.mark = f"chaos{os.getpid()}"
        self.cluster = Cluster(f"{self.mark}-ray", nodes)
        self.server = Server({}, folder / "server.log")
        self.references: dict[tuple[str, bool], Path] = {}
        self._number = itertools.count(1)
        self._tracking: TrackingServer | None = None

    def close(self) -> None:
        """End everything that was started."""
        self.server.close()
        self.cluster.stop()
        if self._tracking:
            self._tracking.kill()
        kill(marked(self.mark))

    # -- episodes --------------------------------------------------------------------------------

    def run(self, kind: str, points: int, say: Callable[[str], None], most: int | None = None) -> Tally:
        """Run episodes until something was killed ``points`` times, in one at most ``most`` times."""
        most = most or MOST_KILLS[kind]
        tally, turns = Tally(), itertools.cycle(SWEPT[kind])
        idle = 0
        while tally.kills < points and idle < 20:
            kills, found = self._episode(kind, next(turns), min(points - tally.kills, most))
            idle = 0 if kills else idle + 1
            tally.add(Tally(kills, 1, found))
            so_far = tally.verdict
            say(
                f"  {kind}: {tally.kills} of {points}; so far {so_far.lost:.2f} s lost, {so_far.duplicates} "
                f"duplicates, {so_far.zombies} zombies, {len(so_far.mismatches)} mismatches"
                + "".join(f"\n    {text}" for text in found.mismatches)
            )
        return tally

    def _episode(self, kind: str, swept: str, most: int) -> tuple[int, Verdict]:
        on_ray = kind not in ("driver", "mlflow")
        if on_ray and not self.cluster.address:
            self.cluster.start()
        reference = self._reference(swept, on_ray)
        episode = self._new(kind, swept, on_ray)
        size = reference.with_suffix(".journal").stat().st_size
        kills = 0
        self._start(episode)
        while kills < most and self._moment(episode, size):
            kills += self._strike(episode)
            assert episode.run is not None
            if episode.run.code is not None or kind in ("driver", "ray-driver", "all"):
                episode.run.wait(180)
                self._start(episode)
        self._finish(episode)
        exact = not (on_ray and swept == "asha")
        found = judge(episode.root, reference, self.interval, exact=exact, ordered=not on_ray)
        found.zombies += self._left(episode)
        return kills, found

    def _new(self, kind: str, swept: str, on_ray: bool) -> Episode:
        from bnsweep.sweep import to_yaml

        storage = self.folder / f"{next(self._number):03d}-{kind}"
        storage.mkdir()
        uri = None
        if kind in ("mlflow", "all"):
            if self._tracking:
                self._tracking.kill()
            self._tracking = TrackingServer(storage, f"{self.mark}-mlflow")
            self._tracking.start()
            uri = self._tracking.url
        file = storage / f"{swept}.yaml"
        file.write_text(to_yaml(sweep(swept, uri)))
        return Episode(kind, swept, storage / swept, file)

    def _reference(self, swept: str, on_ray: bool) -> Path:
        """Run a sweep once without a disturbance; its packs depend on the number of workers."""
        if (swept, on_ray) not in self.references:
            episode = self._new("reference-ray" if on_ray else "reference", swept, on_ray)
            if swept == "asha" and on_ray:  # every loss of every step is wanted
                text = episode.file.read_text()
                episode.file.write_text(text.replace("min_steps: 20", "min_steps: 119"))
            self._start(episode, on_ray)
            self._finish(episode, on_ray)
            self.references[swept, on_ray] = episode.root
        return self.references[swept, on_ray]

    def _start(self, episode: Episode, on_ray: bool | None = None) -> None:
        on_ray = episode.kind not in ("driver", "mlflow") if on_ray is None else on_ray
        environment = {MARK: self.mark, journal.VARIABLE: str(episode.journal)}
        if on_ray:
            environment |= self.cluster.environment
        episode.run = self.server.start(
            episode.root.with_suffix(".log"), environment, file=str(episode.file),
            storage=str(episode.root.parent), ray=self.cluster.address if on_ray else "none",
            seconds=self.interval,
        )  # fmt: skip

    def _finish(self, episode: Episode, on_ray: bool | None = None) -> None:
        """Run the sweep until it says that all is done and shown in MLflow."""
        log = episode.root.with_suffix(".log")
        for _ in range(ATTEMPTS):
            assert episode.run is not None
            code = episode.run.wait(400)
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            if code == 0 and last and "trials are in MLflow" in last[0]:
                return
            if code is None:
                kill([episode.run.pid])
                episode.run.wait(60)
            self._start(episode, on_ray)
        raise SystemExit(f"{episode.root} does not come to an end; see {log}")

    def _left(self, episode: Episode, patience: float = 30.0) -> int:
        """Count the processes of runs that are still there, once they have had time to end."""
        own = {self.server.pid}
        end = time.monotonic() + patience
        while (left := set(marked(self.mark)) - own) and time.monotonic() < end:
            time.sleep(0.2)
        return len(left)

    # -- moments ---------------------------------------------------------------------------------

    def _moment(self, episode: Episode, size: int) -> bool:
        """Wait for a random moment of a run; ``size`` is a whole journal's. ``False`` if it ended before."""
        draw = self.random.random()
        if draw < 0.2:
            end = time.monotonic() + self.random.uniform(0.0, 3.0)
            due = lambda: time.monotonic() >= end  # noqa: E731
        elif draw < 0.3:
            records = self._records(episode) + self.random.randrange(1, 6)
            due = lambda: self._records(episode) >= records  # noqa: E731
        else:
            length = self._length(episode) + self.random.randrange(size // 3)
            due = lambda: self._length(episode) > length  # noqa: E731
        assert episode.run is not None
        while not due():
            if episode.run.code is not None:
                return False
            time.sleep(0.002)
        time.sleep(self.random.uniform(0.0, 0.05))
        return episode.run.code is None

    def _length(self, episode: Episode) -> int:
        with suppress(FileNotFoundError):
            return episode.journal.stat().st_size
        return 0

    def _records(self, episode: Episode) -> int:
        return sum(1 for _ in (episode.root / "trials").glob("*/record.json"))

    # -- kills -----------------------------------------------------------------------------------

    def _strike(self, episode: Episode) -> int:
        """Kill something; returns 1, or 0 where it was not there."""
        assert episode.run is not None
        if episode.kind in ("driver", "ray-driver"):
            return kill([episode.run.pid])
        if episode.kind == "worker":
            return self._kill_worker(episode)
        if episode.kind == "mlflow":
            assert self._tracking is not None
            found = self._tracking.kill()
            time.sleep(self.random.uniform(0.0, 3.0))
            self._tracking.start()
            return min(1, found)
        if episode.kind == "all":
            return self._kill_everything(episode)
        return self._kill_node(episode)

    def _kill_worker(self, episode: Episode) -> int:
        for entry in reversed(journal.read(episode.journal)):
            if Path(f"/proc/{entry.pid}").exists():
                return kill([entry.pid])
        return 0

    def _kill_node(self, episode: Episode) -> int:
        """Kill a node or its raylet, the head's among them; another node comes some time after."""
        assert episode.run is not None
        if episode.kind == "raylet" and self.random.random() < 0.25:
            killed = self.cluster.kill_raylet(self.cluster.head)
            episode.run.wait(150)
            kill([episode.run.pid])
            self.cluster.start()
            return min(1, killed)
        name = self.random.choice(self.cluster.nodes)
        killed = (self.cluster.kill_node if episode.kind == "node" else self.cluster.kill_raylet)(name)
        time.sleep(self.random.uniform(0.0, 4.0))
        self.cluster.add()
        return min(1, killed)

    def _kill_everything(self, episode: Episode) -> int:
        assert episode.run is not None and self._tracking is not None
        kill([episode.run.pid])
        self._tracking.kill()
        self.cluster.stop()
        kill(set(marked(self.mark)) - {self.server.pid})
        self.cluster.start()
        self._tracking.start()
        return 1
