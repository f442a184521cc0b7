"""What ends a verb as Ctrl-C does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

VERB = """
import signal, time
from bnsweep.cli.ending import end_like_ctrl_c
end_like_ctrl_c(signal.SIGTERM)
try:
    print("there", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def block_ctrl_c() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@pytest.mark.parametrize("begin", [None, ignore_ctrl_c], ids=["in front", "in the background of a script"])
def test_a_verb_that_is_told_to_end_stops_what_it_started(begin: Callable[[], None] | None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VERB], stdout=subprocess.PIPE, text=True, preexec_fn=begin
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "stopped\n"
        assert process.returncode == 0


STOPPED = """
import signal, threading, time
from bnsweep.cli.ending import heed_interrupts
heed_interrupts()
try:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("begin", [ignore_ctrl_c, block_ctrl_c], ids=["of a script", "of a Ray job"])
def test_a_stop_reaches_a_run_in_the_background(begin: Callable[[], None]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True, preexec_fn=begin
    ) as process:
        assert process.communicate(timeout=30)[0] == "stopped\n"
