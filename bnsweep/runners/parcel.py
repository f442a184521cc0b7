"""What a cluster is sent: the package that runs here, the sweep file, and modules of the user's.

One folder, which Ray copies to every node and puts first on the path of imports: so the code on the cluster
is the code here, whatever is installed there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bnsweep.errors import BnsweepError
from bnsweep.parameters import CUSTOM_NORM
from bnsweep.sweep import SweepSpec

__all__ = ["MOST_BYTES", "check_size", "digest_of", "fill", "modules_of", "packed"]

MOST_BYTES = 100 * 2**20
"""What the dashboard of a Ray cluster takes in one upload."""

START = """\
# Starts bnsweep with the Python that Ray runs with here, which the path of commands may not name.
lib='s#^.* \\(/.*\\)/lib/python[0-9.]*/[a-z]*-packages/ray/_raylet[^/]*$#\\1/bin/python3#p'
found=$(sed -n "$lib" "/proc/$PPID/maps" 2>/dev/null | head -n 1)
exec "${BNSWEEP_PYTHON:-${found:-python3}}" -m bnsweep "$@"
"""

_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@contextmanager
def packed(spec: SweepSpec | None) -> Iterator[Path]:
    """Give a folder with this package and the modules of the sweep's norms, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bnsweep-parcel-") as folder:
        fill(Path(folder), modules_of(spec) if spec else [])
        yield Path(folder)


def fill(folder: Path, modules: Sequence[Path]) -> None:
    """Copy this package and further files or folders into an empty folder.

    Args:
        folder: The folder.
        modules: What comes beside the package, under its own name.

    Raises:
        BnsweepError: If one of them is not there, or two have one name.
    """
    source = Path(__file__).parent.parent
    version = str(sys.modules["bnsweep"].__dict__["__version__"])
    shutil.copytree(source, folder / "bnsweep", ignore=_LEFT_OUT)
    about = folder / f"bnsweep-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bnsweep\nVersion: {version}\n")
    (folder / "start.sh").write_text(START)
    for path in modules:
        target = folder / path.name
        if not path.exists() or target.exists():
            why = "is sent already" if path.exists() else "is not there"
            raise BnsweepError(
                f"What is sent with a sweep must be files of different names, but {path} {why}."
            )
        if path.is_dir():
            shutil.copytree(path, target, ignore=_LEFT_OUT)
        else:
            shutil.copy2(path, target)


def modules_of(spec: SweepSpec) -> list[Path]:
    """Return the user's own modules that a sweep's norms come from; installed packages are not sent.

    Raises:
        BnsweepError: If one is not found.
    """
    found: dict[Path, None] = {}
    for norm in _custom_norms(spec):
        name = norm.partition(":")[0].partition(".")[0]
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        module = importlib.util.find_spec(name)
        if module is None or module.origin is None:
            raise BnsweepError(
                f"The norm {norm} must come from a module that is found here, but there is no {name}. Run "
                f"from the folder that holds {name}.py."
            )
        origin = Path(module.origin).resolve()
        path = origin.parent if origin.name == "__init__.py" else origin
        installed = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")]
        if not any(folder in path.parents for folder in installed):
            found[path] = None
    return list(found)


def _custom_norms(spec: SweepSpec) -> list[str]:
    from bnsweep.sweep.plan import kinds_of_trials

    names = {str(trial.parameters["norm"]): None for trial in kinds_of_trials(spec)}
    return [name for name in names if CUSTOM_NORM.fullmatch(name)]


def check_size(folder: Path, most: int = MOST_BYTES) -> int:
    """Return how many bytes a folder holds.

    Raises:
        BnsweepError: If they are more than ``most``, naming the largest files.
    """
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    total = sum(sizes.values())
    if total > most:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:5]
        names = ", ".join(f"{path.relative_to(folder)} ({sizes[path] / 2**20:.1f} MiB)" for path in largest)
        raise BnsweepError(
            f"What is sent to a cluster must be at most {most / 2**20:.0f} MiB, but is {total / 2**20:.1f} "
            f"MiB; the largest: {names}. Put data on storage that the cluster sees, and name it in data_root."
        )
    return total


def digest_of(folder: Path) -> str:
    """Return a SHA-256 in hex of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()
