"""``bnsweep resume NAME``."""

from __future__ import annotations

import argparse
from functools import partial

from bnsweep.cli.run_verb import add_run_arguments, carry_out

EXAMPLE = "bnsweep resume quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", help="the sweep's name, its ledger's folder, or its file")
    add_run_arguments(parser)


def call(arguments: argparse.Namespace) -> int:
    """Go on with the sweep as it was submitted."""
    from bnsweep import api

    return carry_out(arguments, partial(api.resume, arguments.name))
