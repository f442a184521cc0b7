"""Status, stop and resume while another process runs the sweep: all through the ledger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.cli import main
from bnsweep.cli.status_verb import describe
from bnsweep.positions import Positions
from bnsweep.runners import Progress
from bnsweep.sweep.ledger import Ledger


@contextmanager
def running(file: Path, storage: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-m", "bnsweep", "run", str(file), "--storage", str(storage), "--in-process"]
    with (storage.parent / "run.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_for(true: Callable[[], Any], process: subprocess.Popen[bytes] | None = None) -> Any:
    end = time.monotonic() + 200
    while time.monotonic() < end:
        if found := true():
            return found
        assert process is None or process.poll() is None, "the run has ended"
        time.sleep(0.1)
    raise AssertionError("it did not come")


def status_of(storage: Path) -> api.Status | None:
    try:
        return api.status("tiny", str(storage))
    except Exception:
        return None  # not begun yet


@pytest.fixture
def long(tiny: dict[str, Any]) -> dict[str, Any]:
    """Two packs, of which the first takes longer than any test waits."""
    tiny["parameters"] |= {"steps": 1_000_000, "lr": [0.1], "log_every": 100_000, "eval_every": 100_000}
    tiny["probes"] = {}
    tiny["resources"] = {"pack_size": 1, "kernel": "grouped"}
    return tiny


@pytest.mark.slow
def test_what_another_process_does_is_seen_stopped_and_gone_on_with(
    long: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "results"
    file = write_sweep(long)
    with running(file, storage) as process:
        found = wait_for(lambda: (one := status_of(storage)) and one.positions and one, process)
        assert found.state == "running"
        assert found.driver["pid"] == process.pid
        (position,) = found.positions
        assert (position.members, position.pid, position.steps) == (1, process.pid, 1_000_000)
        assert position.pack_id in Ledger(storage / "tiny").open_packs()
        again = wait_for(
            lambda: (one := status_of(storage)) and one.positions[0].step > position.step and one
        )
        assert again.trials_per_minute > 0
        worth = sum(one.step / one.steps for one in again.positions)
        assert again.seconds_left == pytest.approx(60 * (2 - worth) / again.trials_per_minute, rel=1e-6)
        assert again.states == {"pending": 2}
        for retry in ([], ["--retry-failed"]):
            assert main(["resume", "tiny", "--storage", str(storage), "--in-process", *retry]) == 5
        assert main(["stop", "tiny", "--storage", str(storage)]) == 0
        assert process.wait(timeout=100) == 3
    capsys.readouterr()
    found = api.status("tiny", str(storage))
    assert (found.state, found.positions, found.trials_per_minute) == ("interrupted", (), None)
    assert found.interrupted_at is not None
    assert main(["status", "tiny", "--storage", str(storage)]) == 0
    out = capsys.readouterr().out
    assert f"interrupted at {found.interrupted_at}" in out
    assert "bnsweep resume" in out
    before = Ledger(storage / "tiny").open_packs().keys()
    with running(file, storage) as process:  # resume is run
        found = wait_for(
            lambda: (one := status_of(storage)) and one.positions and one.positions[0].from_step and one,
            process,
        )
        assert found.positions[0].step >= found.positions[0].from_step > 0
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    found = api.status("tiny", str(storage))
    assert (found.state, found.positions) == ("interrupted", ())  # its last word is not trusted
    assert Ledger(storage / "tiny").open_packs().keys() == before


def test_a_sweep_that_is_done_or_was_never_run(
    tiny: dict[str, Any], sweeps: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bnsweep.runners import LocalRunner

    tiny["resources"] = {"kernel": "grouped"}
    api.calibrate(tiny, runner=LocalRunner(), storage=str(tmp_path))
    assert api.status("tiny", str(tmp_path)).state == "incomplete"
    sweeps.run(tiny, tmp_path)
    found = api.status("tiny", str(tmp_path))
    assert (found.state, found.finished, found.open_packs) == ("done", 6, 0)
    assert main(["status", "--storage", str(tmp_path), "--json"]) == 0
    (content,) = json.loads(capsys.readouterr().out)
    assert content["states"] == {"completed": 4, "diverged": 2}
    assert content["positions"] == []
    longer = sweeps.changed(tiny, steps=41)
    Ledger(tmp_path / "tiny").write_sweep("x", {**api.plan(longer).to_dict()})
    assert api.status("tiny", str(tmp_path)).state == "incomplete"
    bare = Ledger.open(tmp_path, "bare", create=True)
    bare.write_sweep("x", {**api.plan(tiny).to_dict()})
    assert api.status("bare", str(tmp_path)).state == "not run"


@pytest.fixture
def ledger(tiny: dict[str, Any], tmp_path: Path) -> Ledger:
    made = Ledger.open(tmp_path, "tiny", create=True)
    made.write_sweep("x", {**api.plan(tiny).to_dict(), "tracking": "none"})
    return made


def test_the_rate_counts_what_this_run_trained(ledger: Ledger) -> None:
    """In two minutes 16 trials whole and half of 16 others, which had a quarter before: 24 in 2 min."""
    seconds = [100.0]
    with ledger.exclusive():
        told = Positions(ledger, 48, clock=lambda: seconds[0])
        told.update(Progress("a", 16, 0, 100))
        seconds[0] += 60
        told.update(Progress("a", 16, 100, 100, finished=True, states={"completed": 15, "diverged": 1}))
        seconds[0] += 60
        told.update(Progress("b", 16, 75, 100, from_step=25))
        found = api.status(ledger.root)
    assert found.state == "running"
    assert [one.step for one in found.positions] == [75]
    assert ledger.progress()["finished"] == {"completed": 15, "diverged": 1}
    assert found.trials_per_minute == pytest.approx(12)
    assert found.seconds_left == pytest.approx(60 * (48 - 16 - 12) / 12)  # three quarters of 16 are done


def test_few_writes_whatever_is_reported(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr(Ledger, "write_progress", lambda self, content: written.append(content))
    seconds = [0.0]
    told = Positions(ledger, 10, clock=lambda: seconds[0])
    for step in range(10_000):
        seconds[0] = step / 1000  # ten seconds
        told.update(Progress("a", 1, step, 10_000))
    told.end("done")
    assert 4 <= len(written) <= 6
    assert written[-1]["ended"] == "done"


def test_positions_of_an_earlier_run_are_not_shown(ledger: Ledger) -> None:
    """Another process has taken the sweep since, and has not said anything yet."""
    with ledger.exclusive():
        Positions(ledger, 6).update(Progress("a", 6, 1, 100))
        stale = {**ledger.progress(), "packs": [{"pack_id": "a", "members": 6, "step": 1, "steps": 100}]}
        ledger.write_progress(stale)
        assert api.status(ledger.root).positions
    with ledger.exclusive():
        found = api.status(ledger.root)
    assert (found.state, found.positions) == ("running", ())


def test_a_driver_of_another_machine_that_fell_silent(ledger: Ledger) -> None:
    with ledger.exclusive():
        pass
    (path,) = (ledger.root / "lease").glob("*.json")
    holder = json.loads(path.read_text())
    del holder["released"]
    for renewed, state in ((time.time(), "running"), (time.time() - 60, "silent")):
        path.write_text(json.dumps({**holder, "machine": "elsewhere", "host": "far", "renewed_at": renewed}))
        found = api.status(ledger.root)
        assert found.state == state
        assert found.driver is not None and found.driver["host"] == "far"
    assert "probably interrupted" in "\n".join(describe(found))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b"null", b'{"schema": 99}', b'{"schema": 1, "packs": 3, "finished": []}',
        b'{"schema": 1, "packs": [1, {}, {"step": 1e400, "steps": "x"}], "total": NaN, "seconds": {}}',
        b'{"schema": 1, "packs": [{"steps": 1' + b"0" * 400 + b'}], "last_error": {"text": "\\u001b[2J"}}',
        b"\xff\xfe", b"[" * 100_000,
    ],
    ids=range(10),
)  # fmt: skip
def test_a_damaged_message_is_no_harm(ledger: Ledger, content: bytes) -> None:
    with ledger.exclusive():
        epoch = ledger.epoch
        (ledger.root / "progress.json").write_bytes(
            content.replace(b'"schema": 1', b'"epoch": %d, "schema": 1' % epoch)
        )
        found = api.status(ledger.root)
    assert found.states == {"pending": 6}
    assert "\x1b" not in "\n".join(describe(found)) + json.dumps(found.to_dict())


def test_watching_prints_again_until_it_is_interrupted(
    tiny: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    sweeps.run(tiny, tmp_path / "results")
    words = [sys.executable, "-m", "bnsweep", "status", "tiny", "--storage", str(tmp_path / "results")]
    out = tmp_path / "out"
    with out.open("wb") as stream:
        process = subprocess.Popen([*words, "--json", "--watch", "0.2"], stdout=stream)
    wait_for(lambda: len(out.read_bytes().splitlines()) >= 3, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert {json.loads(line)["state"] for line in out.read_bytes().splitlines()[:3]} == {"done"}
