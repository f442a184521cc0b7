"""The simulated workers do all that there is to do, and report as often as they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scale


@pytest.mark.slow
@pytest.mark.long
def test_simulated_workers_do_every_pack(tmp_path: Path) -> None:
    found = scale.simulate(40, 4, 10.0, tmp_path)
    assert found["trials"] == 40
    assert found["packs"] >= 4
    assert found["reports"] == 5 * found["packs"], "five reports of two seconds in each pack"
    assert found["virtual"] >= 10.0 * found["packs"] / 4
