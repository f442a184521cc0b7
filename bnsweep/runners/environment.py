"""What numbers were made with: versions, commit, device."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from .origin import describe_origin

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

    sent = _submission()
    code = sent["code"] if sent else describe_origin(Path(__file__).parent.parent)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "packages": versions,
        "commit": code["commit"],
        "dirty": code["dirty"],
        **({"submission": sent} if sent else {}),
    }


def _submission() -> dict[str, Any] | None:
    """Return what was written down where the sweep was sent from: a cluster has no repository."""
    path = os.environ.get("BNSWEEP_SUBMISSION")
    if not path:
        return None
    try:
        content = json.loads(Path(path).read_text())
        return dict(content) if "commit" in content["code"] else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
