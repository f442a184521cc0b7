"""Resume from what the ledger has: another directory, a moved folder, no file, a confirmed search."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bnsweep import api
from bnsweep.cli import main
from bnsweep.errors import BnsweepError
from bnsweep.matching import stored_plan
from bnsweep.runners import LocalRunner
from bnsweep.sweep.ledger import Ledger


def lose_records(folder: Path) -> int:
    """Leave a sweep as one whose last trials were not run: nothing of half of them is there."""
    import shutil

    trials = sorted((folder / "trials").iterdir())
    for trial in trials[::2]:
        shutil.rmtree(trial)
    return len(trials[::2])


def test_a_mapping_is_resumed_from_a_moved_copy_and_another_directory(
    tiny: dict[str, Any], sweeps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    sweeps.run(tiny, tmp_path / "a")
    ids = api.plan(tiny).trial_ids
    whole = [sweeps.outcome_of(Ledger(tmp_path / "a" / "tiny"), trial) for trial in ids]
    lost = lose_records(tmp_path / "a" / "tiny")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "deep")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = api.resume(tmp_path / "b" / "deep" / "tiny", runner=LocalRunner())
    assert (outcome.exit_code, outcome.started) == (0, lost)
    copy = Ledger(tmp_path / "b" / "deep" / "tiny")
    found = [sweeps.outcome_of(copy, trial) for trial in ids]
    assert [one[:2] for one in found] == [one[:2] for one in whole]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert not list(Path.cwd().iterdir())


NORM = """
from torch import nn
def make(num_features):
    return nn.Identity()
