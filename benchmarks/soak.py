"""What grows in an hour of small sweeps with random kills: ``python -m benchmarks.soak --minutes 60``.

One process is the driver of sweep after sweep, here and on Ray; beside it other drivers are killed at
random moments and their sweeps run again to the end. After every round it is counted what is left:
processes, open files of the driver, temporary files, shared memory, the driver's memory. Where the
machine allows it, shared memory is a mount of this benchmark's own; temporary files are in a folder
of its own always, so that nothing else is counted.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.chaos import journal
from benchmarks.chaos.processes import MARK, Server, kill, marked
from benchmarks.chaos.sweeps import SWEEPS, sweep

PRIVATE = "BNSWEEP_SOAK_PRIVATE"
RAY_EVERY = 4
"""Every fourth round also starts Ray, twice: once to be killed with its driver, once to lose a worker."""

UNITS = {
    "processes": 0,
    "files": 0,
    "sockets": 0,
    "temporary": 0,
    "temporary_kb": 1,
    "shared_kb": 1,
    "rss_mb": 1,
}


@dataclass(frozen=True)
class Sample:
    """What is there after a round.

    Attributes:
        processes: Live processes that belong to the benchmark, beside its own two.
        files: Open files of the driver, sockets left out.
        sockets: Its open sockets. Ray leaves some of its own at every start in the same process, which
            :func:`ray_alone` measures.
        temporary: Files and folders in the temporary folder, Ray's sessions among them.
        temporary_kb: Their size.
        shared_kb: Shared memory in use.
        rss_mb: Resident memory of the driver.
    """

    processes: float
    files: float
    sockets: float
    temporary: float
    temporary_kb: float
    shared_kb: float
    rss_mb: float


def take(mark: str, server: int, patience: float = 30.0) -> Sample:
    """Count what is left, once the processes that are ending have had time to."""
    end = time.monotonic() + patience
    while (left := set(marked(mark)) - {server}) and time.monotonic() < end:
        time.sleep(0.2)
    gc.collect()
    entries = list(Path(tempfile.gettempdir()).rglob("*"))
    size = 0
    for path in entries:
        with suppress(OSError):
            size += path.lstat().st_size if path.is_file() else 0
    shared = os.statvfs("/dev/shm")
    return Sample(
        len(left), *_open_files(), len(entries), size / 1024,
        (shared.f_blocks - shared.f_bfree) * shared.f_frsize / 1024, _rss_mb(),
    )  # fmt: skip


def _open_files() -> tuple[int, int]:
    """Count this process's open files and open sockets."""
    targets = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the folder itself, which is closed by now
            targets.append(os.readlink(f"/proc/self/fd/{number}"))
    sockets = sum(target.startswith("socket:") for target in targets)
    return len(targets) - sockets, sockets


def _rss_mb() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


