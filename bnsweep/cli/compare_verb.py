"""``bnsweep compare A B``."""

from __future__ import annotations

import argparse

EXAMPLE = "bnsweep compare quickstart:batch quickstart:none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    for name in ("first", "second"):
        parser.add_argument(name, help="a sweep's name or its ledger's folder; SWEEP:ARM for one arm of it")
    parser.add_argument("--storage", help="folder of results")


def call(arguments: argparse.Namespace) -> int:
    """Print paired differences with intervals."""
    from bnsweep import api
    from bnsweep.analysis.comparison import Side, compare
    from bnsweep.analysis.results import Results

    sides = []
    for text in (arguments.first, arguments.second):
        name, arm = _parts(text)
        sides.append(Side(Results.read(api.find_ledger(name, arguments.storage)), arm))
    print("\n".join(compare(*sides)))
    return 0


def _parts(text: str) -> tuple[str, str]:
    """Return the sweep and the arm that a word names.

    Example:
        >>> _parts("quickstart:batch"), _parts("s3://bucket/quickstart:mynorms:make")
        (('quickstart', 'batch'), ('s3://bucket/quickstart', 'mynorms:make'))
    """
    scheme, mark, rest = text.rpartition("://")
    name, _, arm = rest.partition(":")
    return scheme + mark + name, arm
