"""Runs of a sweep with a journal and frequent checkpoints, each in a process of its own that may be killed.

``python -m benchmarks.chaos.child`` imports everything once, reads requests (a line of JSON each) and forks
a process for each: starting Python and torch would be most of what a hundred short runs cost. It says
``started PID`` at once and ``ended PID CODE`` in the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import traceback
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.chaos import journal
from bnsweep import api
from bnsweep.errors import BnsweepError
from bnsweep.runners import LocalRunner, Progress, Source, WorkerContext

__all__ = ["Frequent", "ray_runner", "run"]


@dataclass
class Frequent:
    """A runner whose workers make checkpoints more often than every 30 s."""

    runner: Any
    seconds: float

    def run(self, source: Source, context: WorkerContext, report: Any) -> bool:
        return bool(self.runner.run(source, replace(context, checkpoint_seconds=self.seconds), report))


def ray_runner(workers: int | None = None) -> Any:
    """Return the runner on Ray Tune, with workers that write the journal."""
    from bnsweep.runners import tune

    path = os.environ[journal.VARIABLE]  # the workers of a cluster have the variables of their node

    class Journalled(tune.PackTrainable):
        """A worker that writes down what it trains."""

        def setup(self, config: dict[str, Any], **more: Any) -> None:
            journal.install(path)
            super().setup(config, **more)

    runner = tune.TuneRunner(1, 0, workers)
    runner.trainable = Journalled
    return runner


def run(file: str, storage: str, ray: str, seconds: float, workers: int = 2) -> int:
    """Run a sweep file to its end; what happens is printed.

    Args:
        file: The sweep file.
        storage: Folder of results.
        ray: ``none`` to train here, ``local``, or the address of a cluster.
        seconds: Time between two checkpoints of a pack.
        workers: Most workers on Ray.

    Returns:
        The exit code, as of ``bnsweep run``.
    """
    from bnsweep.runners.joining import attach

    def show(progress: Progress) -> None:
        if progress.error:
            print("error:", progress.error, flush=True)

    runner = LocalRunner(0.5) if ray == "none" else ray_runner(workers)
    if ray == "none":
        journal.install()
    joined = contextlib.nullcontext() if ray in ("none", "local") else attach(ray)
    try:
        with joined:
            outcome = api.run(
                file, runner=Frequent(runner, seconds), storage=storage, progress=show,
                say=lambda text: print(text, flush=True),
            )  # fmt: skip
    except BnsweepError as error:
        print(f"refused: {error}", flush=True)
        return error.exit_code
    print(json.dumps({"states": dict(outcome.states), "tracked": str(outcome.tracked)}), flush=True)
    return outcome.exit_code


def _begin(request: dict[str, Any], inherited: list[int]) -> int:
    """Fork a process that carries out a request; return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for file in inherited:
            os.close(file)
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for file, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(file, target)
        os.environ.update(request["environment"])
        code = run(**request["run"])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def main() -> None:
    """Serve requests until standard input ends."""
    import bnsweep.training  # noqa: F401

    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    looker = selectors.DefaultSelector()
    looker.register(0, selectors.EVENT_READ)
    looker.register(woken, selectors.EVENT_READ)
    print("ready", flush=True)
    buffer = b""
    while True:
        for key, _ in looker.select():
            if key.fd == woken:
                os.read(woken, 4096)
                with contextlib.suppress(ChildProcessError):
                    while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                        print("ended", ended[0], os.waitstatus_to_exitcode(ended[1]), flush=True)
                continue
            if not (content := os.read(0, 65536)):
                return
            *lines, buffer = (buffer + content).split(b"\n")
            for line in lines:
                print("started", _begin(json.loads(line), [woken, wake]), flush=True)


if __name__ == "__main__":
    main()
