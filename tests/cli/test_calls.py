"""Every verb from outside: exit codes, one paragraph an error, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnsweep.cli import VERBS, main


def called(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    try:
        code = main([str(word) for word in words])
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_and_plan_import_nothing_heavy(tiny: dict[str, Any], write_sweep: Any) -> None:
    code = (
        "import sys; from bnsweep.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    for words in (["--help"], ["plan", str(write_sweep(tiny))]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, verb, "--help")
    assert code == 0
    assert f"Example: bnsweep {verb}" in " ".join(out.split())


@pytest.mark.parametrize("words", [("fly",), ("run",), ("plan", "--jsn"), ()], ids=str)
def test_wrong_calls_end_with_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = called(capsys, *words)
    assert code == 2
    assert "Traceback" not in err


def test_plan_counts_and_lists(
    tiny: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tiny)
    code, out, _ = called(capsys, "plan", file, "--storage", tmp_path / "results")
    assert code == 0
    assert "tiny: 6 trials = 3 conditions x 2 seeds" in out
    assert not (tmp_path / "results").exists()
    code, out, _ = called(capsys, "plan", file, "--storage", tmp_path / "results", "--json")
    content = json.loads(out)
    assert code == 0
    assert len({trial["trial_id"] for trial in content["trials"]}) == 6
    assert content["left"] == 6


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "schema")
    assert code == 0
    assert "parameters" in json.loads(out)["properties"]


def test_all_mistakes_come_at_once_with_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: Bad Name\nparameters:\n  lr: -1\n  nrom: batch\nseeds: 0\n")
    code, _, err = called(capsys, "run", file, "--storage", tmp_path / "results")
    assert code == 2
    for line in (1, 3, 4, 5):
        assert f"bad.yaml:{line}:" in err
    assert "norm" in err
    assert "Traceback" not in err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "text",
    ["", "- a\n- b\n", "a: &x [1]\nb: *x\n", "a: !!python/object/apply:os.system [ls]\n", "a: [" * 5000],
    ids=["empty", "list", "alias", "tag", "deep"],
)
def test_documents_that_are_no_sweep(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    code, _, err = called(capsys, "plan", file)
    assert code == 2
    assert "Traceback" not in err


def test_a_directory_or_nothing_instead_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "run", tmp_path)[0] == 2
    assert called(capsys, "run", tmp_path / "none.yaml")[0] == 2


def one_paragraph(err: str) -> bool:
    own = [line for line in err.splitlines() if line.startswith("bnsweep: ")]
    return len(own) == 1 and "Traceback" not in err


def test_data_that_is_absent(
    tiny: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny["parameters"]["dataset"] = "cifar10"
    tiny["data_root"] = str(tmp_path / "nothing")
    code, _, err = called(capsys, "run", write_sweep(tiny), "--storage", tmp_path / "results", "--in-process")
    assert code == 2
    assert one_paragraph(err)
    assert "cifar" in err
    assert not (tmp_path / "results").exists()


def test_an_image_folder_that_is_not_prepared(
    tiny: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny["parameters"]["dataset"] = "image_folder"
    tiny["data_root"] = str(tmp_path / "images")
    code, _, err = called(capsys, "run", write_sweep(tiny), "--storage", tmp_path / "results")
    assert code == 2
    assert "bnsweep data prepare" in err
    assert not (tmp_path / "results").exists()


def test_a_folder_that_is_not_ours(
    tiny: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "results" / "tiny"
    foreign.mkdir(parents=True)
    (foreign / "thesis.tex").write_text("mine")
    code, _, err = called(capsys, "run", write_sweep(tiny), "--storage", tmp_path / "results", "--in-process")
    assert code == 2
    assert one_paragraph(err)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_a_storage_that_cannot_be_made(
    tiny: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    words = ("run", write_sweep(tiny), "--storage", tmp_path / "file" / "results", "--in-process")
    code, _, err = called(capsys, *words)
    assert code == 2
    assert one_paragraph(err)


@pytest.mark.parametrize("kind", ["gpus", "cpus"])
def test_more_than_the_machine_has(
    kind: str, tiny: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny["resources"] = {kind: 1000}
    code, _, err = called(capsys, "run", write_sweep(tiny), "--storage", tmp_path / "results")
    assert code == 2
    assert f"resources.{kind} must be <=" in err
    assert not (tmp_path / "results").exists()


NORMS = """\
import torch
from torch import nn

