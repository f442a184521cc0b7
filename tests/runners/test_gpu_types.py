"""Clusters with several types of GPU: each is measured, and given packs of its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api, execution
from bnsweep.execution import measurements
from bnsweep.runners import GpuType, LocalRunner, PlannedPacks, Progress, access
from bnsweep.runners.cluster import Cluster
from bnsweep.runners.gpu_types import GpuPlaces
from bnsweep.runners.messages import unit_key
from bnsweep.runners.searcher import PackSearcher
from bnsweep.runners.source import FixedPacks, calibration_unit, pack_unit
from bnsweep.runners.tune import TuneRunner
from bnsweep.sweep import make_plan
from bnsweep.sweep.ledger import Ledger
from bnsweep.trial import TrialConfig
from bnsweep.where import Where

OLD, NEW = "T4", "NVIDIA_A100_80G"


def calibration(gpu: str) -> dict[str, Any]:
    return dict(calibration_unit(TrialConfig.create({}).to_dict(), 4, "cuda", True, gpu))


class Made(FixedPacks):
    """Units for types of GPU, which stand in no ledger."""

    by_gpu = True

    def __init__(self, *units: Mapping[str, Any], expecting: bool = False) -> None:
        super().__init__([], ledger=None)
        self.units, self.expecting, self.told = list(units), expecting, list[str]()

    def ready(self, workers: int) -> list[Mapping[str, Any]]:
        units, self.units = self.units, []
        return units

    def lost(self, unit: Mapping[str, Any], cause: str) -> Progress:
        self.told.append(cause)
        return Progress(unit_key(unit), 0, 0, 0, finished=True, error=cause)


def searcher(source: Made, places: dict[str, int]) -> PackSearcher:
    return PackSearcher(source, 8, places=GpuPlaces(lambda: dict(places), lambda: 0.0))


def test_workers_are_given_what_was_made_for_their_type_and_no_more_than_fit() -> None:
    units = [pack_unit(f"{gpu}{number}", gpu) for gpu in (OLD, NEW) for number in range(2)]
    given = searcher(Made(*units), {OLD: 1, NEW: 2})
    suggested = [given.suggest(f"t{number}") for number in range(4)]
    assert suggested == [
        {"units": [pack_unit(f"{NEW}0", NEW)], "gpu": NEW},
        {"units": [pack_unit(f"{OLD}0", OLD)], "gpu": OLD},
        {"units": [pack_unit(f"{NEW}1", NEW)], "gpu": NEW},
        None,
    ]  # fmt: skip
    given.finished("t0", Progress(f"{NEW}0", 1, 1, 1, finished=True, seconds=60.0))
    given.on_trial_complete("t0")
    assert given.suggest("t4") == {"units": [pack_unit(f"{OLD}1", OLD)], "gpu": NEW}, "rather than idle"
    assert given.suggest("t5") is None


def test_a_worker_with_nothing_of_its_own_takes_the_shortest_pack_of_another_type() -> None:
    units = [pack_unit(name, OLD) for name in ("long", "middle", "short")]
    given = searcher(Made(*units), {OLD: 1, NEW: 1})
    assert given.suggest("t0") == {"units": [pack_unit("long", OLD)], "gpu": OLD}
    assert given.suggest("t1") == {"units": [pack_unit("short", OLD)], "gpu": NEW}


def test_what_a_lost_machine_had_goes_to_the_types_that_are_left() -> None:
    places = {OLD: 1, NEW: 1}
    given = searcher(Made(pack_unit("a", OLD), pack_unit("b", NEW)), places)
    assert [given.suggest(f"t{number}")["gpu"] for number in range(2)] == [OLD, NEW]
    del places[OLD]
    given.lost("t0", "The actor died because its node has died.")
    assert given.suggest("t2") is None, "the place is taken"
    given.finished("t1", Progress("b", 1, 1, 1, finished=True, seconds=60.0))
    given.on_trial_complete("t1")
    assert given.suggest("t3") == {"units": [pack_unit("a", OLD)], "gpu": NEW}


def test_a_type_is_measured_by_its_own_workers_while_others_are_held() -> None:
    given = searcher(Made(calibration(OLD), expecting=True), {OLD: 1, NEW: 1})
    assert given.suggest("t0") == {"units": [calibration(OLD)], "gpu": OLD}
    held = given.suggest("t1")
    assert isinstance(held, dict) and (held["units"], held["gpu"]) == ([], NEW)
    assert "hold" in held


def test_a_type_whose_last_machine_is_lost_is_not_waited_for() -> None:
    places = {OLD: 1, NEW: 1}
    source = Made(calibration(OLD), calibration(NEW), expecting=True)
    given = searcher(source, places)
    first = given.suggest("t0")
    assert isinstance(first, dict)
    del places[first["gpu"]]
    given.lost("t0", "The actor died because its node has died.")
    assert source.told == [f"no machine with a {first['gpu']} is left"]
    assert [progress.error for progress in given.abandoned] == source.told
    other = given.suggest("t1")
    assert isinstance(other, dict) and other["units"] == [calibration(other["gpu"])]


def test_a_worker_is_placed_where_its_type_is() -> None:
    (asked,) = TuneRunner(2, 0.5)._resources({"units": [], "gpu": NEW}).bundles
    assert asked == {"CPU": 2.0, "GPU": 0.5, f"accelerator_type:{NEW}": 0.001}


def test_what_waits_for_a_type_that_is_gone_goes_to_another_once_nothing_is_at_work() -> None:
    places = {OLD: 1, NEW: 1}
    given = searcher(Made(pack_unit("a", OLD), pack_unit("b", NEW)), places)
    assert [given.suggest(f"t{number}")["gpu"] for number in range(2)] == [OLD, NEW]
    given.started.add("t1")
    del places[OLD]
    assert not given.stuck(), "the other is at work"
    given.finished("t1", Progress("b", 1, 1, 1, finished=True, seconds=60.0))
    given.on_trial_complete("t1")
    assert given.places is not None
    given.places.forget()
    assert given.stuck()
    places[OLD] = 1
    assert given.suggest("t3") == {"units": [pack_unit("a", OLD)], "gpu": NEW}, "it may go again"
    assert not given.stuck()


def test_what_another_job_holds_is_waited_for_two_minutes() -> None:
    now = [0.0]
    source = Made(pack_unit("a", OLD))
    given = PackSearcher(source, 1, places=GpuPlaces(lambda: {OLD: 1, NEW: 1}, lambda: now[0]))
    assert given.suggest("t0") == {"units": [pack_unit("a", OLD)], "gpu": OLD}
    now[0] = 119.0
    assert not given.stuck()
    now[0] = 121.0
    assert given.stuck()
    assert given.suggest("t1") == {"units": [pack_unit("a", OLD)], "gpu": NEW}
    now[0] = 500.0
    assert not given.stuck(), "there is no type left to give it to"


def test_who_is_held_is_let_go_when_the_work_of_a_lost_machine_is_for_them() -> None:
    places, supplies = {OLD: 1, NEW: 2}, list[int]()
    given = searcher(Made(calibration(NEW), expecting=True), places)
    given.supply = lambda: supplies.append(1)
    first, held = given.suggest("t0"), given.suggest("t1")
    assert isinstance(first, dict) and first["units"] == [calibration(NEW)]
    assert isinstance(held, dict) and held["units"] == []
    given.lost("t0", "The actor died because its node has died.")
    assert supplies and given.supplies > held["hold"]


def test_packs_that_waited_for_the_measurement_of_a_lost_type_are_handed_out() -> None:
    class Waiting(Made):
        def lost(self, unit: Mapping[str, Any], cause: str) -> Progress:
            self.expecting, self.units = False, [pack_unit("a")]
            return super().lost(unit, cause)

    places = {OLD: 1, NEW: 1}
    given = searcher(Waiting(calibration(OLD), expecting=True), places)
    del places[OLD]
    assert given.suggest("t0") == {"units": [pack_unit("a")], "gpu": NEW}


def test_all_machines_may_be_gone_for_a_while() -> None:
    places: dict[str, int] = {}
    given = searcher(Made(pack_unit("a", OLD)), places)
    assert given.suggest("t0") is None
    places[NEW] = 1
    assert given.places is not None
    given.places.forget()
    assert given.suggest("t1") == {"units": [pack_unit("a", OLD)], "gpu": NEW}


@pytest.fixture
def alike(tiny: dict[str, Any]) -> dict[str, Any]:
    tiny["parameters"] |= {"norm": ["none"], "lr": [0.01, 0.02, 0.05, 0.1, 0.2, 0.3]}
    tiny["seeds"] = 2
    del tiny["probes"]
    return tiny


def measured_as(ledger: Ledger, signature: str, found: Mapping[str, Any], sizes: dict[str, int]) -> None:
    """Store calibrations by which a full pack takes the same time on each type, whatever its size."""
    for gpu, members in sizes.items():
        content = {
            **found, "members": members, "step_seconds": {"1": 0.01, str(members): 0.01},
            "build_seconds": 0.0, "commit_seconds": 0.0, "evaluation_seconds": 0.0, "probe_seconds": {},
        }  # fmt: skip
        ledger.write_calibration(signature, f"cpu-{gpu}", content)


@pytest.fixture
def measured(alike: dict[str, Any], tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """Measure the signature for real; return it, and what was found."""
    api.calibrate(alike, runner=LocalRunner(), storage=str(tmp_path / "measured"))
    signature = make_plan(api.load(alike)).trials[0].signature
    found = Ledger(tmp_path / "measured" / "tiny").calibration(signature, "cpu")
    assert found is not None
    return signature, found


@pytest.fixture
def planned(alike: dict[str, Any], tmp_path: Path) -> Callable[..., PlannedPacks]:
    """Return what makes the source of work of the sweep, with so many workers of each type."""
    spec = api.load(alike)
    plan = make_plan(spec)
    ledger = Ledger.open(tmp_path / "results", spec.name, create=True)

    def make(workers: int, tell: Callable[[str], None] = lambda _: None) -> PlannedPacks:
        types = [GpuType(gpu, workers, measurements(spec, ledger, gpu=gpu)) for gpu in (OLD, NEW)]
        return PlannedPacks(
            plan, ledger, plan.trials, "cpu", measurements(spec, ledger), lambda _: True, tell,
            gpu_types=types,
        )  # fmt: skip

    return make


def test_each_type_gets_packs_of_its_size_and_a_share_of_its_speed(
    planned: Callable[..., PlannedPacks], measured: tuple[str, dict[str, Any]]
) -> None:
    said: list[str] = []
    first = planned(1, said.append)
    ledger = first.ledger
    asked = list(first.ready(2))
    assert [(unit["gpu"], "calibrate" in unit) for unit in asked] == [(OLD, True), (NEW, True)]
    assert said == ["measuring the fastest packs of 1 kinds of trials on 2 types of GPU, once"]
    assert not first.ready(2)
    measured_as(ledger, *measured, {"t4": 1, "nvidia-a100-80g": 3})
    for unit in asked:
        assert first.expecting
        first.finished(unit, Progress(unit_key(unit), 0, 0, 0, finished=True))
    packs = list(first.ready(2))
    contents = {unit["pack"]: ledger.read_pack(unit["pack"]) for unit in packs}
    sizes = {gpu: [contents[u["pack"]]["size"] for u in packs if u["gpu"] == gpu] for gpu in (OLD, NEW)}
    assert sizes == {OLD: [1, 1, 1], NEW: [3, 3, 3]}
    assert len(first.ready(2)) == 0
    members = [member for content in contents.values() for member in content["members"]]
    assert sorted(members) == sorted(first.plan.trial_ids)
    again = planned(1).ready(2)
    assert {unit["pack"]: unit["gpu"] for unit in again} == {unit["pack"]: unit["gpu"] for unit in packs}


def test_a_type_that_could_not_be_measured_gets_nothing_and_few_workers_get_whole_packs(
    planned: Callable[..., PlannedPacks], measured: tuple[str, dict[str, Any]]
) -> None:
    source = planned(8)
    ledger = source.ledger
    asked = source.ready(2)
    measured_as(ledger, *measured, {"nvidia-a100-80g": 6})
    for unit in asked:
        source.finished(unit, Progress(unit_key(unit), 0, 0, 0, finished=True, error="no room"))
    packs = source.ready(2)
    sizes = [(unit["gpu"], ledger.read_pack(unit["pack"])["size"]) for unit in packs]
    assert sizes == [(NEW, 6), (NEW, 6)]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_with_two_types_of_gpu_trains_each_pack_where_it_was_sized_for(
    alike: dict[str, Any],
    measured: tuple[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The GPUs are said to be there, and training is on the CPU; those that are seen first are soon gone."""
    from ray.cluster_utils import Cluster as Hosts

    monkeypatch.setattr(access, "_private", None)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Cluster, "check_gpus", lambda *_: None)
    monkeypatch.setattr(execution, "device_type", lambda _: "cpu")
    made: dict[str, Mapping[str, Any]] = {}
    write_packs = Ledger.write_packs

    def write(self: Ledger, packs: Mapping[str, Mapping[str, Any]]) -> None:
        made.update(packs)
        write_packs(self, packs)

    asked: dict[str, str] = {}
    given: set[str] = set()
    suggest = PackSearcher.suggest

    def ask(self: PackSearcher, trial_id: str) -> Any:
        told = suggest(self, trial_id)
        if isinstance(told, dict):
            asked.update({unit_key(unit): told["gpu"] for unit in told["units"]})
            given.add(told["gpu"])
        return told

    ledger = Ledger.open(tmp_path / "results", "tiny", create=True)
    measured_as(ledger, *measured, {"t4": 1, "nvidia-a100-80g": 3})
    alone = api.run(alike, runner=LocalRunner(), storage=str(tmp_path / "alone"))
    monkeypatch.setattr(Ledger, "write_packs", write)
    monkeypatch.setattr(PackSearcher, "suggest", ask)
    look = TuneRunner._gpu_types
    monkeypatch.setattr(TuneRunner, "_gpu_types", lambda self: look(self) if given else {"H100": 1})
    alike["resources"] = {"cpus": 1, "gpus": 1}
    hosts = Hosts(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8})
    try:
        of_raylet = {}
        for gpu in (NEW, OLD):
            node = hosts.add_node(
                num_cpus=1, num_gpus=1, resources={f"accelerator_type:{gpu}": 1}, object_store_memory=10**8
            )
            (raylet,) = node.all_processes["raylet"]
            of_raylet[raylet.process.pid] = gpu
        where: dict[str, str] = {}

        def note(progress: Progress) -> None:
            if progress.members:
                where[progress.pack_id] = of_raylet[parent(progress.pid)]

        outcome = api.run(
            alike, storage=str(tmp_path / "results"), progress=note,
            where=Where(hosts.address, insecure=True),
        )  # fmt: skip
    finally:
        hosts.shutdown()
    assert outcome.exit_code == 0, outcome.errors
    assert made.keys() == where.keys()
    assert {content["gpu"]: content["size"] for content in made.values()} == {OLD: 1, NEW: 3}
    assert set(where.values()) == {OLD, NEW}
    assert "H100" in given and "H100" not in asked.values(), "what it was given is taken back"
    assert {pack_id: asked[pack_id] for pack_id in where} == where
    readings = [
        {record.trial_id: record.readings for record in Ledger(root).records()}
        for root in (outcome.root, alone.root)
    ]
    assert len(readings[0]) == 12 and readings[0] == readings[1]
