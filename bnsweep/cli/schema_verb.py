"""``bnsweep schema``."""

from __future__ import annotations

import argparse
import json

EXAMPLE = "bnsweep schema > sweep.schema.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes: nothing."""


def call(arguments: argparse.Namespace) -> int:
    """Print the JSON Schema of the sweep file."""
    from bnsweep.sweep.schema import schema

    print(json.dumps(schema(), indent=2))
    return 0
