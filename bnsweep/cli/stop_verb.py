"""``bnsweep stop NAME``."""

from __future__ import annotations

import argparse

EXAMPLE = "bnsweep stop quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", help="the sweep's name, its ledger's folder, or its file")
    parser.add_argument("--storage", help="folder of results")


def call(arguments: argparse.Namespace) -> int:
    """Ask the process that runs the sweep to stop."""
    from bnsweep import api

    if api.stop(arguments.name, arguments.storage):
        print("stopping: packs under way are checkpointed first; bnsweep resume goes on")
        return 0
    print("nothing to stop: no process is running the sweep")
    return 0
