"""``bnsweep confirm NAME``."""

from __future__ import annotations

import argparse
from functools import partial

from bnsweep.cli.run_verb import add_run_arguments, carry_out

EXAMPLE = "bnsweep confirm random --top 3 --seeds 10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", help="the search's name, its ledger's folder, or its file")
    parser.add_argument("--top", type=_count, default=3, help="conditions, the best first (default 3)")
    parser.add_argument("--seeds", type=_count, default=10, help="fresh seeds of each (default 10)")
    add_run_arguments(parser)


def call(arguments: argparse.Namespace) -> int:
    """Train the best conditions again and print their table."""
    from bnsweep import api

    return carry_out(
        arguments, partial(api.confirm, arguments.name, top=arguments.top, seeds=arguments.seeds)
    )


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError("must be an integer from 1 to 100,000")
    return value
