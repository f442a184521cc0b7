"""The study's mirror as a process: ``BNSWEEP_STUDY=URI python -m bnsweep.search LEDGER [--follow]``."""

from __future__ import annotations

import argparse
import os
import sys

from bnsweep.search.mirror import main as run_mirror


def main() -> int:
    """Read the command line and run the mirror.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m bnsweep.search", description=__doc__)
    parser.add_argument("ledger", help="folder of the sweep")
    parser.add_argument("--follow", action="store_true", help="go on until standard input ends")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to try without --follow")
    arguments = parser.parse_args()
    uri = os.environ.get("BNSWEEP_STUDY")
    if not uri:
        parser.error("set BNSWEEP_STUDY to the database")
    output = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no summary
    return run_mirror(arguments.ledger, uri, arguments.follow, arguments.seconds, output)


if __name__ == "__main__":
    sys.exit(main())
