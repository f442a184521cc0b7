"""Sweeps on a cluster, from a machine that is none of its own: submit, and the other verbs run there."""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from bnsweep import api
from bnsweep.doctor import Finding, exit_code_of
from bnsweep.errors import BnsweepError, ServiceError
from bnsweep.lookup import Source
from bnsweep.matching import text_of
from bnsweep.sweep import SweepSpec, make_plan

if TYPE_CHECKING:
    from bnsweep.runners.jobs import Job, Jobs

__all__ = ["SUBMISSION", "Submitted", "ask", "examine", "jobs_at", "resume", "submit", "sweep_name"]

SUBMISSION = "submission.json"
"""File beside the sweep's on the cluster: who sent it, from which commit, with which changes."""

WAIT_SECONDS = 86_400
"""How long a second job of one sweep waits for the first."""

ASK_SECONDS = 600.0


@dataclass(frozen=True)
class Submitted:
    """A sweep that a cluster has as a job.

    Attributes:
        job: The job.
        new: Whether it was started by this call.
        trials: Trials of the sweep.
        size: Bytes sent.
    """

    job: Job
    new: bool
    trials: int
    size: int


def jobs_at(address: str, insecure: bool = False, say: Callable[[str], None] = lambda _: None) -> Jobs:
    """Return the jobs of a cluster; see :func:`bnsweep.runners.jobs.connect`."""
    from bnsweep.runners.access import plain_text_warning
    from bnsweep.runners.jobs import connect

    warning = plain_text_warning(address)
    if warning:
        say(f"warning: {warning}")
    return connect(address, insecure=insecure)