class Soak:
    """Rounds of sweeps.

    Args:
        folder: Where everything lies.
        seed: What decides which sweeps, and when they are killed.
        ray_every: Rounds from one that uses Ray to the next; 0 for none.
    """

    def __init__(self, folder: Path, seed: int, ray_every: int = RAY_EVERY) -> None:
        self.folder, self.ray_every = folder, ray_every
        self.random = random.Random(seed)
        self.mark = os.environ[MARK]
        self.kills = self.sweeps = self.wrong = self.rounds = self.starts = 0
        self.server = Server({}, folder / "server.log")
        self.journal = folder / "journal"
        os.environ[journal.VARIABLE] = str(self.journal)
        journal.install()

    def round(self) -> Sample:
        """Run and kill a few sweeps, remove them, and count what is left."""
        storage = self.folder / "results"
        self._run_here(storage / "here")
        self._run_and_kill(storage / "killed", "none")
        if self.ray_every and self.rounds % self.ray_every == 0:
            self._run_and_kill(storage / "killed-ray", "local")
            self._lose_a_worker(storage / "ray")
        self.rounds += 1
        for attempt in range(50):  # a mirror whose driver was killed may still be writing
            if not marked(self.mark).keys() - {self.server.pid} or attempt == 49:
                break
            time.sleep(0.2)
        shutil.rmtree(storage)
        os.truncate(self.journal, 0)
        return take(self.mark, self.server.pid)

    def _file(self, storage: Path, kind: str) -> Path:
        from bnsweep.sweep import to_yaml

        storage.mkdir(parents=True)
        file = storage / f"{kind}.yaml"
        file.write_text(to_yaml(sweep(kind, None)))
        return file

    def _note(self, code: int | None, storage: Path, said: str = "") -> None:
        """Count a sweep that ended; say what one that ended wrongly had to say."""
        self.sweeps += 1
        if code == 0:
            return
        self.wrong += 1
        log = storage / "log"
        words = said or (log.read_text(errors="replace") if log.exists() else "")
        print(f"  {storage.name} ended with {code}:", *words.splitlines()[-20:], sep="\n    ", flush=True)

    def _run_here(self, storage: Path) -> None:
        from bnsweep import api
        from bnsweep.runners import LocalRunner

        file = self._file(storage, self.random.choice(SWEEPS))
        outcome = api.run(file, runner=LocalRunner(), storage=str(storage))
        self._note(outcome.exit_code, storage, repr(outcome))

    def _run_and_kill(self, storage: Path, ray: str) -> None:
        """Kill a driver, and now and then its workers and its mirror too; run again until done."""
        file = self._file(storage, self.random.choice(SWEEPS))
        environment = {journal.VARIABLE: str(storage / "journal")}
        for chance in range(3):
            run = self.server.start(
                storage / "log", environment, file=str(file), storage=str(storage), ray=ray, seconds=0.2
            )
            if chance == 2:
                self._note(run.wait(), storage)
                return
            end = time.monotonic() + self.random.uniform(0.2, 12.0 if ray == "none" else 30.0)
            while run.code is None and time.monotonic() < end:
                time.sleep(0.01)
            if run.code is not None:
                self._note(run.code, storage)
                return
            others = set(marked(self.mark)) - {self.server.pid, run.pid}
            self.kills += kill({run.pid} | (others if self.random.random() < 0.3 else set()))
            run.wait(60)

    def _lose_a_worker(self, storage: Path) -> None:
        """Run on Ray from this process, and kill a worker meanwhile."""
        from benchmarks.chaos.child import Frequent, ray_runner
        from bnsweep import api

        file = self._file(storage, self.random.choice(SWEEPS))
        steps = self.random.randrange(1, 300)
        over = threading.Event()

        def strike() -> None:
            before = len(journal.read(self.journal))
            while not over.wait(0.1):
                entries = [entry for entry in journal.read(self.journal)[before:] if entry.pid != os.getpid()]
                if len(entries) > steps:
                    self.kills += kill([entries[-1].pid])
                    return

        thread = threading.Thread(target=strike)
        thread.start()
        try:
            self.starts += 1
            runner = Frequent(ray_runner(workers=2), 0.2)
            outcome = api.run(file, runner=runner, storage=str(storage))
            self._note(outcome.exit_code, storage, repr(outcome))
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        """End the server of runs, and whatever is left."""
        self.server.close()
        kill(marked(self.mark))


