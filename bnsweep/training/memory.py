"""How much memory this process has used at its highest, and how much a machine has left."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["available_bytes", "peak_bytes", "process_peak_bytes", "reset_peak"]

_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def reset_peak(device: torch.device) -> None:
    """Begin a new measurement; :func:`peak_bytes` then starts from what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    _return_unused()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # elsewhere than on Linux the peak is that of the whole life of the process


def peak_bytes(device: torch.device) -> int:
    """Return the most memory in use on ``device`` since :func:`reset_peak`, in bytes.

    On the CPU this is the resident memory of the whole process.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return process_peak_bytes()


def process_peak_bytes() -> int:
    """Return the resident memory of this process at its highest, in bytes; 0 where it is not known."""
    return _status("VmHWM")


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on ``device``, in bytes, or ``None`` where it is not known.

    On the CPU the limit of the control group counts too, which is what containers and Slurm set.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_meminfo("MemAvailable")]
    for limit, used in _GROUPS:
        most, now = _number(limit), _number(used)
        if most is not None and now is not None:
            found.append(max(0, most - now))
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _return_unused() -> None:
    """Give memory that was freed back to the system, where the C library can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    return _line("/proc/self/status", name) or 0


def _meminfo(name: str) -> int | None:
    return _line("/proc/meminfo", name)


def _line(path: str, name: str) -> int | None:
    """Return a size given in kB in a file of ``name: value`` lines, in bytes."""
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(name + ":"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # "max" where there is no limit
        return None
