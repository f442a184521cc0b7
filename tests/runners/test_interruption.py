"""Stopped and started again, in this process: the same records as without the stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.cli import main
from bnsweep.runners import FixedPacks, LocalRunner, WorkerContext
from bnsweep.runners.failing import abandon_pack
from bnsweep.runners.work import PackWorker
from bnsweep.sweep import make_packs
from bnsweep.sweep.ledger import Ledger


def outcomes(root: Path) -> dict[str, str]:
    """Return what a trial's record and curves say, without times and places."""
    ledger = Ledger(root)
    found = {}
    for record in ledger.records():
        table = ledger.curves(record.trial_id)
        assert table is not None
        rows = table.drop_columns(["time_ms"]).to_pydict()
        found[record.trial_id] = json.dumps([record.state, record.steps, record.diverged_step, repr(rows)])
    return found


pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def longer(tiny: dict[str, Any]) -> dict[str, Any]:
    tiny["parameters"] |= {"norm": ["none", "noisy_batch"], "steps": 1500, "eval_every": 500}
    tiny["probes"] = {"ics": {"every": 500}, "moments": {"every": 500}}
    return tiny


def test_ctrl_c_exits_with_3_and_running_again_goes_on(
    longer: dict[str, Any], write_sweep: Any, tmp_path: Path
) -> None:
    api.run(longer, runner=LocalRunner(), storage=str(tmp_path / "whole"))
    file = write_sweep(longer)
    command = [sys.executable, "-m", "bnsweep", "run", str(file), "--in-process"]
    command += ["--storage", str(tmp_path / "parts")]
    stops = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if "packs; results in" in line:
                break
        time.sleep(2)
        process.send_signal(number)
        began = time.monotonic()
        _, err = process.communicate(timeout=110)
        assert process.returncode in (0, 3), err
        if process.returncode == 3:
            stops += 1
            assert time.monotonic() - began < 20
            assert "interrupted" in err
            assert "Traceback" not in err
    assert stops, "the sweep was over before it could be stopped: make it longer"
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert outcomes(tmp_path / "parts" / "tiny") == outcomes(tmp_path / "whole" / "tiny")
    assert not list((tmp_path / "parts" / "tiny" / "packs").iterdir())


