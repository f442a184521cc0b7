"""What the command line costs before anything runs: ``python -m benchmarks.startup``.

Prints the CPU seconds (user and system, of the process and its children) of ``bnsweep --help``, of
``bnsweep plan`` on a file of 1 000 trials and of ``import bnsweep``: medians over several runs
after a first one, and whether torch was imported.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SWEEP = """\
name: thousand
parameters:
  width: 0.125
  norm: [none, batch, l1, l2]
  lr: {min: 0.001, max: 1.0, num: 25, distribution: log_uniform_values}
seeds: 10
"""


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def imports_torch(words: list[str]) -> bool:
    code = (
        "import sys; from bnsweep.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "sys.stderr.write('torch' if 'torch' in sys.modules else 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr.endswith("torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "thousand.yaml"
        file.write_text(SWEEP)
        cases = {
            "bnsweep --help": ["--help"],
            "bnsweep plan, 1 000 trials": ["plan", str(file), "--storage", folder],
        }
        print(f"{'command':<30} {'CPU s':>8}  torch imported")
        for name, words in cases.items():
            command = [sys.executable, "-m", "bnsweep", *words]
            cpu_seconds(command)
            median = statistics.median(cpu_seconds(command) for _ in range(repeats))
            print(f"{name:<30} {median:8.2f}  {'yes' if imports_torch(words) else 'no'}")


if __name__ == "__main__":
    main()
