"""Ctrl-C and SIGTERM: the first checkpoints and exits 3 within ten seconds, the second leaves at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.sweep.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def large(tiny: dict[str, Any]) -> dict[str, Any]:
    """2 000 trials in packs of 32 members, which train for hours."""
    tiny["parameters"] |= {
        "model": "vgg11", "width": 0.125, "norm": ["none", "batch"], "steps": 100_000, "eval_every": 50_000,
        "lr": {"min": 0.001, "max": 1.0, "num": 100, "distribution": "log_uniform_values"},
    }  # fmt: skip
    for name in ("depth", "features", "weight_decay"):
        del tiny["parameters"][name]
    tiny["seeds"] = 10
    tiny["probes"] = {"ics": {"every": 50_000}, "moments": {"every": 50_000}}
    tiny["resources"] = {"pack_size": 32, "kernel": "grouped", "cpus": 1, "max_concurrent": 2}
    del tiny["tracking"]
    return tiny


@pytest.fixture
def start(large: dict[str, Any], write_sweep: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that starts the sweep and waits until it trains; gives its process."""
    made: list[subprocess.Popen[bytes]] = []
    log = tmp_path / "log"

    def begin(*options: str, program: tuple[str, ...] = ("-m", "bnsweep")) -> subprocess.Popen[bytes]:
        words = [sys.executable, *program, "run", str(write_sweep(large)), *options]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*words, "--storage", str(tmp_path / "r")], stdout=file, stderr=file, start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
        made.append(process)
        end = time.monotonic() + 400
        while b"trials  " not in log.read_bytes() and len(list(tmp_path.glob("at-work.*"))) < 2:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        time.sleep(2)  # in the middle of something
        return process

    yield begin
    for process in made:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def checkpoints(root: Path) -> list[int]:
    ledger = Ledger(root)
    return [found[0] for pack in ledger.pack_ids() if (found := ledger.load_checkpoint(pack))]


def busy() -> float:
    """How much longer everything takes than on a machine whose CPUs have nobody waiting for them."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.parametrize(
    ("options", "number"),
    [
        pytest.param(("--in-process",), signal.SIGTERM, id="in-process"),
        pytest.param((), signal.SIGTERM, marks=pytest.mark.ray, id="ray"),
        pytest.param((), signal.SIGINT, marks=pytest.mark.ray, id="ray-ctrl-c"),
    ],
)
def test_the_first_signal_checkpoints_and_exits_3_within_ten_seconds(
    options: tuple[str, ...], number: signal.Signals, start: Any, tmp_path: Path
) -> None:
    process = start(*options)
    began = time.monotonic()
    process.send_signal(number)
    code = process.wait(60)
    seconds = time.monotonic() - began
    text = (tmp_path / "log").read_text()
    assert code == 3, text
    assert "resume" in text and "Traceback" not in text
    steps = checkpoints(tmp_path / "r" / "tiny")
    assert len(steps) == (1 if options else 2) and min(steps) > 0
    print(f"{seconds:.1f} s, load {os.getloadavg()[0]:.1f}")
    assert seconds < min(10 * busy(), 20)


MINUTES = """
import os
from dataclasses import replace
from bnsweep.cli import main
from bnsweep.runners import tune

class Minutes(tune.PackTrainable):
    "A worker that reports seldomer than one of a crowd, and makes no checkpoint before it is told to."
    reports_a_second, longest_step = 0.01, 300.0

    def setup(self, config, context=None, **more):
        super().setup(config, context=replace(context, checkpoint_seconds=1e9), **more)

    def step(self):
        open(os.environ["AT_WORK"] + str(os.getpid()), "w").close()
        return super().step()

init = tune.TuneRunner.__init__

def seldom(self, *words, **options):
    init(self, *words, **options)
    self.trainable = Minutes

tune.TuneRunner.__init__ = seldom
raise SystemExit(main())
"""


@pytest.mark.ray
def test_a_stop_reaches_workers_in_the_middle_of_a_step_of_minutes(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AT_WORK", f"{tmp_path}/at-work.")
    process = start(program=("-c", MINUTES))
    time.sleep(5)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 3, (tmp_path / "log").read_text()
    seconds = time.monotonic() - began
    steps = checkpoints(tmp_path / "r" / "tiny")
    assert len(steps) == 2 and min(steps) > 0, "both have kept what they had"
    print(f"{seconds:.1f} s, load {os.getloadavg()[0]:.1f}")
    assert seconds < min(10 * busy(), 20)


@pytest.mark.parametrize(
    "options", [("--in-process",), pytest.param((), marks=pytest.mark.ray)], ids=["in-process", "ray"]
)
def test_the_second_signal_leaves_at_once(options: tuple[str, ...], start: Any, tmp_path: Path) -> None:
    process = start(*options)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    seconds = time.monotonic() - began
    text = (tmp_path / "log").read_text()
    assert code == 3, text
    assert "Traceback" not in text
    print(f"{seconds:.1f} s, load {os.getloadavg()[0]:.1f}")
    assert Ledger(tmp_path / "r" / "tiny").pack_ids()
    assert seconds < min(5 * busy(), 20)


def test_leaving_at_once_does_not_wait_for_a_server_that_hangs(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A second Ctrl-C comes as an error out of the runner, while the mirror hangs in a call."""
    began = []

    class Interrupted:
        def run(self, source: Any, context: Any, report: Any) -> bool:
            began.append(time.monotonic())
            raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as server:  # takes calls, and never answers
        tiny["tracking"] = {"uri": f"http://127.0.0.1:{server.getsockname()[1]}"}
        with pytest.raises(KeyboardInterrupt):
            api.run(tiny, runner=Interrupted(), storage=str(tmp_path / "r"))
    assert time.monotonic() - began[0] < 5 * busy(), "nobody waits two minutes"
    assert Ledger(tmp_path / "r" / "tiny").progress()["ended"] == "interrupted"
