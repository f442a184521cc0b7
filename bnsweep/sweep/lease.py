"""The lease on a sweep: which process may run it, and how another one takes over from a dead one.

A lease is a file ``lease/<epoch>.json``; the highest epoch holds. It is made by ``os.link``, which is
atomic on disks and NFS, or by a conditional write to a store, so that of several challengers one wins;
its holder alone rewrites it, with a counter that grows. A challenger that has seen the counter stand
still for ``expiry`` seconds of its own monotonic clock makes the next epoch; no two clocks are compared.
A holder that finds a higher epoch has lost the sweep, and stops.
"""

from __future__ import annotations

import math
import os
import platform
import re
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnsweep.errors import LedgerBusyError, LedgerError
from bnsweep.sweep.files import encode_json, link_bytes, names_in, read_json, replace_bytes
from bnsweep.sweep.places import Place

__all__ = ["EXPIRY_SECONDS", "RENEW_SECONDS", "Holder", "Lease"]

RENEW_SECONDS = 5.0
"""How often a holder moves its counter."""

EXPIRY_SECONDS = 30.0
"""How long a counter must stand still before another process takes over."""

_NAME = re.compile(r"([0-9]{8})\.json")


@dataclass(frozen=True)
class Holder:
    """Who has a sweep, as far as its lease tells without waiting.

    Attributes:
        epoch: Number of the lease.
        host: Its machine.
        process: Its process id; 0 where that is not known.
        state: ``alive``; ``silent`` where it has not been heard of for the time of expiry, by the wall
            clock; ``dead`` where its process has ended without a word; ``released``.
        taken_at: When it took the lease, in seconds since 1970; 0 where that is not known.
        heard_at: When it was last heard of, by its own clock.
    """

    epoch: int
    host: str
    process: int
    state: str
    taken_at: float
    heard_at: float


