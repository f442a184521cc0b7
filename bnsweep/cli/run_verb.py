"""``bnsweep run FILE``."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnsweep.sweep.places import Place

EXAMPLE = "bnsweep run sweeps/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("file", help="the sweep file")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``run`` and ``resume`` have in common."""
    parser.add_argument("--storage", help="folder of results, instead of the file's")
    parser.add_argument(
        "--in-process", action="store_true", help="train here, one pack after another, without Ray"
    )
    parser.add_argument(
        "--address", help="join the Ray cluster of this machine: auto, or HOST:PORT; $RAY_ADDRESS by default"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="permit a cluster on 127.0.0.1 that asks for no token"
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, help="seconds to wait for another process that runs the sweep"
    )
    parser.add_argument("--retry-failed", action="store_true", help="take up the trials that failed before")
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on although claims, data or the code's numbers are not those of the finished trials",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def call(arguments: argparse.Namespace) -> int:
    """Run the sweep and print its table."""
    return run(arguments, arguments.file)


def run(arguments: argparse.Namespace, source: Any, root: Place | None = None) -> int:
    """Run ``source`` and say how it ended.

    Args:
        arguments: With the attributes of :func:`add_run_arguments`.
        source: A sweep file or a spec.
        root: The sweep's own folder, where it exists already.

    Returns:
        The exit code.
    """
    from bnsweep import api

    return carry_out(arguments, partial(api.run, api.load(source), root=root))


def carry_out(arguments: argparse.Namespace, verb: Callable[..., Any]) -> int:
    """Call what trains, show its progress and say how it ended; return the exit code.

    Args:
        arguments: With the attributes of :func:`add_run_arguments`.
        verb: One of :mod:`bnsweep.api`, all but the arguments that every such verb takes filled in.
    """
    from bnsweep.api import Where
    from bnsweep.cli.ending import end_like_ctrl_c, heed_interrupts
    from bnsweep.cli.progress import ProgressLine

    end_like_ctrl_c(signal.SIGTERM)
    heed_interrupts()
    runner = None
    if arguments.in_process:
        from bnsweep.runners import LocalRunner

        runner = LocalRunner()
    line = ProgressLine(sys.stderr, quiet=arguments.quiet)
    outcome = verb(
        runner=runner,
        storage=arguments.storage,
        retry_failed=arguments.retry_failed,
        accept_changes=arguments.accept_changes,
        where=Where(arguments.address, arguments.insecure, arguments.wait),
        progress=line.update,
        say=line.say,
        begin=line.begin,
    )
    line.close()
    _tell(outcome)
    return int(outcome.exit_code)


def _program() -> str:
    """Return what to type for this program: its path, where the shell would not find it."""
    path = Path(sys.argv[0])
    if path.name != "bnsweep" or shutil.which("bnsweep") == str(path):
        return "bnsweep"
    return shlex.quote(os.path.relpath(path))


def _tell(outcome: Any) -> None:
    """Print the table, what went wrong, and where everything is."""
    from bnsweep.tracking.credentials import redacted

    where = shlex.quote(str(outcome.root))
    if outcome.report is not None:
        print(f"\n{outcome.report.summary}\n")
    for error, count in outcome.errors.items():
        print(f"{count} trials failed: {error}", file=sys.stderr)
    if outcome.states.get("failed"):
        print(f"tracebacks: {outcome.root}/trials/*/failure.*.json", file=sys.stderr)
    if outcome.report is not None:
        print(f"report:  {outcome.report.path}")
    if outcome.tracking_uri is not None:
        state = "" if outcome.tracked is None or outcome.tracked.complete else f"  ({outcome.tracked})"
        print(f"MLflow:  {redacted(outcome.tracking_uri)}{state}")
        print(f"browse:  {_program()} ui {where}")
    print(f"{outcome.seconds:.0f} s, {outcome.started} trials run")
    if outcome.interrupted:
        print(f"interrupted: {_program()} resume {where} goes on", file=sys.stderr)
