"""``bnsweep submit FILE --address URL``."""

from __future__ import annotations

import argparse
import sys

EXAMPLE = "bnsweep submit sweeps/quickstart.yaml --address http://127.0.0.1:8265"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("file", help="the sweep file")
    add_address(parser, required=True)
    parser.add_argument("--storage", help="folder of results on the cluster, instead of the file's")
    parser.add_argument(
        "--with",
        dest="extra",
        action="append",
        default=[],
        metavar="PATH",
        help="send this file or folder too",
    )
    parser.add_argument("--retry-failed", action="store_true", help="take up the trials that failed before")
    parser.add_argument("--accept-changes", action="store_true", help="as for run")
    parser.add_argument(
        "--unchecked", action="store_true", help="send it without the looks that bnsweep doctor takes"
    )
    parser.add_argument("--follow", action="store_true", help="show what the job prints, until it ends")


def add_address(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Declare how a cluster is named."""
    parser.add_argument(
        "--address",
        required=required,
        metavar="URL",
        help="http(s)://HOST:PORT of a Ray cluster's dashboard, usually through a tunnel to its head",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="permit a cluster on 127.0.0.1 that asks for no token"
    )


def call(arguments: argparse.Namespace) -> int:
    """Send the sweep, and say under which id it runs."""
    from bnsweep import remote

    sent = remote.submit(
        arguments.file,
        arguments.address,
        insecure=arguments.insecure,
        storage=arguments.storage,
        extra=arguments.extra,
        flags=flags_of(arguments),
        look=not arguments.unchecked,
        say=say,
    )
    return tell(sent, arguments)


def flags_of(arguments: argparse.Namespace) -> list[str]:
    """Return the words that ``run`` gets on the cluster."""
    chosen = {"--retry-failed": arguments.retry_failed, "--accept-changes": arguments.accept_changes}
    return [flag for flag, on in chosen.items() if on]


def tell(sent: object, arguments: argparse.Namespace) -> int:
    """Say what became of a submission; follow the job where that is asked for."""
    from bnsweep.remote import Submitted

    assert isinstance(sent, Submitted)
    job = sent.job
    if sent.new:
        count = f"{sent.trials} trials, " if sent.trials else ""
        print(f"submitted {job.job_id}: {count}{sent.size / 2**20:.1f} MiB sent")
    elif job.state == "SUCCEEDED":
        print(f"{job.job_id} has run the same to its end already; nothing was sent")
    else:
        print(f"{job.job_id} runs the same already ({job.state.lower()}); nothing was sent")
    if not arguments.follow:
        print(f"follow it:  bnsweep logs {job.sweep} --address {arguments.address} --follow")
        return 0
    return follow(arguments.address, arguments.insecure, job.job_id)


def follow(address: str, insecure: bool, job_id: str) -> int:
    """Show what a job prints until it ends; Ctrl-C leaves it running. Return its exit code."""
    from bnsweep import remote

    def write(text: str) -> None:
        sys.stdout.write(remote.output_of(text))
        sys.stdout.flush()

    try:
        job = remote.jobs_at(address, insecure).follow(job_id, write)
    except KeyboardInterrupt:
        print(f"\n{job_id} runs on; bnsweep stop ends it", file=sys.stderr)
        return 0
    if job.exit_code is None:
        print(f"{job.job_id} {job.state.lower()}: {job.message}", file=sys.stderr)
        return 3 if job.state == "STOPPED" else 4
    return job.exit_code


def say(text: str) -> None:
    """Print a sentence for people."""
    print(text, file=sys.stderr)
