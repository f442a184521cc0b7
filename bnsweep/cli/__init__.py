"""The command ``bnsweep``: one module a verb, each imported only when its verb is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from bnsweep.errors import BnsweepError, SpecError, caused_by_interrupt

__all__ = ["main"]

VERBS = {
    "plan": "show what would run; starts nothing",
    "doctor": "look whether a sweep could run: cluster, versions, storage, tracking, data, disks, clocks",
    "run": "make the ledger match the plan, here; again to resume or to extend",
    "submit": "the same on a Ray cluster, as a job that runs on by itself",
    "logs": "show what a sweep's job on a cluster has printed",
    "resume": "go on with a sweep from its stored file",
    "stop": "ask the process that runs a sweep to stop at its next checkpoint",
    "confirm": "train the best conditions of a search again, with fresh seeds",
    "status": "say where a sweep stands",
    "report": "write tables, figures and the page of a sweep",
    "claims": "list the claims of the paper that a sweep can judge",
    "compare": "set two sweeps, or two arms, side by side with intervals",
    "ui": "open the MLflow UI on a sweep's tracking store, on 127.0.0.1",
    "sync": "rebuild or repair MLflow from the ledger",
    "data": "prepare a folder of images",
    "schema": "print the JSON Schema of the sweep file",
}


class _Parser(argparse.ArgumentParser):
    """Ends with exit code 2 and one line, as every wrong call does."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"bnsweep: {_harmless(message)}; see {self.prog} --help\n")


def _harmless(text: str) -> str:
    r"""Return a message without what a terminal would obey: names and files may hold anything.

    Example:
        >>> _harmless("no sweep \x1b[2J\nfound")
        'no sweep ?[2J\nfound'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after ``bnsweep``; those of the process by default.

    Returns:
        0 done, 1 some trials failed, 2 the file or the call is wrong, 3 interrupted and
        resumable, 4 a service is unreachable, 5 another process is running the sweep.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser(
        prog="bnsweep",
        description="Distributed sweeps that test what batch normalization does for optimization.",
        epilog="Example: bnsweep run sweeps/quickstart.yaml",
    )
    parser.add_argument("--version", action="store_true", help="print the version and end")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, text in VERBS.items():
        module = importlib.import_module(f"bnsweep.cli.{name}_verb") if name == chosen else None
        sub = verbs.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"Example: {module.EXAMPLE}" if module else None,
        )
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if module:
            module.add_arguments(sub)
            sub.set_defaults(call=module.call)
    found = parser.parse_args(words)
    if found.version:
        from bnsweep import __version__

        print(__version__)
        return 0
    if found.verb is None:
        parser.print_help()
        return 2
    return _call(found)


def _call(found: argparse.Namespace) -> int:
    """Run a verb; an error of ours is one paragraph on standard error and its exit code."""
    try:
        code = found.call(found)
        sys.stdout.flush()
        return int(code)
    except BnsweepError as error:
        if found.debug:
            raise
        text = str(error)
        if isinstance(error, SpecError) and len(error.mistakes) > 1:
            text = f"{len(error.mistakes)} mistakes; nothing was started\n{text}"
        print(f"bnsweep: {_harmless(text)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (KeyboardInterrupt, Exception) as error:
        if not (isinstance(error, KeyboardInterrupt) or caused_by_interrupt(error)):
            raise
        print("bnsweep: interrupted", file=sys.stderr)
        return 3
