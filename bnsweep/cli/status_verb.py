"""``bnsweep status [NAME]``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from typing import TYPE_CHECKING

from bnsweep.cli.asking import add_asking, ask_there

if TYPE_CHECKING:
    from bnsweep.standing import Status

EXAMPLE = "bnsweep status quickstart --watch 5"

MOST_POSITIONS = 20
"""Packs under way that are listed one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "name", nargs="?", help="the sweep's name, its ledger's folder, or its file; all by default"
    )
    parser.add_argument("--storage", help="folder of results")
    add_asking(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument(
        "--watch", type=_seconds, metavar="SECONDS", help="print again and again, until Ctrl-C"
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError("must be seconds from 0.1 to 86,400")
    return value


def call(arguments: argparse.Namespace) -> int:
    """Say where one sweep stands, or every sweep in the folder of results."""
    if arguments.address:
        return ask_there(arguments, ["--json"] if arguments.json else [])
    try:
        while True:
            text = _said(arguments)
            if arguments.watch and sys.stdout.isatty():
                text = "\x1b[H\x1b[J" + text
            print(text, flush=True)
            if not arguments.watch:
                return 0
            time.sleep(arguments.watch)
    except KeyboardInterrupt:
        return 0


def _said(arguments: argparse.Namespace) -> str:
    from bnsweep import api

    found = [api.status(name, arguments.storage) for name in _names(arguments)]
    if arguments.json:
        content = [one.to_dict() for one in found]
        indent = None if arguments.watch else 1  # one line each time, for programs that follow
        return json.dumps(content[0] if arguments.name else content, indent=indent)
    return "\n".join(line for one in found for line in describe(one))


def _names(arguments: argparse.Namespace) -> list[str]:
    from bnsweep import api
    from bnsweep.errors import LedgerError

    if arguments.name:
        return [arguments.name]
    folder = api.storage_folder(None, arguments.storage)
    names = sorted(entry.parent for entry in folder.glob("*/ledger.json"))
    if not names:
        raise LedgerError(f"There must be a sweep in {folder}, but it holds none; say where with --storage")
    return list(map(str, names))


def describe(one: Status) -> list[str]:
    """Return a sweep's status in words, one line first and what there is to add below it."""
    from bnsweep.cli.plan_verb import duration

    counts = ", ".join(f"{count} {state}" for state, count in sorted(one.states.items()))
    lines = [f"{one.name}: {one.state}; {one.planned} trials: {counts or 'none'}; {one.root}"]
    if one.state in ("running", "silent"):
        lines.append(f"  {_driver(one)}")
    if one.trials_per_minute is not None:
        left = "" if one.seconds_left is None else f", about {duration(one.seconds_left)} left"
        lines.append(f"  {one.trials_per_minute:.1f} trials/min{left}")
    for position in one.positions[:MOST_POSITIONS]:
        lines.append(
            f"  pack {position.pack_id}: {position.members} trials at step {position.step} of "
            f"{position.steps}, on {position.host} process {position.pid} since {position.since}"
        )
    if len(one.positions) > MOST_POSITIONS:
        lines.append(f"  and {len(one.positions) - MOST_POSITIONS} packs more")
    if one.state in ("interrupted", "incomplete", "silent"):
        when = f" at {one.interrupted_at}" if one.interrupted_at else ""
        what = {"interrupted": f"interrupted{when}", "silent": f"probably interrupted{when}"}
        goes = f"bnsweep resume {shlex.quote(str(one.root))} goes on"
        lines.append(f"  {what.get(one.state, 'trials are left')}, with {one.open_packs} packs open: {goes}")
    if one.last_error and one.states.get("failed"):
        text, at = str(one.last_error.get("text")), one.last_error.get("at")
        lines.append(f"  last error, at {at}: {' '.join(text.split())[:300]}")
    if one.mirrored is not None and one.mirrored < one.finished:
        lines.append(f"  MLflow shows {one.mirrored} of {one.finished} finished trials")
    return lines


def _driver(one: Status) -> str:
    from bnsweep.standing import age_of

    driver = one.driver or {}
    heard = age_of(driver.get("heard"))
    ago = "" if heard is None else f", heard {heard:.0f} s ago"
    return f"driver: process {driver.get('pid')} on {driver.get('host')} since {driver.get('since')}{ago}"
