"""``bnsweep sync NAME``."""

from __future__ import annotations

import argparse

EXAMPLE = "bnsweep sync quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", help="the sweep's name, its ledger's folder, or its file")
    parser.add_argument("--storage", help="folder of results")
    parser.add_argument("--uri", help="tracking store, instead of the sweep's own")
    parser.add_argument("--study", help="only show the search in this database of Optuna's, sqlite:///FILE")


def call(arguments: argparse.Namespace) -> int:
    """Make MLflow equal to the ledger, and Optuna's database where the sweep's file names one."""
    from bnsweep import api
    from bnsweep.errors import ServiceError

    shown = api.sync_study(arguments.name, arguments.storage, arguments.study)
    if shown:
        if shown.error:
            raise ServiceError(str(shown))
        print(shown)
    if arguments.study:
        return 0
    summary = api.sync(arguments.name, arguments.storage, arguments.uri)
    if not summary.complete:
        raise ServiceError(str(summary))
    print(summary)
    return 0
