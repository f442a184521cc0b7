"""Tries a tracking store out: a run is written, read back and taken away, by a process of its own.

``MLFLOW_TRACKING_URI=URI python -m bnsweep.tracking.canary`` writes one line of JSON: ``error``, empty
where all went well, and ``seconds``. What it wrote is deleted as MLflow deletes: it is not shown any more,
and ``mlflow gc`` removes it for good.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from typing import Any

from bnsweep.errors import ServiceError
from bnsweep.tracking.credentials import hide, redacted, split_login, with_login
from bnsweep.tracking.process import quiet_environment
from bnsweep.tracking.uris import absolute_uri, check_uri, sqlite_path

__all__ = ["try_store"]

SECONDS = 60.0
"""How long a store has for everything: MLflow alone takes seconds to import."""

_FILE = "canary.txt"


def try_store(uri: str) -> str:
    """Write a run to a tracking store, read it back and delete it.

    A SQLite file that does not exist yet is not made: its folder is looked at alone.

    Args:
        uri: Tracking URI.

    Returns:
        What was found, for people.

    Raises:
        SpecError: If it is not a kind of store that MLflow can use here.
        ServiceError: If the store does not answer, or does not take or give back what it is sent.
    """
    check_uri(uri)
    where, file = redacted(uri), sqlite_path(absolute_uri(uri))
    if file is not None and not file.exists():
        return f"{file} does not exist yet and can be made"
    answer = _ask(uri)
    if answer["error"]:
        raise ServiceError(
            f"MLflow at {where} must take a run, give it back and delete it, but {answer['error']}. Check "
            "the login (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), its rights, and the server's "
            "log."
        )
    return f"{where} took a run with a file, gave it back and deleted it in {answer['seconds']:.1f} s"


def _ask(uri: str) -> dict[str, Any]:
    plain, login = split_login(with_login(absolute_uri(uri)))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bnsweep.tracking.canary"],
            env={**os.environ, **quiet_environment(), **login, "MLFLOW_TRACKING_URI": plain},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it took more than {SECONDS:.0f} s"}
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"error": f"the attempt ended with: {hide(last, uri)}"}


def _round_trip(uri: str) -> None:
    """Write, read back and delete; raises whatever MLflow raises."""
    from mlflow.entities import Metric, RunTag
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from bnsweep.tracking.stores import connect

    client, nonce = connect(uri), secrets.token_hex(8)
    experiment = client.create_experiment(f"bnsweep-doctor-{nonce}")
    try:
        run = client.create_run(experiment)
        client.log_batch(
            run.info.run_id, [Metric("canary", 1.0, 0, 0)], tags=[RunTag("bnsweep.canary", nonce)]
        )
        read = client.get_run(run.info.run_id)
        if read.data.tags.get("bnsweep.canary") != nonce or read.data.metrics.get("canary") != 1.0:
            raise ValueError("it gave back something else")
        client.log_text(run.info.run_id, nonce, _FILE)
        files = get_artifact_repository(run.info.artifact_uri)
        if [entry.path for entry in files.list_artifacts()] != [_FILE]:
            raise ValueError("it does not show the file that was sent")
        with contextlib.suppress(Exception):  # a server may be told to refuse it
            files.delete_artifacts()
    finally:
        client.delete_experiment(experiment)


def _main() -> None:
    output = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    uri, began, error = os.environ["MLFLOW_TRACKING_URI"], time.monotonic(), ""
    try:
        _round_trip(uri)
    except Exception as failure:
        error = hide(" ".join(str(failure).split())[:300] or type(failure).__name__, uri)
    answer = {"error": error, "seconds": time.monotonic() - began}
    os.write(output, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    _main()
