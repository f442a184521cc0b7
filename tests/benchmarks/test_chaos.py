"""Sweeps killed at random moments end like undisturbed ones: the short version of ``make chaos``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos import journal
from benchmarks.chaos.episodes import Chaos
from benchmarks.chaos.judge import judge


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Chaos]:
    made = Chaos(tmp_path / "chaos", seed=0, interval=0.2, nodes=1)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_drivers_killed_at_random_moments_change_nothing(chaos: Chaos) -> None:
    said: list[str] = []
    tally = chaos.run(
        "driver", 12, said.append, most=3
    )  # grid, deterministic search, two with early stopping
    assert (tally.kills, tally.wrong) == (12, False), said
    assert tally.sweeps >= 4

    reference = chaos.references["grid", False]
    copied = chaos.folder / "copied" / "grid"
    shutil.copytree(reference.parent, copied.parent)
    assert not judge(copied, reference, 0.2).mismatches
    _damage(copied)
    found = judge(copied, reference, 0.2)
    assert any("the ledger differs" in text for text in found.mismatches)
    assert any("not all its steps were made" in text for text in found.mismatches)
    assert found.zombies == 1


def _damage(root: Path) -> None:
    """Forge a reading of one trial, leave steps of another out of the journal, leave a file behind."""
    first, *_ = sorted((root / "trials").glob("*/record.json"))
    record = json.loads(first.read_text())
    name = next(iter(record["readings"]))
    record["readings"][name] = -1.0
    first.write_text(json.dumps(record))
    lines = root.with_suffix(".journal").read_text().splitlines(keepends=True)
    root.with_suffix(".journal").write_text("".join(lines[20:]))
    (root / "tmp" / "left").touch()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_worker_of_a_cluster_that_is_killed_changes_nothing(chaos: Chaos) -> None:
    said: list[str] = []
    tally = chaos.run("worker", 1, said.append)
    assert (tally.kills, tally.wrong) == (1, False), said
    disturbed = next(chaos.folder.glob("*-worker"))
    assert len({entry.pid for entry in journal.read(disturbed / "grid.journal")}) >= 2
