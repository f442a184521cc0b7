"""``bnsweep compare A B``."""

from __future__ import annotations

import argparse

EXAMPLE = "bnsweep compare quickstart:batch quickstart:none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    for name in ("first", "second"):
        parser.add_argument(name, help="a sweep's name or its ledger's folder; SWEEP:ARM for one arm of it")
    parser.add_argument("--storage", help="folder of results")


def split(text: str) -> tuple[str, str]:
    """Return the sweep and the arm of a side.

    Example:
        >>> split("quickstart:batch"), split("s3://bucket/x:mine:make"), split("x")
        (('quickstart', 'batch'), ('s3://bucket/x', 'mine:make'), ('x', ''))
    """
    scheme, slashes, rest = text.rpartition("://")
    name, _, arm = rest.partition(":")
    return scheme + slashes + name, arm


def call(arguments: argparse.Namespace) -> int:
    """Print paired differences with intervals."""
    from bnsweep import api
    from bnsweep.analysis.comparison import Side, compare
    from bnsweep.analysis.results import Results

    sides = []
    for text in (arguments.first, arguments.second):
        name, arm = split(text)
        sides.append(Side(Results.read(api.find_ledger(name, arguments.storage)), arm))
    print("\n".join(compare(*sides)))
    return 0
