"""Calibrations come before packs, are kept, and packs that do not fit in memory are divided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.cli import main
from bnsweep.runners import LocalRunner
from bnsweep.runners import calibration as worker_side
from bnsweep.runners.planned import PlannedPacks
from bnsweep.sweep.ledger import Ledger
from bnsweep.training import PackTrainer


def run(content: dict[str, Any], tmp_path: Path, **options: Any) -> tuple[Any, list[str]]:
    said: list[str] = []
    outcome = api.run(content, runner=LocalRunner(), storage=str(tmp_path), say=said.append, **options)
    return outcome, said


def readings(root: Path) -> dict[str, str]:
    return {record.trial_id: repr(sorted(record.readings.items())) for record in Ledger(root).records()}


@pytest.fixture
def small(tiny: dict[str, Any]) -> dict[str, Any]:
    tiny["parameters"] |= {"norm": ["none", "batch"], "lr": [0.1, 0.2]}
    del tiny["probes"]
    return tiny


def test_each_kind_of_trial_is_measured_once(small: dict[str, Any], tmp_path: Path) -> None:
    outcome, said = run(small, tmp_path)
    assert outcome.exit_code == 0
    assert "measuring the fastest packs of 2 kinds of trials, once" in said
    files = sorted((tmp_path / "tiny" / "calibration").glob("*.cpu.json"))
    assert len(files) == 2
    times = [path.stat().st_mtime_ns for path in files]
    small["parameters"]["lr"].append(0.3)
    outcome, said = run(small, tmp_path)
    assert outcome.started == 4
    assert not [text for text in said if text.startswith("measuring")]
    assert [path.stat().st_mtime_ns for path in files] == times


def test_a_damaged_measurement_is_made_again(small: dict[str, Any], tmp_path: Path) -> None:
    run(small, tmp_path)
    for path in (tmp_path / "tiny" / "calibration").iterdir():
        path.write_text("{")
    small["seeds"] = 3
    outcome, said = run(small, tmp_path)
    assert outcome.exit_code == 0
    assert "measuring the fastest packs of 2 kinds of trials, once" in said


def test_a_file_that_decides_needs_no_measurement(small: dict[str, Any], tmp_path: Path) -> None:
    small["resources"] = {"pack_size": 2, "kernel": "loop"}
    outcome, said = run(small, tmp_path)
    assert outcome.exit_code == 0
    assert not (tmp_path / "tiny" / "calibration").exists()
    assert any("8 trials in 4 packs" in text for text in said)


def test_a_pack_that_does_not_fit_in_memory_is_divided_and_nothing_fails(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small["resources"] = {"pack_size": 8, "kernel": "grouped", "max_concurrent": 1}
    whole, _ = run(small, tmp_path / "whole")
    real = PackTrainer.step

    def step(self: PackTrainer) -> None:
        if len(self.trials) > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
        real(self)

    monkeypatch.setattr(PackTrainer, "step", step)
    outcome, said = run(small, tmp_path / "parts")
    assert outcome.exit_code == 0
    assert any("divided into packs of 2 and 2" in text for text in said)
    assert any("divided into packs of 1 and 1" in text for text in said)
    assert readings(outcome.root) == readings(whole.root)
    assert not list((outcome.root / "packs").iterdir())
    assert not list(outcome.root.glob("trials/*/failure.*"))


def test_one_trial_that_does_not_fit_fails_with_the_reason(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: PackTrainer) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(PackTrainer, "step", step)
    small["resources"] = {"pack_size": 2, "kernel": "grouped"}
    outcome, _ = run(small, tmp_path)
    assert outcome.states == {"failed": 8}
    assert outcome.errors == {"MemoryError: no more": 8}


def test_a_small_share_of_memory_is_said(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_side, "SHARE", 1e-9)
    outcome, said = run(small, tmp_path)
    assert outcome.exit_code == 0
    kept_small = [text for text in said if "a worker's share of the free memory" in text]
    sizes = [json.loads(path.read_text()) for path in (tmp_path / "tiny" / "calibration").iterdir()]
    limited = [content for content in sizes if content["limited"] == "memory"]
    assert len(kept_small) == len(limited)


def test_plan_measures_when_asked_and_trains_nothing(
    small: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, storage = str(write_sweep(small)), str(tmp_path / "results")
    assert main(["plan", file, "--storage", storage]) == 0
    assert "not calibrated" in capsys.readouterr().out
    api.calibrate(file, runner=LocalRunner(), storage=storage)
    assert main(["plan", file, "--storage", storage]) == 0
    out = capsys.readouterr().out
    assert "0 done, 8 to run" in out
    assert "of training" in out
    assert main(["plan", file, "--storage", storage, "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out)["forecast"]
    assert forecast["seconds"] > 0
    assert sum(pack["size"] for pack in forecast["packs"]) == 8
    assert not list((tmp_path / "results" / "tiny" / "packs").iterdir())


def test_a_kill_while_packs_are_opened_changes_no_pack(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers share one kind of trials: packed anew, the rest would come in packs of one."""
    small["parameters"]["norm"] = "batch"
    small["resources"] = {"pack_size": 4, "kernel": "grouped"}
    opened: list[str] = []
    ready, write = PlannedPacks.ready, Ledger._write_pack

    class Killed(BaseException):
        pass

    def noted(self: Ledger, pack_id: str, content: Any) -> bool:
        if opened and kill:
            raise Killed
        opened.append(pack_id)
        return write(self, pack_id, content)

    monkeypatch.setattr(PlannedPacks, "ready", lambda self, workers: ready(self, 2))
    monkeypatch.setattr(Ledger, "_write_pack", noted)
    kill = False
    run(small, tmp_path / "whole")
    intended, opened = set(opened), []
    assert len(intended) == 2
    kill = True
    with pytest.raises(Killed):
        run(small, tmp_path / "killed")
    kill = False
    outcome, _ = run(small, tmp_path / "killed")
    assert outcome.exit_code == 0 and set(opened) == intended
    assert readings(tmp_path / "killed" / "tiny") == readings(tmp_path / "whole" / "tiny")