def raises(num_features):
    raise RuntimeError("no such thing")

class Halved(nn.Module):
    def forward(self, x):
        return x[:, : x.shape[1] // 2]

def halved(num_features):
    return Halved()

class Scaled(nn.Module):
    per_channel = True
    def __init__(self, num_features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_features))
    def forward(self, x):
        return x * self.scale.view(1, -1, *[1] * (x.dim() - 2))

def scaled(num_features):
    return Scaled(num_features)

class Moody(Scaled):
    def forward(self, x):
        if x.shape[0] > 100:
            raise RuntimeError("too many samples for me")
        return super().forward(x)

def moody(num_features):
    return Moody(num_features)
"""


@pytest.fixture
def own_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownnorms.py").write_text(NORMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("factory", ["raises", "halved", "absent"])
def test_a_norm_that_does_not_work(
    factory: str,
    own_norms: None,
    tiny: dict[str, Any],
    write_sweep: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny["parameters"]["norm"] = f"ownnorms:{factory}"
    code, _, err = called(capsys, "run", write_sweep(tiny), "--storage", tmp_path / "results", "--in-process")
    assert code == 2
    assert f"ownnorms:{factory}" in err
    assert one_paragraph(err)
    assert not (tmp_path / "results").exists()


def test_a_norm_of_the_users_trains(
    own_norms: None,
    tiny: dict[str, Any],
    write_sweep: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny["parameters"] |= {"norm": "ownnorms:scaled", "lr": [0.1, 0.5]}
    code, out, _ = called(capsys, "run", write_sweep(tiny), "--storage", tmp_path / "results", "--in-process")
    assert code == 0
    assert "4 of 4 trials done" in out


def test_an_error_while_training_fails_its_trials_only(
    own_norms: None,
    tiny: dict[str, Any],
    write_sweep: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny["parameters"]["norm"] = ["none", "ownnorms:moody"]
    code, out, err = called(
        capsys, "run", write_sweep(tiny), "--storage", tmp_path / "results", "--in-process"
    )
    assert code == 1
    assert "6 of 12 trials done" in out
    assert "too many samples for me" in err
    failures = list((tmp_path / "results" / "tiny" / "trials").glob("*/failure.1.json"))
    assert len(failures) == 6
    assert "too many samples for me" in json.loads(failures[0].read_text())["traceback"]


def test_run_again_has_nothing_to_do(
    tiny: dict[str, Any],
    write_sweep: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, storage = write_sweep(tiny), tmp_path / "results"
    code, out, _ = called(capsys, "run", file, "--storage", storage, "--in-process")
    assert code == 0
    assert "6 of 6 trials done (2 diverged)" in out
    page = (storage / "tiny" / "report" / "report.html").read_bytes()
    monkeypatch.setitem(sys.modules, "ray", None)  # a plan with nothing left never starts Ray
    monkeypatch.delitem(sys.modules, "bnsweep.runners.tune", raising=False)
    code, _, err = called(capsys, "run", file, "--storage", storage)
    assert code == 0
    assert "nothing to run" in err
    assert (storage / "tiny" / "report" / "report.html").read_bytes() == page
    code, out, _ = called(capsys, "status", "tiny", "--storage", storage, "--json")
    assert json.loads(out)["states"] == {"completed": 4, "diverged": 2}
    code, out, _ = called(capsys, "report", "tiny", "--storage", storage, "--out", tmp_path / "elsewhere")
    assert code == 0
    assert (tmp_path / "elsewhere" / "report.html").exists()


def test_extending_runs_only_what_is_new(
    tiny: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "results"
    called(capsys, "run", write_sweep(tiny), "--storage", storage, "--in-process")
    before = {path: path.read_bytes() for path in storage.glob("tiny/trials/*/record.json")}
    tiny["parameters"]["lr"] = [0.1, 0.2, 0.5, 1e6]
    tiny["seeds"] = 3
    code, out, err = called(capsys, "run", write_sweep(tiny), "--storage", storage, "--in-process")
    assert code == 0
    assert "6 done, 6 to run" in err
    assert "12 of 12 trials done" in out
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("verb", ["status", "report", "resume", "sync"])
def test_a_sweep_that_was_never_run(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = called(capsys, verb, "nobody", "--storage", tmp_path)
    assert code == 2
    assert one_paragraph(err)


def test_failed_trials_stay_failed_until_asked_for(
    own_norms: None,
    tiny: dict[str, Any],
    write_sweep: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny["parameters"] |= {"norm": "ownnorms:moody", "lr": 0.1}
    words = ("run", write_sweep(tiny), "--storage", tmp_path / "results", "--in-process")
    assert called(capsys, *words)[0] == 1
    code, _, err = called(capsys, *words)
    assert code == 1
    assert "2 failed before: --retry-failed" in err
    assert not list(tmp_path.glob("results/tiny/trials/*/failure.2.json"))
    assert called(capsys, *words, "--retry-failed")[0] == 1
    assert len(list(tmp_path.glob("results/tiny/trials/*/failure.2.json"))) == 2


def test_an_edited_norm_gives_new_trials(own_norms: None, tiny: dict[str, Any], tmp_path: Path) -> None:
    from bnsweep import api

    tiny["parameters"]["norm"] = ["none", "ownnorms:scaled"]
    before = api.plan(tiny)
    (tmp_path / "ownnorms.py").write_text(NORMS + "# another version\n")
    after = api.plan(tiny)
    changed = [old != new for old, new in zip(before.trial_ids, after.trial_ids, strict=True)]
    assert changed == [trial.parameters["norm"] != "none" for trial in before.trials]


def test_a_moved_ledger_is_resumed_where_it_is(
    tiny: dict[str, Any],
    write_sweep: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert called(capsys, "run", write_sweep(tiny), "--storage", tmp_path / "a", "--in-process")[0] == 0
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "tiny").rename(tmp_path / "b" / "renamed")
    code, _, err = called(capsys, "resume", tmp_path / "b" / "renamed", "--in-process")
    assert (code, "nothing to run" in err) == (0, True)
    monkeypatch.chdir(tmp_path / "b" / "renamed")
    assert called(capsys, "resume", ".", "--in-process")[0] == 0
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["renamed"]
    assert not (tmp_path / "b" / "renamed" / "tiny").exists()


def test_a_sweep_is_run_by_one_process_at_a_time(
    tiny: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bnsweep.sweep.ledger import Ledger

    ledger = Ledger.open(tmp_path / "results", "tiny", create=True)
    with ledger.exclusive():
        words = ("run", write_sweep(tiny), "--storage", tmp_path / "results", "--in-process")
        code, _, err = called(capsys, *words)
    assert code == 5
    assert f"process {os.getpid()}" in err
    assert one_paragraph(err)


@pytest.mark.slow
def test_a_tracking_server_that_is_down_stops_nothing_and_is_said(
    tiny: dict[str, Any], write_sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bnsweep.tracking.ui import free_port

    tiny["tracking"] = {"uri": f"http://127.0.0.1:{free_port(0)}"}
    words = ("run", write_sweep(tiny), "--storage", tmp_path / "results", "--in-process", "--quiet")
    code, out, err = called(capsys, *words)
    assert code == 0
    assert "does not answer" in err and "Training goes on" in err
    assert "6 trials not exported" in out and f"run bnsweep sync {tmp_path / 'results' / 'tiny'}" in out
    code, _, err = called(capsys, *words)  # nothing to train: no wait for the server
    assert code == 0 and "6 trials not exported" in err
