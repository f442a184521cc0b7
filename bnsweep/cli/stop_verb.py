"""``bnsweep stop NAME``."""

from __future__ import annotations

import argparse

from bnsweep.cli.submit_verb import add_address

EXAMPLE = "bnsweep stop quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", help="the sweep's name, its ledger's folder, or its file")
    parser.add_argument("--storage", help="folder of results")
    add_address(parser)


def call(arguments: argparse.Namespace) -> int:
    """Ask the process that runs the sweep to stop."""
    if arguments.address:
        return _stop_job(arguments)
    from bnsweep import api

    if api.stop(arguments.name, arguments.storage):
        print("stopping: packs under way are checkpointed first; bnsweep resume goes on")
        return 0
    print("nothing to stop: no process is running the sweep")
    return 0


def _stop_job(arguments: argparse.Namespace) -> int:
    """Ask the sweep's newest job on a cluster to stop, and wait until it has."""
    from bnsweep import remote
    from bnsweep.cli.submit_verb import say
    from bnsweep.runners.jobs import STOP_SECONDS

    jobs = remote.jobs_at(arguments.address, arguments.insecure, say)
    job = jobs.newest(remote.sweep_name(arguments.name))
    if job.ended or not jobs.stop(job.job_id):
        print(f"nothing to stop: {job.job_id} is {job.state.lower()}")
        return 0
    print(
        f"stopping {job.job_id}: packs under way are checkpointed first; bnsweep resume goes on", flush=True
    )
    job = jobs.wait(job.job_id, STOP_SECONDS + 10)
    print(f"{job.job_id} is {job.state.lower()}")
    return 0 if job.ended else 4
