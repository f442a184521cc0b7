"""The mirror as a process: ``python -m bnsweep.tracking LEDGER --uri URI [--follow]``."""

from __future__ import annotations

import argparse
import os
import sys

from bnsweep.tracking.mirror import main as run_mirror
from bnsweep.tracking.process import quiet_environment
from bnsweep.tracking.uris import absolute_uri


def main() -> int:
    """Read the command line and run the mirror.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m bnsweep.tracking", description=__doc__)
    parser.add_argument("ledger", help="folder of the sweep, such as results/quickstart")
    parser.add_argument("--uri", help="tracking URI; else $MLFLOW_TRACKING_URI")
    parser.add_argument("--follow", action="store_true", help="go on until standard input ends")
    parser.add_argument("--report-only", action="store_true", help="only upload the report")
    arguments = parser.parse_args()
    uri = arguments.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        parser.error("give --uri, or set MLFLOW_TRACKING_URI")
    os.environ.update(quiet_environment())
    output = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no summary
    return run_mirror(arguments.ledger, absolute_uri(uri), arguments.follow, arguments.report_only, output)


if __name__ == "__main__":
    sys.exit(main())
