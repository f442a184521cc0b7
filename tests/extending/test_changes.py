"""What changed since the last run is shown, and refused where it would change what results mean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.cli import main
from bnsweep.errors import BnsweepError
from bnsweep.sweep.ledger import Ledger

CHOICE = r"--accept-changes .*results stay.*another name, or take the change back"


def changes(said: list[str]) -> list[str]:
    return [line.removeprefix("changed: ") for line in said if line.startswith("changed")]


def files(root: Path) -> dict[str, bytes]:
    """The finished trials' files."""
    return {str(path): path.read_bytes() for path in root.glob("trials/*/*")}


@pytest.fixture
def short(tiny: dict[str, Any]) -> dict[str, Any]:
    tiny["parameters"] |= {"lr": [0.1, 0.5], "steps": 10, "eval_every": 10}
    tiny["probes"] = {}
    return tiny


def test_versions_of_packages_code_and_machine_are_shown(
    short: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    sweeps.run(short, tmp_path)
    assert changes(sweeps.run(short, tmp_path)[1]) == []
    path = tmp_path / "tiny" / "environment.json"
    real = json.loads(path.read_text())
    other = {
        **real, "python": "3.10.0", "host": "elsewhere", "cpus": 999, "commit": "0" * 40, "dirty": None,
        "packages": {**real["packages"], "torch": "2.0", "numpy": "1.0"},
    }  # fmt: skip
    path.write_text(json.dumps(other))
    short["seeds"] = 3  # something to run: what it ran on is stored again
    _, said = sweeps.run(short, tmp_path)
    found = set(changes(said))
    assert found >= {
        f"python: 3.10.0 -> {real['python']}",
        f"host: elsewhere -> {real['host']}",
        f"cpus: 999 -> {real['cpus']}",
        f"torch: 2.0 -> {real['packages']['torch']}",
        f"numpy: 1.0 -> {real['packages']['numpy']}",
        "seed: + 2",
        "trials: + 2 new",
    }
    if real["commit"]:
        assert f"commit: {'0' * 12} -> {real['commit'][:12]}" in found
    _, said = sweeps.run(short, tmp_path)
    assert changes(said) == []


def test_another_device_is_shown(short: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    from bnsweep.guards import changes_since

    sweeps.run(short, tmp_path)
    spec = api.load({**short, "resources": {"gpus": 0.5}})
    found = changes_since(spec, api.plan(spec), Ledger(tmp_path / "tiny"))
    assert "device: cpu -> cuda" in found.lines and found.grave == ()
    same = api.load(short)
    assert not changes_since(same, api.plan(same), Ledger(tmp_path / "tiny")).lines


def test_other_numbers_of_the_code_are_refused_until_accepted(
    short: dict[str, Any], sweeps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep.trial import RESULTS_VERSION

    sweeps.run(short, tmp_path)
    root = tmp_path / "tiny"
    before, plan = files(root), (root / "plan.json").read_bytes()
    monkeypatch.setattr("bnsweep.trial.RESULTS_VERSION", RESULTS_VERSION + 1)
    what = rf"the numbers that the code makes \(results version {RESULTS_VERSION} -> {RESULTS_VERSION + 1}\)"
    with pytest.raises(BnsweepError, match=f"{what}.*{CHOICE}"):
        sweeps.run(short, tmp_path)
    with pytest.raises(BnsweepError, match=r"the code's numbers changed.*--accept-changes"):
        api.resume("tiny", storage=str(tmp_path))
    assert files(root) == before and (root / "plan.json").read_bytes() == plan
    outcome, said = sweeps.run(short, tmp_path, accept_changes=True)
    assert outcome.started == 4 and any(
        line.startswith("changed, and accepted: the numbers") for line in said
    )
    assert before.items() <= files(root).items()


def pictures(folder: Path, shift: int = 0) -> None:
    """Write a folder of class folders with a few images, and prepare it."""
    import numpy as np
    from PIL import Image

    for label in range(2):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
        for number in range(10):
            values = np.full((8, 8, 3), 10 * number + 100 * label + shift * (number == 3), np.uint8)
            Image.fromarray(values).save(folder / f"class{label}" / f"{number}.png")
    assert main(["data", "prepare", str(folder)]) == 0


def test_other_contents_of_the_data_are_refused_until_accepted(
    short: dict[str, Any], sweeps: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "pictures")
    short["parameters"] |= {"dataset": "image_folder", "batch_size": 4}
    short["data_root"] = str(tmp_path / "pictures")
    sweeps.run(short, tmp_path)
    root = tmp_path / "tiny"
    before, plan = files(root), (root / "plan.json").read_bytes()
    pictures(tmp_path / "pictures", shift=1)
    with pytest.raises(BnsweepError, match=f"the contents of data set image_folder .*{CHOICE}"):
        sweeps.run(short, tmp_path)
    with pytest.raises(
        BnsweepError, match=r"the contents of data set image_folder changed.*--accept-changes"
    ):
        api.resume("tiny", storage=str(tmp_path))
    assert files(root) == before and (root / "plan.json").read_bytes() == plan
    outcome, _ = sweeps.run(short, tmp_path, accept_changes=True)
    assert outcome.exit_code == 0 and outcome.started == 4
    assert before.items() <= files(root).items(), "results stay"


def test_fewer_values_leave_results_alone_and_say_so(
    short: dict[str, Any], sweeps: Any, tmp_path: Path
) -> None:
    sweeps.run(short, tmp_path)
    before = files(tmp_path / "tiny")
    fewer = sweeps.changed(short, lr=0.1)
    outcome, said = sweeps.run(fewer, tmp_path)
    assert outcome.started == 0 and outcome.states == {"completed": 2}
    assert "trials: - 2 no longer asked for; 2 results of them are kept, not shown" in changes(said)
    assert files(tmp_path / "tiny") == before
    outcome, said = sweeps.run(short, tmp_path)
    assert outcome.started == 0 and outcome.states == {"completed": 4}
    assert files(tmp_path / "tiny") == before


def planned(capsys: pytest.CaptureFixture[str], file: Path, storage: Path) -> tuple[str, dict[str, Any]]:
    texts = []
    for options in ([], ["--json"]):
        capsys.readouterr()
        assert main(["plan", str(file), "--storage", str(storage), *options]) == 0
        texts.append(capsys.readouterr().out)
    return texts[0], json.loads(texts[1])


def test_plan_says_how_many_go_on_and_how_many_are_new(
    short: dict[str, Any], sweeps: Any, write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "r"
    short |= {"keep_checkpoints": True, "resources": {"pack_size": 4, "kernel": "grouped"}}
    text, content = planned(capsys, write_sweep(short), storage)
    assert "0 done, 4 to run" in text and (content["new"], content["under_way"]) == (4, 0)
    assert not storage.exists(), "plan starts nothing"
    sweeps.run(short, storage)
    ledger = Ledger(storage / "tiny")
    plan = api.plan(short)
    for trial in plan.trial_ids[:3]:  # as a run leaves it that was interrupted, and one that failed
        shutil.rmtree(ledger.root / "trials" / trial)
    ledger.write_pack("abcd", {"members": list(plan.trial_ids[:2]), "trials": []})
    ledger.write_failure(plan.trial_ids[2], "it broke")
    short["seeds"] = 3
    text, content = planned(capsys, write_sweep(short), storage)
    assert "1 done, 5 to run" in text
    assert "to run: 2 in packs under way go on, 2 are new; 1 failed before: --retry-failed" in text
    assert (content["under_way"], content["failed"], content["new"], content["left"]) == (2, 1, 2, 5)
    assert "changed: seed: + 2" in text and "changed: trials: + 2 new" in text
    longer = sweeps.changed(short, steps=20)
    text, _ = planned(capsys, write_sweep(longer), storage)
    assert "1 trials go on from step 10, where trials equal in all but steps ended" in text
    assert "changed: steps: 10 -> 20" in text