class Lease:
    """The lease on one sweep, as one process sees it.

    Args:
        root: The sweep's folder.
        name: The sweep's name, for messages.
        renew: Seconds between two moves of the counter.
        expiry: Seconds for which a counter must stand still before another process takes over.
    """

    def __init__(
        self, root: Place, name: str, renew: float = RENEW_SECONDS, expiry: float = EXPIRY_SECONDS
    ) -> None:
        self._folder, self._scratch, self._name = root / "lease", root / "tmp", name
        self._renew, self._expiry = renew, expiry
        self._epoch = 0
        self._content: dict[str, Any] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._interrupts = False
        self.lost = False

    def take(self, wait: float = 0.0) -> None:
        """Take the lease, and keep it until :meth:`release`.

        A holder that seems to be alive is waited for as long as ``wait`` says. One that has not been
        heard of is watched for the time of expiry, however short ``wait`` is.

        Args:
            wait: Seconds to wait for a living holder.

        Raises:
            LedgerBusyError: If another process holds it.
            LedgerError: If the disk refuses.
        """
        until = time.monotonic() + wait
        watched: tuple[object, ...] = ()
        alive = False
        since = time.monotonic()
        while True:
            epoch, holder = self._highest()
            seen = (epoch, holder.get("counter"), holder.get("process"))
            if seen != watched:
                alive = bool(watched)  # something moved while we looked
                watched, since = seen, time.monotonic()
            waited = time.monotonic() - since
            free = epoch == 0 or holder.get("released") or _is_dead(holder) or waited >= self._expiry
            if free and self._claim(epoch + 1):
                break
            silent = not self._heard_of(holder) and not alive
            if not free and not silent and time.monotonic() >= until:
                raise LedgerBusyError(self._refusal(holder))
            time.sleep(min(self._renew, self._expiry) / 5)
        self._interrupts = threading.current_thread() is threading.main_thread()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        """The epoch that this process holds, or tried to; 0 before."""
        return self._epoch

    def follow(self, epoch: int) -> None:
        """Have :meth:`check` ask for another process's lease, without holding it."""
        self._epoch = epoch

    def look(self) -> Holder | None:
        """Return who has the sweep, or had it last, without a wait; ``None`` where nobody ever had."""
        epoch, holder = self._highest()
        if not epoch:
            return None
        if holder.get("released"):
            state = "released"
        elif _is_dead(holder):
            state = "dead"
        else:
            state = "alive" if self._heard_of(holder) else "silent"
        process = holder.get("process")
        return Holder(
            epoch,
            str(holder.get("host", "")),
            process if isinstance(process, int) else 0,
            state,
            _seconds(holder.get("taken_at")),
            _seconds(holder.get("renewed_at")),
        )

    def check(self) -> None:
        """Raise if another process has taken over.

        Raises:
            LedgerBusyError: If so, naming it.
        """
        epoch, holder = self._highest()
        if epoch > self._epoch:
            self.lost = True
            raise LedgerBusyError(self._refusal(holder, "has taken over"))

    def release(self) -> None:
        """Give the lease back, unless another process has taken it over."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(LedgerError):  # a full disk: it expires, at once where this process has ended
            if self._highest()[0] == self._epoch:
                self._write({"released": True})

    def _claim(self, epoch: int) -> bool:
        content = {
            "process": os.getpid(),
            "host": platform.node(),
            "machine": _machine(),
            "process_began": _began(os.getpid()),
            "taken_at": time.time(),
        }
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"The results folder must be writable, but making {self._folder} failed: "
                f"{error.strerror or error}. Free space or mend the permissions, then run again."
            ) from error
        self._content, self._epoch = content | {"counter": 0, "renewed_at": time.time()}, epoch
        path = self._path(epoch)
        if not link_bytes(path, encode_json(self._content | {"epoch": epoch}), self._scratch):
            return False
        numbers = self._epochs()
        if max(numbers) > epoch:  # we looked before somebody else took and gave back this epoch
            path.unlink(missing_ok=True)
            return False
        for number in numbers:
            if number < epoch:
                with suppress(OSError):  # it is over, whether its file is there or not
                    self._path(number).unlink(missing_ok=True)
        return True

    def _keep(self) -> None:
        while not self._ended.wait(self._renew):
            try:
                self.check()
                self._write({"counter": self._content["counter"] + 1, "renewed_at": time.time()})
            except LedgerBusyError:
                if self._interrupts and not self._ended.is_set():
                    # to that thread: another one may be chosen, and would leave it asleep
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            except LedgerError:
                continue  # a full disk: the counter stands still, and the run fails by itself or goes on

    def _write(self, changes: dict[str, Any]) -> None:
        self._content |= changes
        replace_bytes(self._path(self._epoch), encode_json(self._content), self._scratch)

    def _path(self, epoch: int) -> Place:
        return self._folder / f"{epoch:08d}.json"

    def _epochs(self) -> list[int]:
        return [int(found[1]) for found in map(_NAME.fullmatch, names_in(self._folder)) if found]

    def _highest(self) -> tuple[int, dict[str, Any]]:
        """Return the highest epoch and its holder, which is empty where the file cannot be read."""
        epoch = max(self._epochs(), default=0)
        try:
            return epoch, read_json(self._path(epoch)) if epoch else {}
        except (ValueError, OSError):
            return epoch, {}

    def _heard_of(self, holder: dict[str, Any]) -> bool:
        """Tell whether it is worth refusing at once: a hint by the wall clock, never a proof."""
        renewed = holder.get("renewed_at")
        return isinstance(renewed, (int, float)) and abs(time.time() - renewed) < self._expiry

    def _refusal(self, holder: dict[str, Any], does: str = "is at it") -> str:
        who = f"process {holder.get('process', 'of unknown number')} on {holder.get('host', 'unknown host')}"
        taken = holder.get("taken_at")
        age = f", since {max(0.0, time.time() - taken):.0f} s," if isinstance(taken, (int, float)) else ""
        return (
            f"Sweep {self._name} must be run by one process at a time, but {who}{age} {does}. Wait for it, "
            "or stop it; bnsweep status shows how far it is."
        )


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _machine() -> str:
    """Name the place in which process numbers mean the same: this boot and this process name space."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _began(process: int) -> str | None:
    """Return when a process began, in the kernel's ticks, so that a number used again is noticed."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _is_dead(holder: dict[str, Any]) -> bool:
    """Tell whether the holder is a process of this machine that has ended."""
    process = holder.get("process")
    if not isinstance(process, int) or process <= 0 or holder.get("machine") != _machine():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return holder.get("process_began") not in (None, _began(process))
