"""What numbers were made with: versions, commit, device."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["describe_driver", "describe_environment"]


def describe_environment(device: str = "cpu") -> dict[str, Any]:
    """Return the versions and the device that a record's numbers come from."""
    import torch

    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "cpu"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
        "device_name": name,
        "host": platform.node(),
    }


def describe_driver() -> dict[str, Any]:
    """Describe what the driver runs on: versions, commit, machine."""
    packages = ("bnsweep", "torch", "torchvision", "ray", "mlflow", "numpy", "scipy", "pandas", "pyarrow")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"

    def git(*words: str) -> str | None:
        folder = str(Path(__file__).parent.parent)
        try:
            answer = subprocess.run(
                ["git", "-C", folder, *words], capture_output=True, text=True, check=False, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", ".")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "packages": versions,
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
    }