def table(samples: list[Sample], hours: float) -> list[str]:
    """Compare the first third of the rounds, the very first left out, with the last third."""
    later = samples[1:] or samples
    third = max(1, len(later) // 3)
    lines = [f"{'':<14}{'first third':>12}{'last third':>12}{'highest':>10}{'growth an hour':>16}"]
    span = hours * (len(later) - third) / max(1, len(samples))
    for field in fields(Sample):
        digits = UNITS[field.name]
        values = [getattr(sample, field.name) for sample in later]
        first, last = statistics.median(values[:third]), statistics.median(values[-third:])
        growth = (last - first) / span if span else 0.0
        lines.append(
            f"{field.name:<14}{first:>12.{digits}f}{last:>12.{digits}f}{max(values):>10.{digits}f}{growth:>+16.1f}"
        )
    return lines


def ray_alone(starts: int) -> None:
    """Print what Ray and Tune alone leave in a process that starts and ends them repeatedly.

    Each time an actor stands by and two trials of three steps are run, as in a small sweep, without a line of
    this project.
    """
    import ray
    from ray import tune

    class Actor:
        def answer(self) -> int:
            return os.getpid()

    class Steps(tune.Trainable):
        def step(self) -> dict[str, Any]:
            return {"done": self.training_iteration >= 2}

    with _place() as folder:
        for number in range(starts + 1):
            if number:
                ray.init(
                    "local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=str(folder)
                )
                actor = ray.remote(num_cpus=0)(Actor).remote()
                ray.get(actor.answer.remote())
                tune.Tuner(
                    tune.with_resources(Steps, {"cpu": 1}),
                    tune_config=tune.TuneConfig(num_samples=2),
                    run_config=tune.RunConfig(
                        storage_path=str(folder / "tune"),
                        verbose=0,
                        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    ),
                ).fit()
                del actor
                ray.shutdown()
            gc.collect()
            files, sockets = _open_files()
            print(
                f"  {number} starts of Ray: {files} files, {sockets} sockets, {_rss_mb():.0f} MB", flush=True
            )


@contextmanager
def _place() -> Iterator[Path]:
    """Give a folder whose temporary files are its own; its name is short, since Ray's sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    temporary = folder / "t"
    temporary.mkdir()
    os.environ |= {"TMPDIR": str(temporary), "RAY_TMPDIR": str(temporary), MARK: folder.name}
    tempfile.tempdir = None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _private_memory() -> bool:
    """Start again with shared memory of our own, where the machine lets us; tell whether it is so."""
    if os.environ.get(PRIVATE):
        return os.environ[PRIVATE] == "yes"
    words = 'mount -t tmpfs -o size=4g tmpfs /dev/shm && exec "$@"'
    allowed = subprocess.run(
        ["unshare", "--mount", "sh", "-c", words, "sh", "true"], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    os.environ[PRIVATE] = "yes" if allowed else "no"
    if allowed:
        own = [sys.executable, "-m", "benchmarks.soak", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", words, "sh", *own])
    return False


def main() -> None:
    """Soak, and print what grew; exits with 1 where a sweep did not end well or a process is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=1, help="rounds at least, whatever the minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray-every", type=int, default=RAY_EVERY, help="0 for rounds without Ray")
    parser.add_argument(
        "--ray-alone", type=int, help="only start and end Ray and Tune so many times, without a sweep"
    )
    options = parser.parse_args()
    if options.ray_alone:
        ray_alone(options.ray_alone)
        return
    private = _private_memory()
    began, samples, clean = time.monotonic(), [], dict(os.environ)
    print(
        f"{options.minutes:g} minutes, seed {options.seed}, {os.cpu_count()} CPUs,",
        time.strftime("%Y-%m-%d"),
        flush=True,
    )
    if not private:
        print("shared memory is the machine's: what other programs do is counted too")
    with _place() as folder:
        soak = Soak(folder, options.seed, options.ray_every)
        try:
            while len(samples) < options.rounds or time.monotonic() - began < 60 * options.minutes:
                samples.append(soak.round())
                shown = " ".join(f"{value:.0f}" for value in astuple(samples[-1]))
                print(f"  {(time.monotonic() - began) / 60:5.1f} min: {shown}", flush=True)
        except KeyboardInterrupt:
            print("cut short")
        finally:
            soak.close()
    hours = (time.monotonic() - began) / 3600
    print(
        f"{soak.rounds} rounds, {soak.sweeps} sweeps, {soak.kills} processes killed,",
        f"{soak.wrong} ended wrongly",
    )
    print("\n".join(table(samples, hours)))
    if soak.starts:
        print(f"the driver started Ray {soak.starts} times; without a sweep it leaves", flush=True)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.soak", "--ray-alone", str(soak.starts)],
            stderr=subprocess.DEVNULL, check=True, env=clean,  # the token of the sweeps is gone
        )  # fmt: skip
    sys.exit(1 if soak.wrong or samples[-1].processes else 0)


if __name__ == "__main__":
    main()
