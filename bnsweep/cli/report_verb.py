"""``bnsweep report NAME``."""

from __future__ import annotations

import argparse

from bnsweep.cli.asking import add_asking, ask_there

EXAMPLE = "bnsweep report quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", help="the sweep's name, its ledger's folder, or its file")
    parser.add_argument("--storage", help="folder of results")
    add_asking(parser)
    parser.add_argument("--out", help="folder to write to, instead of the ledger's report/")


def call(arguments: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    if arguments.address:
        return ask_there(arguments, ["--out", arguments.out] if arguments.out else [])
    from bnsweep import api

    made = api.report(arguments.name, arguments.storage, arguments.out)
    print(f"{made.summary}\n\nreport:  {made.path}")
    return 0
