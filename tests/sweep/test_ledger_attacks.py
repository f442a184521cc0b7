"""The ledger under attack: what fails fails loudly, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnsweep.errors import LedgerError
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig

ROWS = [(step, "train_loss", 0, float(step % 977) / 7, 1000 + step) for step in range(9000)]


@pytest.fixture
def ledger(storage: str) -> Ledger:
    return Ledger.open(storage, "demo", create=True)


@pytest.fixture
def on_disk(tmp_path: Path) -> Ledger:
    """A ledger in a folder, for what a store has no counterpart of."""
    return Ledger.open(tmp_path, "demo", create=True)


def scratch(ledger: Ledger) -> list[str]:
    """Return what lies in the scratch folder; a store's has the object that tells whether it can be used."""
    return [path.name for path in (ledger.root / "tmp").iterdir() if path.name != "probe"]


def make_record(seed: int = 0) -> Record:
    return Record.of(TrialConfig.create({"norm": "batch", "seed": seed}), "completed", 10, {"x": 1.0})


def plan_of(seeds: int) -> dict[str, Any]:
    trials = [make_record(seed).config for seed in range(seeds)]
    return {"trials": [{"trial_id": t.trial_id, "label": t.label(), **t.to_dict()} for t in trials]}


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """Let no file of this process grow past 4 kB: writes fail in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


LARGE = "x" * 9000
WRITES: dict[str, Callable[[Ledger], object]] = {
    "record": lambda ledger: ledger.write_record(make_record(1), ROWS),
    "checkpoint": lambda ledger: ledger.save_checkpoint("abc1", 10, lambda file: file.write(bytes(9000))),
    "sealed": lambda ledger: ledger.seal_readings("abc1", 2, {make_record(1).trial_id: ROWS}),
    "pack": lambda ledger: ledger.write_pack("abc2", {"trials": LARGE}),
    "plan": lambda ledger: ledger.write_sweep("seeds: 9\n", plan_of(40)),
    "sweep": lambda ledger: ledger.write_sweep(LARGE, plan_of(1)),
    "failure": lambda ledger: ledger.write_failure(make_record(1).trial_id, LARGE),
    "environment": lambda ledger: ledger.write_environment({"packages": LARGE}),
    "calibration": lambda ledger: ledger.write_calibration("sig", "cpu", {"measured": LARGE}),
    "search-event": lambda ledger: ledger.search_log.append("suggest", trials=[], note=LARGE),
}


def known(ledger: Ledger) -> tuple[Any, ...]:
    """Return all that a reader can learn of the ledger."""
    fresh = Ledger(ledger.root)
    found = (
        fresh.done(), len(fresh.read_all_curves()), fresh.load_checkpoint("abc1"), fresh.pack_ids(),
        {trial: len(rows) for trial, rows in fresh.sealed("abc1").items()}, fresh.plan(), fresh.environment(),
        fresh.failed(), fresh.calibration("sig", "cpu"), len(fresh.search_log.read()),
    )  # fmt: skip
    assert fresh.warnings == []
    return found


@pytest.mark.parametrize("what", WRITES)
def test_a_disk_that_fills_up_during_a_write_loses_nothing(
    on_disk: Ledger, what: str, full_disk: Callable[[], None]
) -> None:
    ledger = on_disk
    ledger.write_sweep("seeds: 1\n", plan_of(1))
    ledger.write_environment({"packages": "few"})
    ledger.write_pack("abc1", {"trials": []})
    ledger.write_record(make_record(0), ROWS)
    ledger.save_checkpoint("abc1", 5, lambda file: file.write(b"good"))
    ledger.seal_readings("abc1", 1, {make_record(1).trial_id: ROWS[:3]})
    ledger.search_log.append("begin")
    before = known(ledger)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    full_disk()
    try:
        with pytest.raises(LedgerError, match="File too large"):
            WRITES[what](ledger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert scratch(ledger) == []
    assert known(ledger) == before
    WRITES[what](ledger)
    assert known(ledger) != before or what == "sweep"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\x80\x04.", b'{"schema": 2}'], ids=repr)
@pytest.mark.parametrize("name", ["ledger.json", "plan.json"])
def test_a_damaged_marker_or_plan_is_refused_and_left_alone(ledger: Ledger, name: str, text: bytes) -> None:
    ledger.write_sweep("seeds: 1\n", plan_of(1))
    ledger.write_record(make_record(), ROWS)
    (ledger.root / name).write_bytes(text)
    with pytest.raises(LedgerError, match=rf"{name}|newer version") as caught:
        Ledger.open(ledger.root.parent, "demo", create=True).plan()
    assert "\n" not in str(caught.value)
    assert (ledger.root / name).read_bytes() == text
    assert (ledger.root / "trials" / make_record().trial_id / "record.json").exists()


def test_a_plan_written_again_finds_every_finished_trial(ledger: Ledger) -> None:
    ledger.write_sweep("seeds: 1\n", plan_of(1))
    ledger.write_record(make_record(), ROWS)
    (ledger.root / "plan.json").write_bytes(b"")
    ledger.write_sweep("seeds: 1\n", plan_of(1))
    assert [trial.config.trial_id for trial in ledger.planned()] == sorted(ledger.done())


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\x80\x04."], ids=repr)
def test_a_damaged_search_event_is_moved_aside_with_those_after_it(ledger: Ledger, text: bytes) -> None:
    for n in range(4):
        ledger.search_log.append("suggest", trials=[], n=n)
    (ledger.root / "search" / "00000002.json").write_bytes(text)
    fresh = Ledger(ledger.root)
    assert [event["n"] for event in fresh.search_log.read()] == [0, 1]
    assert len(fresh.warnings) == 1
    (place,) = (ledger.root / "quarantine").iterdir()
    assert (place / "00000002.json").read_bytes() == text and (place / "00000003.json").exists()
    fresh.search_log.append("suggest", trials=[], n=2)
    assert [event["n"] for event in Ledger(ledger.root).search_log.read()] == [0, 1, 2]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\x80\x04."], ids=repr)
def test_a_damaged_pack_is_moved_aside_and_can_be_opened_again(ledger: Ledger, text: bytes) -> None:
    ledger.write_pack("abc1", {"trials": []})
    (ledger.root / "packs" / "abc1" / "pack.json").write_bytes(text)
    assert ledger.open_packs() == {} and len(ledger.warnings) == 1
    assert ledger.write_pack("abc1", {"trials": ["x"]}) and list(ledger.open_packs()) == ["abc1"]


@pytest.mark.parametrize("kind", ["trial", "pack"])
def test_a_link_out_of_the_ledger_receives_nothing(on_disk: Ledger, tmp_path: Path, kind: str) -> None:
    ledger = on_disk
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    trial_id = make_record().trial_id
    place = ledger.root / ("trials/" + trial_id if kind == "trial" else "packs/abc1")
    place.symlink_to(elsewhere)
    with pytest.raises(LedgerError, match="symbolic link"):
        if kind == "trial":
            ledger.write_record(make_record(), ROWS)
        else:
            ledger.write_pack("abc1", {})
    assert list(elsewhere.iterdir()) == []


def test_nothing_of_the_ledger_is_unpickled(ledger: Ledger, tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    bomb = pickle.dumps(Bomb())
    ledger.write_sweep("seeds: 1\n", plan_of(1))
    ledger.write_record(make_record(), ROWS)
    ledger.write_pack("abc1", {})
    ledger.save_checkpoint("abc1", 5, lambda file: file.write(b"good"))
    ledger.seal_readings("abc1", 1, {make_record().trial_id: ROWS[:3]})
    ledger.search_log.append("begin")
    spared = ("ledger.json", "probe")
    files = [path for path in ledger.root.rglob("*") if path.is_file() and path.name not in spared]
    assert len(files) >= 9
    for path in files:
        path.write_bytes(bomb)
    fresh = Ledger(ledger.root)
    assert fresh.done() == set() and fresh.open_packs() == {} and fresh.load_checkpoint("abc1") is None
    assert fresh.sealed("abc1") == {} and fresh.search_log.read() == []
    with pytest.raises(LedgerError):
        fresh.plan()
    assert not (tmp_path / "exploded").exists()


KILLED = """
import os, sys
from bnsweep.sweep.ledger import Ledger
ledger = Ledger(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        step = int(line)
        while True:
            part = b"%07d." % step * 500
            ledger.save_checkpoint("abc1", step, lambda file: [file.write(part) for _ in range(4)])
            os.write(1, b"%d\\n" % step)
            step += 1
    print("child", child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


def test_sigkill_at_many_moments_of_writing_checkpoints_leaves_one_that_verifies(ledger: Ledger) -> None:
    chance = random.Random(0)
    remote = not isinstance(ledger.root, Path)
    ledger.write_pack("abc1", {})
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(ledger.root)], text=True, **pipes)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    acknowledged, torn, kills, least = -1, 0, 0, 10 if remote else 50
    while kills < least or (kills < 500 and not (acknowledged > least and (torn or remote))):
        kills += 1
        process.stdin.write(f"{acknowledged + 2}\n")
        process.stdin.flush()
        child = 0
        while not child:
            words = process.stdout.readline().split()
            child = int(words[1]) if words[0] == "child" else 0
            acknowledged = acknowledged if child else max(acknowledged, int(words[0]))
        if remote:  # where it takes a second to connect
            acknowledged = max(acknowledged, int(process.stdout.readline()))
        time.sleep(chance.uniform(0.0, 0.1 if remote else 0.03))
        os.kill(child, signal.SIGKILL)
        while (line := process.stdout.readline()) != "dead\n":
            acknowledged = max(acknowledged, int(line))
        torn += bool(scratch(ledger))
        fresh = Ledger.open(ledger.root.parent, "demo", create=True)
        assert scratch(ledger) == [] and fresh.warnings == []
        step, content = fresh.load_checkpoint("abc1") or (-1, b"")
        assert step >= acknowledged and content == (b"%07d." % step * 2000 if step >= 0 else b"")
        acknowledged = step
    process.communicate(timeout=110)
    assert process.returncode == 0
    assert acknowledged > least  # checkpoints were made
    assert torn > 0 or remote  # and some kills hit a write: a store shows no such
