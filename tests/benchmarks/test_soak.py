"""Sweep after sweep in one process, with kills beside it, leaves nothing behind: the soak in short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_rounds_of_sweeps_and_kills_leave_nothing_behind() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0", "--rounds", "2", "--ray-every", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = [
        [int(word) for word in line.split(":")[1].split()]
        for line in done.stdout.splitlines()
        if re.match(r" +[0-9.]+ min: ", line)
    ]
    assert len(rounds) == 2
    first, last = rounds
    processes, files, sockets, temporary, *_ = last
    assert processes == 0
    assert files <= first[1] and sockets <= first[2] and temporary <= first[3]