def test_ctrl_c_in_an_import_is_ctrl_c(
    tiny: dict[str, Any],
    write_sweep: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(ledger: Ledger, weigh: Any) -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("bnsweep.analysis.make_report", interrupted)
    command = ["run", str(write_sweep(tiny)), "--in-process", "--storage", str(tmp_path)]
    assert main(command) == 3
    err = capsys.readouterr().err
    assert "bnsweep: interrupted" in err
    assert "Traceback" not in err


def test_another_error_of_an_import_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(found: Any) -> int:
        raise ImportError("initialization failed") from OSError("no such library")

    monkeypatch.setattr("bnsweep.cli.plan_verb.call", broken)
    with pytest.raises(ImportError, match="initialization failed"):
        main(["plan", "sweep.yaml"])


def open_ledger(content: dict[str, Any], storage: Path) -> tuple[Ledger, list[str]]:
    plan = api.plan(content)
    ledger = Ledger.open(storage, plan.name, create=True)
    ledger.write_sweep("", plan.to_dict())
    packs = make_packs(plan.trials, 4)
    for pack in packs:
        ledger.write_pack(pack.pack_id, plan.pack_content(pack))
    return ledger, [pack.pack_id for pack in packs]


def test_dying_at_any_moment_repeats_at_most_what_was_not_sealed(
    longer: dict[str, Any], tmp_path: Path
) -> None:
    """A worker that goes away without a word, again and again, between any two steps."""
    longer["parameters"]["steps"] = 400
    whole, packs = open_ledger(longer, tmp_path / "whole")
    assert LocalRunner().run(FixedPacks(packs, whole), WorkerContext(str(whole.root)), lambda _: None)

    ledger, _ = open_ledger(longer, tmp_path / "parts")
    context = WorkerContext(str(ledger.root), checkpoint_seconds=0.05)
    deaths = 0
    while ledger.open_packs():
        worker = PackWorker(context)
        for pack in ledger.open_packs():
            worker.open(pack)
            began = time.monotonic()
            while worker.busy and time.monotonic() - began < 0.3:
                worker.advance(time.monotonic())
            if worker.busy:
                deaths += 1
                break
        assert deaths < 200
    assert deaths >= 3
    assert outcomes(ledger.root) == outcomes(whole.root)
    assert not list((ledger.root / "packs").iterdir())


@pytest.mark.parametrize("damage", ["newest cut", "all cut", "all gone"])
def test_a_pack_without_its_checkpoints_goes_on_from_what_is_left_and_says_so(
    damage: str, longer: dict[str, Any], tmp_path: Path
) -> None:
    longer["parameters"]["steps"] = 60
    whole, packs = open_ledger(longer, tmp_path / "whole")
    assert LocalRunner().run(FixedPacks(packs, whole), WorkerContext(str(whole.root)), lambda _: None)
    ledger, packs = open_ledger(longer, tmp_path / "parts")
    worker = PackWorker(WorkerContext(str(ledger.root), checkpoint_seconds=0.0))
    worker.open(packs[0])
    for _ in range(20):
        worker.advance(time.monotonic())
    for path in ledger.pack_dir(packs[0]).glob("checkpoint.*"):
        if damage == "all gone":
            path.unlink()
        elif path.suffix == ".bin" and (damage == "all cut" or ".20." in path.name):
            path.write_bytes(path.read_bytes()[:100])
    notes: list[str] = []
    context = WorkerContext(str(ledger.root))
    assert LocalRunner().run(FixedPacks(packs, ledger), context, lambda found: notes.append(found.note))
    (note,) = filter(None, notes)
    assert f"3 trials go on from step {19 if damage == 'newest cut' else 0}: " in note
    assert ("no checkpoint" if damage == "all gone" else "is damaged and does not count") in note
    assert outcomes(ledger.root) == outcomes(whole.root) and not ledger.failed()


def test_ctrl_c_between_two_updates_cuts_no_step_in_half(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep.training.optimizers import MemberOptimizer

    whole, packs = open_ledger(tiny, tmp_path / "whole")
    assert LocalRunner().run(FixedPacks(packs, whole), WorkerContext(str(whole.root)), lambda _: None)

    real = MemberOptimizer.update
    calls = []

    def update(self: MemberOptimizer, *given: Any) -> None:
        calls.append(1)
        if len(calls) == 15:
            signal.raise_signal(signal.SIGINT)
        real(self, *given)

    monkeypatch.setattr(MemberOptimizer, "update", update)
    ledger, packs = open_ledger(tiny, tmp_path / "parts")
    context = WorkerContext(str(ledger.root))
    assert not LocalRunner(step_seconds=0.0).run(FixedPacks(packs, ledger), context, lambda _: None)
    found = ledger.load_checkpoint(packs[0])
    assert found
    assert found[0] == 15
    assert LocalRunner().run(FixedPacks(list(ledger.open_packs()), ledger), context, lambda _: None)
    assert outcomes(ledger.root) == outcomes(whole.root)


def test_a_pack_that_a_lost_worker_finished_is_no_error(tiny: dict[str, Any], tmp_path: Path) -> None:
    ledger, packs = open_ledger(tiny, tmp_path)
    worker = PackWorker(WorkerContext(str(ledger.root)))
    seen = []
    for pack in (packs[0], packs[0]):
        worker.open(pack)
        while worker.busy:
            seen.append(worker.advance(time.monotonic() + 60))
    assert [(progress.finished, progress.error) for progress in seen] == [(True, ""), (True, "")]
    assert not ledger.failed()


def test_a_pack_that_kills_its_workers_fails_its_trials(tiny: dict[str, Any], tmp_path: Path) -> None:
    ledger, packs = open_ledger(tiny, tmp_path)
    members = ledger.read_pack(packs[0])["members"]
    progress = abandon_pack(ledger, packs[0], "its worker ended 3 times")
    assert (progress.members, progress.states) == (len(members), {"failed": len(members)})
    assert set(ledger.failed()) == set(members)
    assert packs[0] not in ledger.open_packs()


@pytest.mark.parametrize("guilty", [True, False], ids=["each time", "once"])
def test_an_error_is_tried_once_more_alone_and_only_the_guilty_trial_fails(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guilty: bool
) -> None:
    from bnsweep.training import PackTrainer

    whole = api.run(tiny, runner=LocalRunner(), storage=str(tmp_path / "whole"))
    bad = next(trial.trial_id for trial in api.plan(tiny).trials if trial.parameters["lr"] == 0.5)
    real, tries = PackTrainer.step, []

    def step(self: PackTrainer) -> None:
        if self.step_index == 3 and bad in [trial.trial_id for trial in self.trials]:
            tries.append(len(self.trials))
            if guilty or len(tries) == 1:
                raise ValueError("the user's norm has a mistake")
        real(self)

    monkeypatch.setattr(PackTrainer, "step", step)
    said: list[str] = []
    tiny["resources"] = {"kernel": "grouped", "pack_size": 6}
    outcome = api.run(tiny, runner=LocalRunner(), storage=str(tmp_path / "parts"), say=said.append)
    assert tries == [6, 1]
    assert any("each of its trials is tried once more, alone" in text for text in said)
    assert not list((outcome.root / "packs").iterdir())
    ledger = Ledger(outcome.root)
    assert {*ledger.failed()} == ({bad} if guilty else set())
    assert ledger.done() == {*Ledger(whole.root).done()} - ({bad} if guilty else set())
    if guilty:
        assert "the user's norm has a mistake" in ledger.failures(bad)[0]["traceback"]
        assert outcome.errors == {"ValueError: the user's norm has a mistake": 1}


def test_a_ledger_that_refuses_is_nobodys_failure(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep.errors import LedgerError

    real = Ledger.write_record

    def full(self: Ledger, *arguments: Any) -> bool:
        raise LedgerError("no space left")

    monkeypatch.setattr(Ledger, "write_record", full)
    outcome = api.run(tiny, runner=LocalRunner(), storage=str(tmp_path))
    assert outcome.states == {"pending": 6}
    assert outcome.exit_code == 1
    assert "no space left" in "".join(outcome.errors)
    monkeypatch.setattr(Ledger, "write_record", real)
    assert api.run(tiny, runner=LocalRunner(), storage=str(tmp_path)).exit_code == 0


def test_stop_is_heeded_by_the_process_that_runs_the_sweep(
    longer: dict[str, Any], write_sweep: Any, tmp_path: Path
) -> None:
    longer["parameters"]["steps"] = 20_000
    command = [sys.executable, "-m", "bnsweep", "run", str(write_sweep(longer)), "--in-process"]
    process = subprocess.Popen([*command, "--storage", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "packs; results in" in line:
            break
    assert api.stop("tiny", str(tmp_path))
    _, err = process.communicate(timeout=110)
    assert process.returncode == 3, err
    assert api.status("tiny", str(tmp_path)).open_packs
    assert not api.stop("tiny", str(tmp_path), patience=0.3)
    assert not (tmp_path / "tiny" / "stop.json").exists()


def test_what_changed_is_shown_and_what_alters_results_is_refused(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep.errors import BnsweepError

    def run(**options: Any) -> list[str]:
        said: list[str] = []
        api.run(tiny, runner=LocalRunner(), storage=str(tmp_path), say=said.append, **options)
        return [text for text in said if text.startswith("changed")]

    tiny["parameters"]["lr"] = [0.1, 0.5]
    assert run() == []
    assert run() == []
    tiny["parameters"]["lr"] = [0.1, 0.2]
    tiny["seeds"] = 3
    found = run()
    assert "changed: lr: + 0.2, - 0.5" in found
    assert "changed: seed: + 2" in found
    assert "changed: trials: - 2 no longer asked for; 2 results of them are kept, not shown" in found
    file = tmp_path / "tiny" / "environment.json"
    content = json.loads(file.read_text())
    content["packages"]["torch"] = "2.0"
    file.write_text(json.dumps(content))
    assert [text.split(" -> ")[0] for text in run()] == ["changed: torch: 2.0"]
    tiny["parameters"]["norm"] = ["none", "batch"]
    tiny["claims"] = ["lr_robustness"]
    tiny["exploratory"] = True
    before = (tmp_path / "tiny" / "sweep.yaml").read_text()
    with pytest.raises(BnsweepError, match=r"the claims or their thresholds.*--accept-changes"):
        run()
    assert (tmp_path / "tiny" / "sweep.yaml").read_text() == before
    assert run(accept_changes=True)[-1] == "changed, and accepted: the claims or their thresholds"