def submit(
    file: str | PathLike[str],
    address: str,
    *,
    insecure: bool = False,
    storage: str | None = None,
    extra: Sequence[str] = (),
    flags: Sequence[str] = (),
    look: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Submitted:
    """Start a sweep as a job of a cluster, unless that job is there already.

    Args:
        file: The sweep file.
        address: ``http(s)://HOST:PORT`` of the cluster's dashboard.
        insecure: Permit a cluster on 127.0.0.1 that asks for no token.
        storage: Folder of results, instead of the file's; as the cluster's machines see it.
        extra: Further files and folders to send, such as modules that a norm imports.
        flags: Words for ``bnsweep run`` there, such as ``--retry-failed``.
        look: Let the cluster be examined first, as :func:`examine` does.
        say: Called with sentences for people.

    Returns:
        The job; it runs on whether this process lives or not.

    Raises:
        SpecError: If the file is wrong.
        BnsweepError: If storage is a relative folder, what is sent is too large, or a look has found a
            problem; nothing was started then.
        ServiceError: If the cluster does not answer or refuses the token, or what a look needs does not.
    """
    spec = api.load(file)
    _check_storage(spec, storage)
    where = [] if storage is None else ["--storage", storage]
    words = ["run", "sweep.yaml", "--wait", str(WAIT_SECONDS), *where, *flags]
    if insecure:
        words.append("--insecure")
    with _packed(spec, [Path(path) for path in extra]) as (folder, size, content):
        jobs = _checked(address, insecure, say)
        job_id = _job_id(spec.name, content, words)
        if look and jobs.live(spec.name, job_id) is None:
            _refuse_problems(examine(spec, address, insecure=insecure, storage=storage, say=say, jobs=jobs))
        job, new = _start(jobs, folder, words, job_id, spec.name, content)
    return Submitted(job, new, make_plan(spec).count, size)


def resume(
    name: str,
    address: str,
    *,
    insecure: bool = False,
    storage: str | None = None,
    flags: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Submitted:
    """Start a job that goes on with a sweep from the file in its ledger; as :func:`submit` otherwise.

    Args:
        name: The sweep, or its file, as the cluster's machines see it.
        address: As for :func:`submit`, like all that follow.
        insecure: Permit a cluster on 127.0.0.1 that asks for no token.
        storage: Folder of results.
        flags: Words for ``bnsweep resume`` there.
        say: Called with sentences for people.
    """
    where = [] if storage is None else ["--storage", storage]
    words = ["resume", name, "--wait", str(WAIT_SECONDS), *where, *flags]
    if insecure:
        words.append("--insecure")
    sweep = Path(name).name
    with _packed(None) as (folder, size, content):
        jobs = _checked(address, insecure, say)
        job, new = _start(jobs, folder, words, _job_id(sweep, content, words), sweep, content)
    return Submitted(job, new, 0, size)


def ask(
    words: Sequence[str],
    sweep: str,
    address: str,
    *,
    insecure: bool = False,
    write: Callable[[str], None],
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Run a verb on the cluster, where the storage is, and pass on what it prints.

    Args:
        words: The verb and its arguments.
        sweep: The sweep that it is about.
        address: ``http(s)://HOST:PORT`` of the cluster's dashboard.
        insecure: Permit a cluster on 127.0.0.1 that asks for no token.
        write: Called with what it prints.
        say: Called with sentences for people.

    Returns:
        Its exit code.
    """
    jobs = _checked(address, insecure, say)
    with _packed(None) as (folder, _, content):
        return _ask(jobs, folder, words, sweep, content, write)


def _ask(
    jobs: Jobs, folder: Path, words: Sequence[str], sweep: str, content: str, write: Callable[[str], None]
) -> int:
    """Run a verb as a short job and wait for its end; return its exit code."""
    verb = words[0]
    job_id = f"bnsweep-{sweep}-{verb}-{secrets.token_hex(4)}"
    job, _ = _start(jobs, folder, words, job_id, sweep, content, verb)
    job = jobs.wait(job.job_id, ASK_SECONDS)
    write(output_of(jobs.logs(job.job_id)))
    if not job.ended:
        jobs.stop(job.job_id)
        raise BnsweepError(f"{verb} must end within {ASK_SECONDS:.0f} s, but job {job.job_id} did not.")
    return job.exit_code if job.exit_code is not None else 4


def examine(
    file: Source | None,
    address: str,
    *,
    insecure: bool = False,
    storage: str | None = None,
    extra: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    jobs: Jobs | None = None,
) -> list[Finding]:
    """Look whether a sweep could run on a cluster, from any machine; see :mod:`bnsweep.doctor`.

    The address, the token and Ray's version are looked at from here, all else by a short job there.

    Args:
        file: The sweep file; without one, what every sweep needs is looked at.
        address: ``http(s)://HOST:PORT`` of the cluster's dashboard.
        insecure: Permit a cluster on 127.0.0.1 that asks for no token.
        storage: Folder of results, as the cluster's machines see it.
        extra: Further files and folders to send, as for :func:`submit`.
        say: Called with sentences for people.
        jobs: The cluster's jobs, where they are known.
    """
    spec: SweepSpec | None = None
    try:
        if file is not None:
            spec = api.load(file)
            _check_storage(spec, storage)
    except BnsweepError as error:
        return [Finding("file", "problem", str(error), error.exit_code)]
    try:
        jobs = jobs or _checked(address, insecure, say)
    except BnsweepError as error:
        return [Finding("cluster", "problem", str(error), error.exit_code)]
    first = Finding("cluster", "ok", f"{jobs.url} answers and takes the token; Ray {jobs.ray_version}")
    words = ["doctor", *(["sweep.yaml"] if spec else []), "--json"]
    words += [] if storage is None else ["--storage", storage]
    words += ["--insecure"] if insecure else []
    said: list[str] = []
    sweep = spec.name if spec else "all"
    try:
        with _packed(spec, [Path(path) for path in extra]) as (folder, _, content):
            _ask(jobs, folder, words, sweep, content, said.append)
        return [first, *_heard("".join(said))]
    except BnsweepError as error:
        return [first, Finding("job", "problem", str(error), error.exit_code)]


def _heard(text: str) -> list[Finding]:
    """Return the findings that a job has printed as its last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        return [Finding.of(content) for content in json.loads(lines[-1])["findings"]]
    except (ValueError, IndexError, KeyError, TypeError):
        last = lines[-1][:400] if lines else "nothing"
        text = f"A job must run on the cluster, but what it said was: {last}. See ray job logs."
        return [Finding("job", "problem", text, ServiceError.exit_code)]


def _refuse_problems(findings: Sequence[Finding]) -> None:
    """Raise what is wrong, all of it, as one error with the right exit code."""
    bad = [finding for finding in findings if finding.state == "problem"]
    if not bad:
        return
    text = "\n".join(f"{finding.what}: {finding.text}" for finding in bad)
    kind = ServiceError if exit_code_of(bad) == ServiceError.exit_code else BnsweepError
    raise kind(f"Nothing was started, since bnsweep doctor has found:\n{text}")


def output_of(text: str) -> str:
    """Return a job's output without the lines in which Ray speaks of itself."""
    lines = text.splitlines(keepends=True)
    return "".join(
        line for line in lines if "job_manager.py" not in line and "Running entrypoint" not in line
    )


def sweep_name(name: str) -> str:
    """Return the name of the sweep that a name, a sweep file or a ledger's folder means."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return api.load(path).name
    return path.name


def _check_storage(spec: SweepSpec, storage: str | None) -> None:
    stated = storage or (spec.storage if "storage" in spec.given else None)
    if stated is not None and "://" not in stated and not Path(stated).expanduser().is_absolute():
        raise BnsweepError(
            "storage must be s3://BUCKET/PREFIX or an absolute folder that all machines of the cluster "
            f"share, but found {stated}. Name it in the file or with --storage; without either, "
            "$BNSWEEP_STORAGE of the cluster's machines counts."
        )


@contextmanager
def _packed(spec: SweepSpec | None, extra: Sequence[Path] = ()) -> Iterator[tuple[Path, int, str]]:
    """Give a folder with what a job needs, its size in bytes and its digest; gone afterwards."""
    from bnsweep.runners.parcel import check_size, digest_of, fill, modules_of

    with tempfile.TemporaryDirectory(prefix="bnsweep-parcel-") as made:
        folder = Path(made)
        fill(folder, [*(modules_of(spec) if spec else []), *extra])
        if spec:
            (folder / "sweep.yaml").write_text(spec.text or text_of(spec))
        yield folder, check_size(folder), digest_of(folder)


def _start(
    jobs: Jobs, folder: Path, words: Sequence[str], job_id: str, sweep: str, content: str, verb: str = "run"
) -> tuple[Job, bool]:
    """Start a job with what lies in a folder, unless it is there already."""
    (folder / SUBMISSION).write_text(json.dumps(_submission(job_id, content), indent=1))
    labels = {"sweep": sweep, "content": content, "verb": verb}
    return jobs.submit(folder, words, job_id, labels, {"BNSWEEP_SUBMISSION": SUBMISSION})


def _job_id(sweep: str, content: str, words: Sequence[str]) -> str:
    """Return the id of the job that runs a sweep with this content and these words."""
    return f"bnsweep-{sweep}-{_short(content, words)}"


def _checked(address: str, insecure: bool, say: Callable[[str], None]) -> Jobs:
    """Return the jobs of a cluster that runs the Ray that is installed here."""
    jobs = jobs_at(address, insecure, say)
    _check_ray(jobs)
    return jobs


def _short(content: str, words: Sequence[str]) -> str:
    return hashlib.sha256("\0".join([content, *words]).encode()).hexdigest()[:10]


def _submission(job_id: str, content: str) -> dict[str, object]:
    """Describe who sends what, with the commit and the changes of the code and of the sweep's folder."""
    from bnsweep.runners.origin import describe_origin
    from bnsweep.sweep.records import now

    code = describe_origin(Path(__file__).parent)
    here = describe_origin(Path.cwd())
    return {
        "job": job_id,
        "content_sha256": content,
        "sent_at": now(),
        "sent_from": platform.node(),
        "python": platform.python_version(),
        "code": code,
        "folder": None if here["commit"] in (None, code["commit"]) else here,
    }


def _check_ray(jobs: Jobs) -> None:
    """Refuse a cluster with another Ray than the one that the sweep file was checked with."""
    from importlib import metadata

    from bnsweep.runners.admission import table

    own, theirs = metadata.version("ray"), jobs.ray_version
    if own.split(".")[:2] != theirs.split(".")[:2]:
        rows = [("", "here", "cluster"), ("ray", own, theirs)]
        raise BnsweepError(
            f"The cluster must run the Ray that is installed here, but they differ:\n{table(rows)}\nInstall "
            "the same constraints.txt on both."
        )
