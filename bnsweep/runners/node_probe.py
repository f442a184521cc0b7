"""What a node of a cluster is asked before anything starts; runs there, also where bnsweep is absent.

The functions here travel to nodes by value and need the standard library alone, but for a folder in a
store, which bnsweep itself opens.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PACKAGES", "look_around", "source_digest"]

PACKAGES = (
    "bnsweep",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pyarrow",
    "pandas",
    "optuna",
    "mlflow",
    "ray",
)
"""What decides a trial's numbers, or whether a worker and the driver understand each other."""


def source_digest() -> str:
    """Return 12 hex digits for the source files of the bnsweep that this process would import."""
    import hashlib
    import importlib.util
    import pathlib

    found = importlib.util.find_spec("bnsweep")
    if found is None or found.origin is None:
        return ""
    folder = pathlib.Path(found.origin).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def look_around(request: dict[str, Any]) -> dict[str, Any]:
    """Say what this node has.

    Args:
        request: ``packages``: names to look up. ``folder``: where the driver has put a file ``driver`` with
            the text ``nonce``, or its place in a store; it is read, and answered by a file named ``answer``.
            ``data_root``: a folder that should exist. Each but the first may be absent.

    Returns:
        ``host``, ``python``, ``packages`` by name, ``source``: digest of bnsweep's files, ``time``: seconds
        of this node's clock, ``free``: bytes left for temporary files, ``shared``: empty, or why the folder
        is not shared, ``data``: whether the data root exists.
    """
    import importlib.metadata
    import os
    import pathlib
    import platform
    import shutil
    import tempfile
    import time

    versions = {}
    for name in request["packages"]:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    answer = {
        "host": platform.node(),
        "python": platform.python_version(),
        "packages": versions,
        "source": source_digest(),
        "time": time.time(),
        "free": shutil.disk_usage(tempfile.gettempdir()).free,
        "shared": "",
        "data": not request.get("data_root") or os.path.isdir(request["data_root"]),
    }
    if request.get("folder"):
        try:
            if "://" in request["folder"]:
                from bnsweep.sweep.places import place

                folder = place(request["folder"])
            else:
                folder = pathlib.Path(request["folder"])
            if (folder / "driver").read_text() != request["nonce"]:
                answer["shared"] = "it holds another file there"
            (folder / request["answer"]).write_text(request["nonce"])
        except Exception as error:
            answer["shared"] = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return answer
