"""``bnsweep logs NAME``."""

from __future__ import annotations

import argparse
import sys

from bnsweep.cli.submit_verb import add_address

EXAMPLE = "bnsweep logs quickstart --address http://127.0.0.1:8265 --follow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", help="the sweep's name or file, or the id of a job")
    add_address(parser, required=True)
    parser.add_argument("--follow", action="store_true", help="go on until the job ends")


def call(arguments: argparse.Namespace) -> int:
    """Show what the sweep's newest job has printed."""
    from bnsweep import remote
    from bnsweep.cli.submit_verb import follow, say

    jobs = remote.jobs_at(arguments.address, arguments.insecure, say)
    known = [job for job in jobs.all() if job.job_id == arguments.name]
    job = known[0] if known else jobs.newest(remote.sweep_name(arguments.name))
    if arguments.follow:
        return follow(arguments.address, arguments.insecure, job.job_id)
    sys.stdout.write(remote.output_of(jobs.logs(job.job_id)))
    print(f"{job.job_id} is {job.state.lower()}", file=sys.stderr)
    return 0
