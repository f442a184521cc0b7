"""One driver a sweep: who holds it, who takes over, and what a driver that lost it may still do."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from bnsweep.errors import LedgerBusyError
from bnsweep.sweep.files import encode_json, replace_bytes
from bnsweep.sweep.ledger import Ledger

HOLDER = """
import sys, time
from bnsweep.errors import LedgerBusyError
from bnsweep.sweep.ledger import Ledger
ledger = Ledger(sys.argv[1])
try:
    with ledger.exclusive(renew=0.05, expiry=0.5):
        print("holds", flush=True)
        time.sleep(60)
except LedgerBusyError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def ledger(storage: str) -> Ledger:
    return Ledger.open(storage, "demo", create=True)


def hold(ledger: Ledger) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ledger.root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    return process


def epochs(ledger: Ledger) -> list[int]:
    return sorted(int(path.stem) for path in (ledger.root / "lease").iterdir())


def content(ledger: Ledger) -> dict[str, Any]:
    return json.loads(max((ledger.root / "lease").iterdir()).read_text())


def leave(ledger: Ledger, **changes: Any) -> None:
    """Write the lease of a process of another machine that is heard of no more."""
    holder = {"process": 1, "host": "elsewhere", "machine": "elsewhere", "counter": 3, "taken_at": 0.0}
    (ledger.root / "lease").mkdir(exist_ok=True)
    (ledger.root / "lease" / "00000004.json").write_text(json.dumps(holder | changes))


def test_a_second_driver_is_refused_at_once_and_told_who_holds_the_sweep(ledger: Ledger) -> None:
    process = hold(ledger)
    try:
        began = time.monotonic()
        with (
            pytest.raises(LedgerBusyError, match=rf"process {process.pid} on {platform.node()}, since \d+ s"),
            Ledger(ledger.root).exclusive(),
        ):
            pytest.fail("two drivers hold one sweep")
        assert time.monotonic() - began < 2
        with pytest.raises(LedgerBusyError), Ledger(ledger.root).exclusive(wait=0.8, renew=0.05, expiry=0.5):
            pytest.fail("a living holder was taken over")
    finally:
        process.kill()
        process.communicate()


def test_a_dead_holder_of_this_machine_is_taken_over_at_once(ledger: Ledger) -> None:
    process = hold(ledger)
    process.kill()
    process.communicate()
    began = time.monotonic()
    with ledger.exclusive():
        assert epochs(ledger) == [2] and content(ledger)["process"] == os.getpid()
    assert time.monotonic() - began < 2
    assert content(ledger)["released"] is True


def test_a_process_number_used_again_is_not_the_holder(ledger: Ledger) -> None:
    with ledger.exclusive():
        known = content(ledger)
    (ledger.root / "lease" / "00000001.json").unlink()
    leave(ledger, machine=known["machine"], process=os.getpid(), process_began="1", renewed_at=time.time())
    with ledger.exclusive():
        assert epochs(ledger) == [5]


def test_a_stopped_holder_is_fenced_when_it_wakes(ledger: Ledger) -> None:
    process = hold(ledger)
    try:
        process.send_signal(signal.SIGSTOP)
        with ledger.exclusive(wait=20, renew=0.05, expiry=0.5):
            assert epochs(ledger) == [2]
            process.send_signal(signal.SIGCONT)
            said, _ = process.communicate(timeout=110)
            assert process.returncode == 5
            assert f"process {os.getpid()} on" in said and "has taken over" in said
            ledger.write_pack("abc1", {"trials": []})
        assert epochs(ledger) == [2]
    finally:
        process.kill()
        process.communicate()


def test_a_driver_that_lost_the_sweep_opens_no_pack_and_decides_nothing(ledger: Ledger) -> None:
    with pytest.raises(LedgerBusyError, match="has taken over"), ledger.exclusive():
        ledger.write_pack("abc1", {})
        (ledger.root / "lease" / "00000002.json").write_text('{"process": 7, "host": "other"}')
        with pytest.raises(LedgerBusyError, match="process 7 on other"):
            ledger.write_pack("abc2", {})
        with pytest.raises(LedgerBusyError):
            ledger.write_decision("abc1", 5, True)
    assert ledger.pack_ids() == ["abc1"] and ledger.decision("abc1", 5) is None
    assert epochs(ledger) == [1, 2] and content(ledger)["process"] == 7


@pytest.mark.parametrize("hours", [-1, 1], ids=["clock-set-forward", "clock-set-back"])
def test_a_clock_that_jumped_neither_frees_nor_keeps_a_sweep(ledger: Ledger, hours: int) -> None:
    stamp = time.time() + 3600 * hours
    leave(ledger, renewed_at=stamp)
    began = time.monotonic()
    moves = threading.Event()

    def live() -> None:
        counter = 3
        while not moves.wait(0.05):
            counter += 1
            holder = {"process": 1, "host": "far", "counter": counter, "renewed_at": stamp}
            path = ledger.root / "lease" / "00000004.json"
            replace_bytes(path, encode_json(holder), ledger.root / "tmp")

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(LedgerBusyError), ledger.exclusive(renew=0.05, expiry=1.0):
            pytest.fail("a living holder was taken over")
    finally:
        moves.set()
        thread.join()
    began = time.monotonic()
    with ledger.exclusive(renew=0.05, expiry=0.5):
        assert time.monotonic() - began >= 0.5
        assert epochs(ledger) == [5]


@pytest.mark.parametrize("text", ["", '{"process":', "[1]"], ids=["empty", "torn", "foreign"])
def test_a_damaged_lease_expires(ledger: Ledger, text: str) -> None:
    leave(ledger)
    (ledger.root / "lease" / "00000004.json").write_text(text)
    began = time.monotonic()
    with ledger.exclusive(renew=0.05, expiry=0.4):
        assert epochs(ledger) == [5] and time.monotonic() - began >= 0.4


def test_of_many_challengers_one_holds_at_a_time(ledger: Ledger) -> None:
    held: list[int] = []
    most: list[int] = []
    start = threading.Barrier(6)

    def challenge() -> None:
        start.wait()
        with Ledger(ledger.root).exclusive(wait=30, renew=0.02, expiry=10):
            held.append(1)
            most.append(len(held))
            time.sleep(0.03)
            held.pop()

    threads = [threading.Thread(target=challenge) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6 and max(epochs(ledger)) == 6
