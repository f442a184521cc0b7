"""What it takes to go on with a large sweep: time and memory until the first new trial trains.

``python -m benchmarks.resume`` makes a ledger in which all trials but one condition's are done, calls
``bnsweep resume`` in a process of its own, in this process's folder and (``--s3``) in a bucket of a server on
127.0.0.1 started for it, and measures from outside until the driver hands packs to the worker. A ledger of
8 trials says what any start takes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.platform import call, content, cpu_of, environment, line, memory_of, write_ledger

__all__ = ["Resumed", "bucket", "resume"]


class Resumed:
    """How a resumed run began.

    Attributes:
        seconds: Wall time until packs were handed to the worker.
        cpu: CPU seconds of the driver until then; looking at norms and data is a process of its own.
        megabytes: The driver's peak memory until then.
        left: Trials it had to run.
    """

    def __init__(self, seconds: float, cpu: float, megabytes: float, left: int) -> None:
        self.seconds, self.cpu, self.megabytes, self.left = seconds, cpu, megabytes, left


def resume(root: str, log: Path) -> Resumed:
    """Call ``bnsweep resume`` on a ledger; stop it as soon as it trains."""
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "bnsweep", "resume", root, "--in-process"], env=environment(),
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            while b"packs; results in" not in log.read_bytes():
                if process.poll() is not None:
                    raise SystemExit(f"resume ended with {process.returncode}: {log.read_text()}")
                time.sleep(0.02)
            seconds, cpu = time.monotonic() - began, cpu_of(process.pid)
            peak = memory_of(process.pid, "VmHWM") / 1024
        finally:
            process.kill()
            process.wait()
    left = next(text for text in log.read_text().splitlines() if "to run" in text)
    return Resumed(seconds, cpu, peak, int(left.split(" to run")[0].split()[-1]))


def unfinished(trials: int, storage: Any) -> tuple[str, int]:
    """Make a ledger in which one condition is not done; return its address and how many trials it has."""
    from bnsweep import api
    from bnsweep.sweep import to_yaml
    from bnsweep.sweep.ledger import Ledger

    made = content(trials) | {"tracking": {"uri": "none"}, "resources": {"pack_size": 8, "kernel": "grouped"}}
    root, _ = write_ledger(made, storage)
    ledger, plan = Ledger(root), api.plan(made)
    spec = api.load(made)
    from bnsweep.analysis.claims import freeze
    from bnsweep.matching import stored_plan

    ledger.write_sweep(to_yaml(made), stored_plan(spec, plan) | {"claims": freeze(spec, {}, False)})
    for trial in plan.trial_ids[-len(plan.seeds) :]:
        for name in ("record.json", "curves.parquet"):
            (ledger.root / "trials" / trial / name).unlink()
    return str(root), plan.count


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """Start an S3 server on 127.0.0.1; give the address of a folder of results in it."""
    server = Path(__file__).parent.parent / "tests" / "s3_server.py"
    process = subprocess.Popen(
        [sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }  # fmt: skip
    request = urllib.request.Request(f"{endpoint}/benchmark", method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        pass
    try:
        yield "s3://benchmark/results"
    finally:
        process.kill()
        process.communicate()


def show(trials: int, storage: Any, where: str, folder: Path) -> None:
    """Measure a resume, and print it."""
    began = time.monotonic()
    root, count = unfinished(trials, storage)
    line(f"{where}: ledger of {count} trials made in (s)", f"{time.monotonic() - began:.0f}")
    if root.startswith("s3:"):
        spent = call("bnsweep", "status", root)
        line(
            "  status, the first to read, leaves an index: wall, CPU (s)",
            f"{spent.wall:.1f}, {spent.cpu:.1f}",
        )
    found = resume(root, folder / "log")
    line(
        f"  resume, {found.left} left: wall until it trains, driver's CPU (s)",
        f"{found.seconds:.1f}, {found.cpu:.1f}", "goal < 10",
    )  # fmt: skip
    line("  driver's peak memory until then (MB)", f"{found.megabytes:.0f}", "goal < 500")
    spent = call("bnsweep", "status", root)
    line("  status after it: wall, CPU (s)", f"{spent.wall:.1f}, {spent.cpu:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--s3", action="store_true", help="in a bucket too")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before, {time.strftime('%Y-%m-%d')}")
    folder = Path(tempfile.mkdtemp(prefix="bnsweep-resume-"))
    try:
        show(8, folder / "small", "what starting takes", folder)
        show(options.trials, folder / "results", "folder", folder)
        if options.s3:
            with bucket(folder) as storage:
                show(options.trials, storage, "bucket", folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
