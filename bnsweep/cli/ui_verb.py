"""``bnsweep ui [NAME]``."""

from __future__ import annotations

import argparse
import signal

EXAMPLE = "bnsweep ui quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", nargs="?", help="a sweep; without it, the store beside the results")
    parser.add_argument("--storage", help="folder of results")
    parser.add_argument("--uri", help="tracking store, instead of the sweep's own")
    parser.add_argument("--port", type=int, help="port on 127.0.0.1; 5000 or a free one by default")


def call(arguments: argparse.Namespace) -> int:
    """Serve the UI until Ctrl-C, SIGTERM or the end of the terminal."""
    from bnsweep import api, tracking
    from bnsweep.cli.ending import end_like_ctrl_c
    from bnsweep.sweep.places import local_folder

    folder = api.storage_folder(None, arguments.storage)
    uri = arguments.uri
    if arguments.name:
        ledger = api.find_ledger(arguments.name, arguments.storage)
        folder, uri = ledger.root.parent, api.tracking_uri(ledger, uri)
    here = local_folder(folder)
    end_like_ctrl_c(signal.SIGTERM, signal.SIGHUP)
    server = tracking.start_ui(uri or tracking.default_uri(here), here, arguments.port)
    if isinstance(server, str):
        print(f"The tracking server shows it at {server}")
        return 0
    try:
        server.wait_ready()
        print(f"MLflow UI: {server.url}  (Ctrl-C ends it)", flush=True)
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
    return 0
