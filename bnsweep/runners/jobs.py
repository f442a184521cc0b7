"""Sweeps as jobs of a Ray cluster, through its jobs API: submit, find, follow, stop.

A job's id follows from what it runs, so that submitting the same twice is one job. Ray keeps jobs for as
long as the cluster lives; what lasts is the sweep's ledger.
"""

from __future__ import annotations

import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnsweep.errors import BnsweepError, ServiceError

from . import access
from .joining import prepare_tune

__all__ = ["ENDED", "Job", "Jobs", "connect"]

ENDED = ("STOPPED", "SUCCEEDED", "FAILED")
"""States of a job that has ended."""

STOP_SECONDS = 120
"""How long a stopped job has to checkpoint: Ray's own 3 s would cut it off."""

_SWEEP, _CONTENT, _VERB = "bnsweep.sweep", "bnsweep.content", "bnsweep.verb"
_ATTEMPT = re.compile(r"^(.*?)(?:-try([0-9]+))?$")


@dataclass(frozen=True)
class Job:
    """A job of ours on a cluster.

    Attributes:
        job_id: Its id.
        sweep: The sweep that it runs.
        state: ``PENDING``, ``RUNNING``, ``STOPPED``, ``SUCCEEDED`` or ``FAILED``.
        began: Milliseconds since 1970; 0 where it has not begun.
        exit_code: Of its command; ``None`` where it has not ended.
        message: What Ray says about its end.
        verb: What of bnsweep it runs.
    """

    job_id: str
    sweep: str
    state: str
    began: int
    exit_code: int | None
    message: str
    verb: str = "run"

    @property
    def ended(self) -> bool:
        """Whether it has ended in any way."""
        return self.state in ENDED


def connect(url: str, *, insecure: bool = False) -> Jobs:
    """Return the jobs of the cluster whose dashboard is at ``url``.

    Args:
        url: ``http(s)://HOST:PORT``; 8265 is the usual port.
        insecure: Permit a cluster on 127.0.0.1 that asks for no token.

    Raises:
        BnsweepError: If the address is of another kind, no token is known, or the cluster asks for none.
        ServiceError: If no cluster answers there, or it refuses the token.
    """
    if not re.match(r"https?://[^/@?#]+/?$", url):
        shown = re.sub(r"(?<=://)[^/]*@", "***@", url).partition("?")[0]
        raise BnsweepError(
            "The cluster's address must be http(s)://HOST:PORT of its dashboard, without a token in it, but "
            f"found {shown}. The token is read from RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN or ~/.ray/auth_token."
        )
    url = url.rstrip("/")
    mode = _authentication_mode(url)
    if insecure:
        access.permit_insecure(url)
    else:
        access.require_token()
    if mode == "disabled" and not insecure:
        raise BnsweepError(
            f"A cluster must ask for a token, but the one at {url} does not: whoever reaches it runs code "
            "there. Start it again with RAY_AUTH_MODE=token and a token on every machine; --insecure is for "
            "clusters on 127.0.0.1."
        )
    if mode != "disabled" and insecure:
        raise BnsweepError(f"The cluster at {url} asks for a token: leave --insecure out.")
    return Jobs(url)


def _authentication_mode(url: str) -> str:
    """Ask a dashboard whether it wants a token; this one question is open to everybody."""
    try:
        with urllib.request.urlopen(f"{url}/api/authentication_mode", timeout=10) as answer:
            return str(json.loads(answer.read(10_000))["authentication_mode"])
    except urllib.error.HTTPError as error:
        found = f"it answers with HTTP {error.code}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = str(getattr(error, "reason", error)) or type(error).__name__
    raise ServiceError(
        f"The dashboard of a Ray cluster must answer at {url}, but {found}. Check the address (8265 is its "
        "usual port, 6379 is not), and the tunnel: ssh -L 8265:127.0.0.1:8265 HEAD."
    )