"""


def test_a_norm_of_the_users_must_be_what_it_was(
    tiny: dict[str, Any], sweeps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "resumednorms.py").write_text(NORM)
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.syspath_prepend(str(tmp_path / "home"))
    tiny["parameters"] |= {"norm": "resumednorms:make", "lr": [0.1, 0.2]}
    sweeps.run(tiny, tmp_path / "a")
    lose_records(tmp_path / "a" / "tiny")
    (tmp_path / "home" / "resumednorms.py").write_text(NORM + "# edited\n")
    with pytest.raises(BnsweepError, match=r"code of norm resumednorms:make changed .*run in .*home"):
        api.resume("tiny", storage=str(tmp_path / "a"), runner=LocalRunner())
    (tmp_path / "home" / "resumednorms.py").write_text(NORM)
    assert api.resume("tiny", storage=str(tmp_path / "a"), runner=LocalRunner()).exit_code == 0


def test_relative_paths_mean_what_they_meant(
    tiny: dict[str, Any], sweeps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnsweep.execution import data_folder
    from bnsweep.resuming import stored_sweep

    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    tiny |= {"data_root": "data", "tracking": {"uri": "sqlite:///own.db"}}
    spec = api.load(tiny)
    ledger = Ledger.open(tmp_path / "a", "tiny", create=True)
    ledger.write_sweep(spec.text, stored_plan(spec, api.plan(tiny)))
    monkeypatch.chdir(tmp_path / "elsewhere")
    found, plan = stored_sweep(ledger)
    assert data_folder(found) == str(tmp_path / "home" / "data")
    assert found.tracking == f"sqlite:///{tmp_path}/home/own.db"
    assert plan.trial_ids == api.plan(tiny).trial_ids


def test_a_confirmed_search_is_resumed(tiny: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    tiny |= {"method": "random", "search": {"num_trials": 3}}
    tiny["parameters"] |= {"lr": {"min": 0.01, "max": 0.2}, "steps": 20}
    sweeps.run(tiny, tmp_path)
    options: dict[str, Any] = {"runner": LocalRunner(), "storage": str(tmp_path)}
    assert api.confirm("tiny", top=2, seeds=2, **options).exit_code == 0
    ids = [trial.trial_id for trial in Ledger(tmp_path / "tiny-confirm").planned()]
    lost = lose_records(tmp_path / "tiny-confirm")
    outcome = api.resume("tiny-confirm", **options)
    assert (outcome.started, outcome.exit_code, outcome.states) == (lost, 0, {"completed": 4})
    assert [trial.trial_id for trial in Ledger(tmp_path / "tiny-confirm").planned()] == ids
    assert api.resume("tiny", **options).started == 0  # and the search too


def test_retried_trials_keep_their_failures(tiny: dict[str, Any], sweeps: Any, tmp_path: Path) -> None:
    sweeps.run(tiny, tmp_path)
    ledger = Ledger(tmp_path / "tiny")
    lost = lose_records(ledger.root)
    for trial in api.plan(tiny).trial_ids:
        if ledger.record(trial) is None:
            ledger.write_failure(trial, "Traceback\nRuntimeError: it broke")
    options: dict[str, Any] = {"runner": LocalRunner(), "storage": str(tmp_path)}
    assert api.resume("tiny", **options).states["failed"] == lost
    assert api.resume("tiny", retry_failed=True, **options).states == {"completed": 4, "diverged": 2}
    assert sum(len(ledger.failures(trial)) for trial in api.plan(tiny).trial_ids) == lost


VERBS = [
    ["status"], ["resume", "--in-process"], ["report"], ["sync"], ["stop"], ["ui"],
    ["confirm", "--in-process"],
]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.one_of(
        st.text(min_size=1, max_size=40),
        st.sampled_from(
            [
                "../out",
                "a\0b",
                "x" * 5000,
                "~nobody/x",
                "/",
                "..",
                ".",
                "\x1b[2J",
                "<script>",
                "con",
                "A",
                "a/../../out",
            ]
        ),
        st.lists(st.sampled_from(["..", ".", "out", "in", "~", "\\"]), min_size=1, max_size=5).map("/".join),
    ),
    verb=st.sampled_from(VERBS),
)
def test_no_name_leads_out_of_the_storage(
    name: str, verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outside lies a folder that is no ledger; no verb reads, writes or crashes."""
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "in" / "deep").mkdir(parents=True, exist_ok=True)
    before = sorted(os.walk(tmp_path))
    here = Path.cwd()
    os.chdir(tmp_path / "in")
    try:
        code = main([verb[0], "--storage", str(tmp_path / "in" / "deep"), *verb[1:], "--", name])
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os.chdir(here)
    assert code == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and "\x1b" not in captured.err
    assert sorted(os.walk(tmp_path)) == before


STRANGE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["..", "../out", "../in/deep/tiny", "/", "~", "tiny/../../out", "s3://", "file:///", "<b>", ":"]
    ),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(name="", arm="\x1b[2J", known=True)
@example(name="../out", arm="../out", known=False)
@given(name=STRANGE, arm=STRANGE, known=st.booleans())
def test_no_arm_and_no_folder_of_a_report_leads_out_of_the_storage(
    name: str, arm: str, known: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``compare A:ARM`` and ``report --out`` with anything: a refusal, and nothing written elsewhere."""
    storage = tmp_path / "in" / "deep"
    (tmp_path / "out").mkdir(exist_ok=True)
    if not (storage / "tiny").exists():
        Ledger.open(storage, "tiny", create=True).write_sweep("x", {"trials": []})
    before = sorted(os.walk(tmp_path))
    first = "tiny" if known else name
    for words in (
        ["compare", "--storage", str(storage), "--", f"{first}:{arm}", "tiny"],
        ["compare", "--storage", str(storage), "--", "tiny", f"{first}:{arm}"],
        [
            "report",
            "--storage",
            str(storage),
            "--out",
            str(tmp_path / "out" / "x"),
            "--",
            f"{first}{arm}/../x",
        ],
    ):
        here = Path.cwd()
        os.chdir(tmp_path / "in")
        try:
            code = main(words)
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            os.chdir(here)
        assert code in (2, 4), words
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err and "\x1b" not in captured.err
        assert sorted(os.walk(tmp_path)) == before
