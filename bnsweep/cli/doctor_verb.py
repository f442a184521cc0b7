"""``bnsweep doctor [FILE]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnsweep.doctor import Finding

EXAMPLE = "bnsweep doctor sweeps/quickstart.yaml --address http://127.0.0.1:8265"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("file", nargs="?", help="the sweep file; without one, data are not looked at")
    parser.add_argument(
        "--address",
        help="a Ray cluster: http(s)://HOST:PORT of its dashboard, or, on a machine of it, auto or "
        "HOST:PORT; $RAY_ADDRESS, else this machine alone, by default",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="permit a cluster on 127.0.0.1 that asks for no token"
    )
    parser.add_argument("--storage", help="folder of results, instead of the file's")
    parser.add_argument("--json", action="store_true", help="print as one line of JSON")


def call(arguments: argparse.Namespace) -> int:
    """Look, and say a line for each finding; 0 if all is well, 4 if a service does not answer, else 2."""
    from bnsweep.doctor import exit_code_of

    found = []
    for finding in _findings(arguments):
        found.append(finding)
        if not arguments.json:
            print(f"{finding.state:<8} {finding.what:<9} {finding.text}", flush=True)
    code = exit_code_of(found)
    if arguments.json:
        print(json.dumps({"exit_code": code, "findings": [finding.to_dict() for finding in found]}))
    return code


def _findings(arguments: argparse.Namespace) -> Iterable[Finding]:
    """Look from here where the address is a dashboard's, else on this machine of the cluster."""

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    if (arguments.address or "").startswith(("http://", "https://")):
        from bnsweep import remote

        return remote.examine(
            arguments.file,
            arguments.address,
            insecure=arguments.insecure,
            storage=arguments.storage,
            say=say,
        )
    from bnsweep.doctor import examine
    from bnsweep.where import Where

    where = Where(arguments.address, arguments.insecure)
    return examine(arguments.file, where=where, storage=arguments.storage, say=say)