class Jobs:
    """The jobs of one cluster; make one with :func:`connect`.

    Args:
        url: Address of its dashboard.
    """

    def __init__(self, url: str) -> None:
        prepare_tune()
        from ray.job_submission import JobSubmissionClient

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.url = url
        with self._answers():
            self._client = JobSubmissionClient(url)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Turn what Ray raises into errors of ours, without a token in them."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            missing = "401" in str(error) or "required" in str(error).lower()
            raise ServiceError(
                f"The cluster at {self.url} must accept the token, but "
                f"{'none was sent' if missing else 'refuses it'}. Use the token that its head was started "
                "with, in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token (chmod 600)."
            ) from None
        except (ConnectionError, OSError) as error:
            raise ServiceError(f"The cluster at {self.url} must answer, but does not: {error}") from None

    @property
    def ray_version(self) -> str:
        """The cluster's version of Ray."""
        with self._answers():
            return str(self._ask("/api/version")["ray_version"])

    def _ask(self, path: str) -> Any:
        return self._client._do_request("GET", path).json()

    def all(self, sweep: str | None = None) -> list[Job]:
        """Return our jobs, of one sweep or of all, the newest last."""
        with self._answers():
            found = [_job(details) for details in self._client.list_jobs()]
        ours = [job for job in found if job and (sweep is None or job.sweep == sweep)]
        return sorted(ours, key=lambda job: (job.began, job.job_id))

    def newest(self, sweep: str) -> Job:
        """Return the newest job that runs a sweep.

        Raises:
            BnsweepError: If there is none; the message names those that there are.
        """
        found = [job for job in self.all(sweep) if job.verb == "run"]
        if not found:
            others = sorted({job.sweep for job in self.all()})
            there = f"it has jobs of {', '.join(others)}" if others else "it has none of bnsweep"
            raise BnsweepError(
                f"A job of sweep {sweep} must be on the cluster at {self.url}, but {there}. Jobs are "
                "forgotten when a cluster ends; the sweep's ledger is not: name its storage with --storage."
            )
        return found[-1]

    def get(self, job_id: str) -> Job:
        """Return a job by its id."""
        with self._answers():
            found = _job(self._client.get_job_info(job_id))
        assert found is not None, job_id
        return found

    def _last(self, sweep: str, job_id: str) -> Job | None:
        """Return the last attempt of a job."""
        family = [job for job in self.all(sweep) if _family(job.job_id) == job_id]
        return max(family, key=lambda job: _attempt(job.job_id), default=None)

    def live(self, sweep: str, job_id: str) -> Job | None:
        """Return the last attempt of a job, unless it has failed or was stopped; ``None`` without one."""
        last = self._last(sweep, job_id)
        return last if last is not None and last.state not in ("FAILED", "STOPPED") else None

    def submit(
        self,
        folder: Path,
        words: Sequence[str],
        job_id: str,
        labels: Mapping[str, str],
        variables: Mapping[str, str],
    ) -> tuple[Job, bool]:
        """Start a job, unless the same is there already.

        Args:
            folder: What it is sent.
            words: Arguments of bnsweep, run in that folder by its ``start.sh``.
            job_id: What the job is called; after a failure ``-try2`` and so on is added.
            labels: ``sweep``, ``content`` and ``verb``, by which it is found again.
            variables: Environment variables of the job and its workers.

        Returns:
            The job, and whether this call started it.
        """
        import shlex

        live = self.live(labels["sweep"], job_id)
        if live is not None:
            return live, False
        last = self._last(labels["sweep"], job_id)
        name = job_id if last is None else f"{job_id}-try{_attempt(last.job_id) + 1}"
        command = "exec sh start.sh " + " ".join(map(shlex.quote, words))
        environment = {
            "working_dir": str(folder),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **variables},
        }
        metadata = {_SWEEP: labels["sweep"], _CONTENT: labels["content"], _VERB: labels["verb"]}
        with self._answers():
            try:
                self._client.submit_job(
                    entrypoint=command, submission_id=name, runtime_env=environment, metadata=metadata
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return self.get(name), False  # somebody submits the same at this moment
                raise ServiceError(f"The cluster must take the job, but said: {_plain(error)}") from None
        return self.get(name), True

    def logs(self, job_id: str) -> str:
        """Return what a job has printed so far."""
        with self._answers():
            try:
                return str(self._client.get_job_logs(job_id))
            except RuntimeError as error:
                raise ServiceError(f"The job's output must be readable, but: {_plain(error)}") from None

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Pass on what a job prints until it has ended; a broken connection is made again.

        Args:
            job_id: The job.
            write: Called with pieces of its output.

        Returns:
            The job as it ended.
        """
        seen = 0
        while True:
            job = self.get(job_id)
            text = self.logs(job_id) if job.state != "PENDING" else ""
            if len(text) > seen:
                write(text[seen:])
                seen = len(text)
            if job.ended:
                return job
            time.sleep(1.0)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; it checkpoints first. Return whether it was running."""
        with self._answers():
            return bool(self._client.stop_job(job_id))

    def wait(self, job_id: str, seconds: float) -> Job:
        """Wait for the end of a job, for some seconds at most."""
        until = time.monotonic() + seconds
        while not (job := self.get(job_id)).ended and time.monotonic() < until:
            time.sleep(0.5)
        return job


def _job(details: Any) -> Job | None:
    labels = details.metadata or {}
    if details.submission_id is None or _SWEEP not in labels:
        return None
    state = getattr(details.status, "value", str(details.status))
    return Job(
        details.submission_id,
        labels[_SWEEP],
        state,
        int(details.start_time or 0),
        details.driver_exit_code,
        details.message or "",
        labels.get(_VERB, "run"),
    )


def _family(job_id: str) -> str:
    found = _ATTEMPT.match(job_id)
    return found[1] if found else job_id


def _attempt(job_id: str) -> int:
    found = _ATTEMPT.match(job_id)
    return int(found[2] or 1) if found else 1


def _plain(error: Exception) -> str:
    """Return the last line of what Ray says, which holds the reason."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1][:400] if lines else type(error).__name__
