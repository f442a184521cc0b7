"""What a killed driver leaves on its machine, and who removes it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bnsweep.runners.leftovers import driver_folder

DRIVER = """
import sys
from bnsweep.runners.access import make_private_token
from bnsweep.runners.leftovers import driver_folder
make_private_token()
with driver_folder():
    print("there", flush=True)
    sys.stdin.read()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={"TMPDIR": str(folder), "PATH": ""},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    return process


def test_what_a_killed_driver_leaves_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, alive, ended = start(tmp_path), start(tmp_path), start(tmp_path)
    of_others = [tmp_path / name for name in ("bnsweep-0-data", "bnsweep-pages", "bnsweep-p1-a b")]
    for path in of_others:
        path.mkdir()
    assert len(list(tmp_path.glob("bnsweep-p*/token"))) == 3
    ended.communicate()
    killed.kill()
    killed.communicate()
    assert {path.name.split("-")[1] for path in tmp_path.glob("bnsweep-p*[0-9]")} == {
        f"p{killed.pid}", f"p{alive.pid}",
    }  # fmt: skip
    with driver_folder():
        left = {path.name.split("-")[1] for path in tmp_path.iterdir() if path not in of_others}
        assert left == {f"p{alive.pid}", f"p{os.getpid()}"}
        assert len(list(tmp_path.glob(f"bnsweep-p{alive.pid}*"))) == 2
    alive.communicate()
    assert sorted(tmp_path.iterdir()) == sorted(of_others)


SWEEPS = """
import contextlib, gc, json, os, socket, sys, time
from bnsweep import api
from bnsweep.runners.joining import start_ray
from bnsweep.runners.tune import TuneRunner


def opened(rays_own):
    kinds = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            kinds.append(os.readlink(f"/proc/self/fd/{name}"))
    if rays_own:
        return len(kinds)
    held = [each for each in gc.get_objects() if isinstance(each, socket.socket)]
    files = [kind for kind in kinds if not kind.startswith("socket:")]
    return len(files) + sum(each.fileno() >= 0 for each in held)


if __name__ == "__main__":
    import ray

    sweep, storage, stays = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3] == "stays"
    if stays:
        start_ray()
    for number in range(5):
        outcome = api.run(sweep, storage=f"{storage}/{number}", runner=TuneRunner(1, 0, 2))
        assert outcome.exit_code == 0
        gc.collect()
        counts = []
        for _ in range(15):  # Ray opens and closes some sockets for a moment now and then
            counts.append(opened(rays_own=stays))
            time.sleep(0.2)
        print("open", min(counts), flush=True)
    ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("ray", ["stays", "ends"])
def test_sweeps_leave_no_file_open(ray: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    """Where Ray ends with each sweep, its C++ part goes on looking for the services that ended.

    How many sockets that takes changes from second to second (``python -m benchmarks.soak
    --ray-alone 34`` counts them), so there only files, pipes and Python's sockets are counted.
    """
    tiny["resources"] = {"cpus": 1, "pack_size": 2, "kernel": "loop"}
    done = subprocess.run(
        [sys.executable, "-c", SWEEPS, json.dumps(tiny), str(tmp_path), ray],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("open ")]
    assert len(counts) == 5
    assert statistics.median(after - before for before, after in pairwise(counts)) <= 0, counts