@pytest.mark.parametrize("moment", ["between the parts", "before the whole is closed"])
def test_a_kill_while_a_pack_is_divided_trains_nobody_twice(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Four do not fit, two do: after the kill the halves are there, and the whole is not."""
    small["parameters"]["norm"] = "batch"
    small["resources"] = {"pack_size": 4, "kernel": "grouped"}
    step, trained = PackTrainer.step, []
    write, close = Ledger._write_pack, Ledger.close_pack

    class Killed(BaseException):
        pass

    def full(self: PackTrainer) -> None:
        if len(self.trials) > 2:
            raise MemoryError("no more")
        if self.step_index == 0:
            trained.append(frozenset(trial.trial_id for trial in self.trials))
        step(self)

    def written(self: Ledger, pack_id: str, content: Any) -> bool:
        new = write(self, pack_id, content)
        if kill and "of" in content and moment == "between the parts":
            raise Killed
        return new

    def closed(self: Ledger, pack_id: str) -> None:
        if kill and moment == "before the whole is closed":
            raise Killed
        close(self, pack_id)

    monkeypatch.setattr(PackTrainer, "step", full)
    monkeypatch.setattr(Ledger, "_write_pack", written)
    monkeypatch.setattr(Ledger, "close_pack", closed)
    kill = True
    with pytest.raises(Killed):
        run(small, tmp_path)
    kill = False
    outcome, said = run(small, tmp_path)
    assert outcome.exit_code == 0 and len(outcome.states) == 1
    assert sorted(map(len, trained)) == [2, 2] and len(frozenset().union(*trained)) == 4
    assert not [text for text in said if "divided" in text]
    assert not list((outcome.root / "packs").iterdir())
