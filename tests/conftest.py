"""What tests share: one thread an operator, and a sweep that trains in a second."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def tiny() -> dict[str, Any]:
    """Six trials of a small MLP on digits; one learning rate makes it diverge."""
    return {
        "name": "tiny",
        "parameters": {
            "model": "mlp",
            "depth": 2,
            "weight_decay": 0.001,
            "features": 8,
            "norm": "none",
            "lr": [0.1, 0.5, 1e6],
            "steps": 40,
            "eval_every": 20,
        },
        "seeds": 2,
        "probes": {"ics": {"every": 20}, "landscape": {"every": 20}, "moments": {"every": 20}},
        "tracking": {"uri": "none"},
    }


@pytest.fixture
def write_sweep(tmp_path: Path) -> Any:
    """Return a function that writes a sweep file and returns its path."""
    from bnsweep.sweep import to_yaml

    def write(content: dict[str, Any], name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.write_text(to_yaml(content))
        return path

    return write


@pytest.fixture
def least_cpu_seconds() -> Callable[[Callable[[], object]], float]:
    """Return a function that gives a call's CPU seconds, for limits that tell linear work from quadratic.

    The fastest of three tries, without the collection of what other tests left behind.
    """

    def least(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(3):
            gc.collect()
            gc.disable()
            try:
                start = time.process_time()
                work()
                seconds.append(time.process_time() - start)
            finally:
                gc.enable()
        return min(seconds)

    return least


class S3:
    """An S3 server of a test: a bucket of its own, and faults on demand; see ``s3_server.py``.

    Attributes:
        bucket: The test's bucket.
        storage: Where its ledgers go.
        endpoint: The server's address.
    """

    def __init__(self, endpoint: str, bucket: str) -> None:
        self.endpoint, self.bucket = endpoint, bucket
        self.storage = f"s3://{bucket}/some/prefix"

    def faults(self, *faults: dict[str, Any]) -> None:
        """Replace the faults, and forget the requests seen."""
        body = json.dumps(faults).encode()
        with urllib.request.urlopen(f"{self.endpoint}/_faults", body, timeout=30):
            pass

    def seen(self, *, beginning: str = "") -> list[str]:
        """Return the requests since the faults were set."""
        with urllib.request.urlopen(f"{self.endpoint}/_seen", timeout=30) as answer:
            return [line for line in json.load(answer) if line.startswith(beginning)]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Start the S3 server of all tests of this process."""
    command = [sys.executable, str(Path(__file__).with_name("s3_server.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.communicate()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    """Give a new bucket, to this process and to those it starts."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test-key-id",
        "AWS_SECRET_ACCESS_KEY": "test-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    server = S3(s3_endpoint, f"test-{uuid.uuid4().hex}")
    server.faults()
    request = urllib.request.Request(f"{s3_endpoint}/{server.bucket}", method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        pass
    yield server
    server.faults()
