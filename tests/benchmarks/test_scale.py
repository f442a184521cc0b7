"""The simulated workers do all that there is to do, and report as often as they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from benchmarks import scale
from benchmarks.crowd import crowd
from bnsweep.runners.joining import start_ray


@pytest.mark.slow
@pytest.mark.long
def test_simulated_workers_do_every_pack(tmp_path: Path) -> None:
    found = scale.simulate(40, 4, 10.0, tmp_path)
    assert found["trials"] == 40
    assert found["packs"] >= 4
    assert found["reports"] == 5 * found["packs"], "five reports of two seconds in each pack"
    assert found["virtual"] >= 10.0 * found["packs"] / 4


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
def test_a_crowd_is_at_work_at_once_and_its_reports_are_counted() -> None:
    start_ray()
    try:
        found = crowd(6, 0.5, 10)
    finally:
        ray.shutdown()
    assert found.asked == 12.0
    assert 0.5 * found.asked < found.reports < 1.2 * found.asked
    assert 0 < found.cores < 1.5 and found.started > 0.5
