"""A real file system that is full or cannot be written for a while: the run waits, and goes on by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.errors import LedgerError
from bnsweep.runners import LocalRunner
from bnsweep.sweep.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=6m", "bnsweep-test", str(folder)]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    path = disk / "somebody-elses"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        try:
            while True:
                file.write(b"x")
        except OSError:
            pass
    return path


def remount(disk: Path, how: str) -> None:
    """Change a mount between ``ro`` and ``rw``; again while a file is open for writing."""
    for _ in range(400):
        words = ["mount", "-o", f"remount,{how}", str(disk)]
        if not subprocess.run(words, capture_output=True, check=False).returncode:
            return
        time.sleep(0.02)
    raise AssertionError(f"the disk cannot be made {how}")


class Running:
    """``bnsweep run --in-process`` in a process of its own; collects what it says."""

    def __init__(self, file: Path, storage: Path) -> None:
        words = [sys.executable, "-m", "bnsweep", "run", str(file), "--in-process", "--storage", str(storage)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.said.extend(lines)

    def wait_for(self, text: str, patience: float = 120) -> None:
        end = time.monotonic() + patience
        while not any(text in line for line in list(self.said)):
            assert self.process.poll() is None, "".join(self.said)
            assert time.monotonic() < end, "".join(self.said)
            time.sleep(0.05)

    def end(self, patience: float = 150) -> int:
        code = self.process.wait(patience)
        self._reader.join()
        return code


@pytest.fixture
def running() -> Iterator[Callable[[Path, Path], Running]]:
    made: list[Running] = []

    def start(file: Path, storage: Path) -> Running:
        made.append(Running(file, storage))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.end()


def outcomes(root: Path) -> dict[str, str]:
    """What each record says, without times and places."""
    ledger = Ledger(root)
    found = {
        one.trial_id: json.dumps([one.state, one.steps, repr(sorted(one.readings.items()))])
        for one in ledger.records()
    }
    assert ledger.warnings == []
    return found


@pytest.fixture
def sweep(tiny: dict[str, Any]) -> dict[str, Any]:
    """Several packs, and some seconds of work."""
    tiny["parameters"] |= {"norm": ["none", "batch"], "steps": 500, "eval_every": 250}
    tiny["probes"] = {}
    tiny["resources"] = {"pack_size": 2, "kernel": "grouped"}
    return tiny


@pytest.mark.parametrize("what", ["full", "locked"])
def test_a_run_waits_for_its_disk_and_loses_nothing(
    what: str, sweep: dict[str, Any], write_sweep: Any, tmp_path: Path, disk: Path, running: Any
) -> None:
    """Half a minute in which nothing can be written; no trial is charged, none is trained anew."""
    run = running(write_sweep(sweep), disk / "r")
    run.wait_for("packs; results in")
    if what == "full":
        filler = fill(disk)
        free, seconds = filler.unlink, 6.0
    else:
        remount(disk, "ro")
        free, seconds = (lambda: remount(disk, "rw")), 30.0
    run.wait_for("paused: ")
    root = disk / "r" / "tiny"
    then = Ledger(root).done()
    time.sleep(seconds)
    assert run.process.poll() is None, "".join(run.said)
    assert Ledger(root).done() == then and Ledger(root).failed() == {}
    free()
    run.wait_for("the storage takes what is written again")
    assert run.end() == 0, "".join(run.said)
    assert "Traceback" not in "".join(run.said)
    found = outcomes(root)
    assert found.keys() == set(api.plan(sweep).trial_ids)
    if what == "full":  # training it again takes as long
        api.run(sweep, runner=LocalRunner(), storage=str(tmp_path / "whole"))
        assert found == outcomes(tmp_path / "whole" / "tiny")
    ledger = Ledger(root)
    assert ledger.failed() == {} and ledger.pack_ids() == []
    attempts = [record.attempts for record in ledger.records()]
    assert all(len(one) == 1 for one in attempts), "nothing was trained twice"
    assert [path.name for path in (root / "tmp").iterdir()] == []


def test_a_driver_without_room_ends_loudly_and_everything_acknowledged_is_there(
    sweep: dict[str, Any], tmp_path: Path, disk: Path
) -> None:
    """The plan of an extended sweep does not fit: exit with a sentence; what was done opens, and goes on."""
    small = {**sweep, "parameters": {**sweep["parameters"], "steps": 20}}
    first = api.run(small, runner=LocalRunner(), storage=str(disk / "r"))
    before = outcomes(first.root)
    more = {**small, "seeds": 60}
    filler = fill(disk)
    with pytest.raises(LedgerError, match=r"No space left.*then run again"):
        api.run(more, runner=LocalRunner(), storage=str(disk / "r"))
    assert outcomes(first.root) == before
    assert [trial.trial_id for trial in Ledger(first.root).planned()] == list(api.plan(small).trial_ids)
    filler.unlink()
    again = api.run({**small, "seeds": 3}, runner=LocalRunner(), storage=str(disk / "r"))
    assert again.exit_code == 0 and again.started == 6
    assert before.items() <= outcomes(again.root).items()
