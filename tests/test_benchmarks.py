"""The benchmarks run; what they measure is in docs/performance.md."""

import importlib
import sys
from pathlib import Path

import torch


def test_probes_prints_every_network_and_probe(monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)
    probes = importlib.import_module("benchmarks.probes")
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["probes", "--quick"])
    with torch.random.fork_rng():
        probes.main()
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("medians of 1 interleaved runs, CPU ms")
    assert sum(line.startswith("  ics  ") for line in lines) == 4
    assert sum(line.startswith("  landscape") for line in lines) == 4
    assert sum(line.startswith("  moments") for line in lines) == 4
