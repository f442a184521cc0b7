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
    if (arguments.address or "").startswith("http"):
        return _resume_there(arguments)
    from bnsweep import api

    return carry_out(arguments, partial(api.resume, arguments.name))


def _resume_there(arguments: argparse.Namespace) -> int:
    """Go on with the sweep as a job of a cluster."""
    from bnsweep import remote
    from bnsweep.cli.submit_verb import flags_of, say, tell

    sent = remote.resume(
        arguments.name,
        arguments.address,
        insecure=arguments.insecure,
        storage=arguments.storage,
        flags=flags_of(arguments),
        say=say,
    )
    arguments.follow = not arguments.quiet
    return tell(sent, arguments)
