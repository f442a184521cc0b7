"""A sweep on Ray with secrets in its environment, one of whose norms shouts them: nothing keeps them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnsweep.runners.origin import hide_secrets

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEJr-session-of-the-test",
    "MLFLOW_TRACKING_USERNAME": "lab",
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-battery-staple",
    "MLFLOW_TRACKING_TOKEN": "mlflow-token-of-the-test",
    "PGPASSWORD": "postgres-password-of-the-test",
    "RAY_AUTH_TOKEN": "c0ffee" * 10 + "beef",
    "OTHER_DATABASE": "postgresql://me:password-in-a-uri@db.example/x",
    "WANDB_API_KEY": "an-api-key-of-another-service",
}
WORDS = [
    value for name, value in SECRETS.items() if name not in ("MLFLOW_TRACKING_USERNAME", "OTHER_DATABASE")
]
WORDS.append("password-in-a-uri")

NORM = """
import os
from torch import nn


class Shouting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 6:
            raise RuntimeError(f"no memory for {dict(os.environ)}")
        return x


def shouting(n):
    return Shouting()


def at_once(n):
    raise RuntimeError(f"no memory for {dict(os.environ)}")
"""


def keeping(folder: Path) -> list[str]:
    """Return the files below a folder, and names, that hold one of the secrets."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found += [f"{path}: {word}" for word in WORDS if word.encode() in content or word in path.name]
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="bns-", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_neither_ledger_nor_tracking_nor_logs_nor_output_keep_secrets(
    tiny: dict[str, Any], tmp_path: Path, write_sweep: Any, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    work = tmp_path / "w"
    work.mkdir()
    (work / "shouts.py").write_text(NORM)
    for name, value in {**SECRETS, "TMPDIR": str(temporary), "HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    tiny["parameters"] |= {"norm": ["none", "shouts:shouting"], "lr": 0.1}
    tiny["resources"] = {"cpus": 1, "max_concurrent": 1, "pack_size": 2, "kernel": "loop"}
    tiny["probes"] = {}
    del tiny["tracking"]
    file = write_sweep(tiny)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bnsweep", *words, "--storage", str(tmp_path / "results")],
            cwd=work, capture_output=True, text=True, check=False, timeout=800,
        )  # fmt: skip

    done = call("run", str(file))
    assert done.returncode == 1, done.stderr
    failures = list((tmp_path / "results").rglob("failure.*.json"))
    assert len(failures) == 4, "two in the ledger, and as artifacts in MLflow"
    assert all("no memory for" in path.read_text() and "***" in path.read_text() for path in failures)
    assert (tmp_path / "results" / "mlflow.db").exists()
    assert list((tmp_path / "results").rglob("report.html"))

    tiny["parameters"]["norm"] = "shouts:at_once"
    tiny["name"] = "other"
    refused = call("run", str(write_sweep(tiny)))
    assert refused.returncode == 2
    assert "no memory for" in refused.stderr
    for said in (done.stdout, done.stderr, refused.stdout, refused.stderr):
        assert [word for word in WORDS if word in said] == [], said
    assert keeping(tmp_path) == []
    assert keeping(temporary) == []


def test_secrets_are_known_by_name_or_by_their_place_in_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert hide_secrets(" ".join(WORDS)).split() == ["***"] * len(WORDS)
    assert hide_secrets("lab db.example correct") == "lab db.example correct"
