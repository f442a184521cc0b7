"""Processes of a benchmark: starting runs, finding what belongs to them, killing it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["MARK", "Run", "Server", "kill", "marked"]

MARK = "BNSWEEP_CHAOS"
"""Environment variable by which every process that a benchmark has started, however indirectly, is found."""


def marked(mark: str, name: str = MARK) -> dict[int, str]:
    """Return the command lines of the live processes that inherited ``name=mark``, by process id."""
    found = {}
    wanted = f"{name}={mark}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with suppress(OSError):
            if wanted not in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                continue
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                words = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry)] = words.decode(errors="replace").strip()
    return found


def kill(pids: Any) -> int:
    """Send SIGKILL to processes; returns how many there were."""
    count = 0
    for pid in list(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            count += 1
    return count


class Server:
    """Starts runs by forking a process in which everything is imported; see :mod:`benchmarks.chaos.child`.

    Args:
        environment: Variables of every run.
        log: File to which the server's own words go.
    """

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        own["PYTHONPATH"] = os.pathsep.join([os.getcwd(), own.get("PYTHONPATH", "")])
        own.setdefault("OMP_NUM_THREADS", "1")
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.chaos.child"],
                env={**own, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
                text=True, bufsize=1,
            )  # fmt: skip
        self.pid = self._process.pid
        self._ended: dict[int, int] = {}
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._buffer = ""
        self._await("ready")

    def _lines(self) -> list[list[str]]:
        assert self._process.stdout is not None
        with suppress(BlockingIOError):
            self._buffer += os.read(self._process.stdout.fileno(), 65536).decode()
        *lines, self._buffer = self._buffer.split("\n")
        return [line.split() for line in lines if line]

    def _await(self, word: str, patience: float = 600.0) -> list[str]:
        end = time.monotonic() + patience
        while time.monotonic() < end and self._process.poll() is None:
            for words in self._lines():
                if words[0] == "ended":
                    self._ended[int(words[1])] = int(words[2])
                if words[0] == word:
                    return words
            time.sleep(0.005)
        raise RuntimeError(f"the server of runs has not said {word}: it has {self._process.poll()}")

    def start(self, log: Path, environment: dict[str, str], **run: Any) -> Run:
        """Start a run; see :func:`benchmarks.chaos.child.run` for what it takes."""
        request = {"log": str(log), "environment": environment, "run": run}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Run(self, int(self._await("started")[1]), log)

    def code_of(self, pid: int) -> int | None:
        """Return how a run ended, ``None`` while it has not."""
        for words in self._lines():
            if words[0] == "ended":
                self._ended[int(words[1])] = int(words[2])
        return self._ended.get(pid)

    def close(self) -> None:
        """End the server; runs go on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Run:
    """A run under way."""

    def __init__(self, server: Server, pid: int, log: Path) -> None:
        self.server, self.pid, self.log = server, pid, log
        self.began = time.monotonic()

    @property
    def code(self) -> int | None:
        """Its exit code; minus the signal that ended it; ``None`` while it goes on."""
        return self.server.code_of(self.pid)

    def wait(self, patience: float = 600.0) -> int | None:
        """Wait for its end; ``None`` where it takes longer."""
        end = time.monotonic() + patience
        while self.code is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.code
