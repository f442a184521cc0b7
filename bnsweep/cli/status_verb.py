"""``bnsweep status [NAME]``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnsweep.sweep.places import Place

from bnsweep.cli.asking import add_asking, ask_there

EXAMPLE = "bnsweep status quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "name", nargs="?", help="the sweep's name, its ledger's folder, or its file; all by default"
    )
    parser.add_argument("--storage", help="folder of results")
    add_asking(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Print one line a sweep."""
    if arguments.address:
        return ask_there(arguments, ["--json"] if arguments.json else [])
    from bnsweep import api
    from bnsweep.errors import LedgerError

    folder = api.storage_folder(None, arguments.storage)
    names: list[str | Place]
    if arguments.name:
        names = [arguments.name]
    else:
        names = sorted((entry.parent for entry in folder.glob("*/ledger.json")), key=str)
    if not names:
        raise LedgerError(f"There must be a sweep in {folder}, but it holds none; say where with --storage")
    found = [api.status(name, arguments.storage) for name in names]
    if arguments.json:
        content = [
            {
                "name": one.name,
                "root": str(one.root),
                "planned": one.planned,
                "states": dict(one.states),
                "open_packs": one.open_packs,
            }
            for one in found
        ]
        print(json.dumps(content[0] if arguments.name else content, indent=1))
        return 0
    for one in found:
        states = ", ".join(f"{count} {state}" for state, count in sorted(one.states.items()))
        print(
            f"{one.name}: {one.planned} trials: {states or 'none'}; {one.open_packs} open packs; {one.root}"
        )
    return 0
