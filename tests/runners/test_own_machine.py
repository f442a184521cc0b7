"""A driver whose own machine is no longer part of the cluster: it ends, and another goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.errors import ServiceError
from bnsweep.runners import LocalRunner
from bnsweep.runners.cluster import Cluster
from bnsweep.sweep.ledger import Ledger

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # Ray and its dependencies are not free of these.
]


def test_a_driver_that_has_lost_its_machine_ends_and_the_sweep_goes_on(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny["parameters"] |= {"steps": 20_000, "eval_every": 10_000}
    tiny["resources"] = {"cpus": 1, "pack_size": 6, "kernel": "grouped"}
    tiny["probes"] = {}
    from bnsweep.runners import tune

    looks: list[bool] = []

    def there(self: Cluster) -> bool:
        looks.append(has(self) and len(looks) < 2)
        return looks[-1]

    has = Cluster.has_this_machine.fget
    assert has is not None
    monkeypatch.setattr(tune, "LOOK_AGAIN_SECONDS", 1.0)
    monkeypatch.setattr(Cluster, "has_this_machine", property(there))
    with pytest.raises(ServiceError, match="The driver's machine must be part of the cluster to the end"):
        api.run(tiny, runner=tune.TuneRunner(1, 0, 1), storage=str(tmp_path))
    assert looks == [True, True, False]
    ledger = Ledger(tmp_path / "tiny")
    assert ledger.open_packs() and ledger.failed() == {}
    api.resume(ledger.root, runner=LocalRunner())
    assert len(Ledger(ledger.root).done()) == 6
