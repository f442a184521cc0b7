"""Verbs that only read, run on a cluster: where the storage is, and this machine does not see it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bnsweep.cli.submit_verb import add_address, say

__all__ = ["add_asking", "ask_there"]


def add_asking(parser: argparse.ArgumentParser) -> None:
    """Declare on which cluster the verb may be run instead of here."""
    add_address(parser)


def ask_there(arguments: argparse.Namespace, more: Sequence[str] = ()) -> int:
    """Run the verb as a short job of the cluster, and print what it prints."""
    from bnsweep import remote

    sweep = remote.sweep_name(arguments.name or "all")
    words = [arguments.verb, *([sweep] if arguments.name else []), *more]
    if arguments.storage:
        words += ["--storage", arguments.storage]

    def write(text: str) -> None:
        sys.stdout.write(text)

    return remote.ask(words, sweep, arguments.address, insecure=arguments.insecure, write=write, say=say)
