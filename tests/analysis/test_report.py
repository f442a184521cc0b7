import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bnsweep.analysis import make_report
from bnsweep.analysis.cautions import cautions
from bnsweep.analysis.claims import freeze
from bnsweep.analysis.results import Results
from bnsweep.errors import BnsweepError
from bnsweep.sweep import load_spec
from bnsweep.sweep.ledger import Ledger

LRS = (0.01, 0.1, 1.0)
TABLE = {
    **{("none", lr): values for lr, values in zip(LRS, ([0.4, 0.5], [0.6, None], [None, None]), strict=True)},
    **{("batch", lr): [0.9, 0.8] for lr in LRS},
}


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def page(report):
    return report.path.read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, synthetic):
    """The report of a sweep with every probe's readings, one arm of which diverges at the larger rate."""
    plan = synthetic.trials(synthetic.grid(["none", "batch"], [0.03, 0.3], steps=300), range(2))
    return make_report(synthetic.build(tmp_path_factory.mktemp("whole"), plan, synthetic.lifelike))


def test_the_report_of_a_whole_sweep(whole):
    assert whole.path.parts[-3:] == ("synthetic", "report", "report.html")
    names = {path.stem for path in whole.figures}
    assert names == {
        "test-accuracy-vs-lr", "train-accuracy-vs-lr", "training", "ics", "ics-layers", "landscape",
        "landscape-loss-band", "landscape-gradient-band", "moments",
    }  # fmt: skip
    assert {path.suffix for path in whole.figures} == {".png", ".svg", ".pdf"}
    assert all(path.stat().st_size > 1000 for path in whole.figures)
    assert {path.name for path in whole.tables} == {
        "trials.csv", "conditions.csv", "lr_range.csv", "lr_range.tex", "effort.csv", "aggregates.csv",
    }  # fmt: skip
    assert page(whole).count("<img ") == len(names)
    assert "8 of 8 trials done (2 diverged)" in page(whole)
    assert whole.summary.startswith("8 of 8 trials done")


def test_the_same_ledger_gives_the_same_bytes_in_another_process_and_place(whole, tmp_path):
    moved = shutil.copytree(whole.path.parent.parent, tmp_path / "elsewhere")
    ledger = Ledger(moved)
    claims = ["lr_robustness", "trains_faster", "ics_not_reduced", "loss_variation"]
    spec = load_spec({"name": "x", "parameters": {"lr": [0.1]}, "claims": claims})
    ledger.write_sweep(
        "name: x\n", {"trials": ledger.plan()["trials"], "name": "x", "claims": freeze(spec, {}, False)}
    )
    make_report(ledger)
    first = contents(moved / "report")
    kinds = {Path(name).suffix for name in first}
    assert kinds == {".html", ".png", ".svg", ".pdf", ".csv", ".tex", ".json"}
    assert {"figures/claim-loss-variation.png", "tables/verdicts.csv", "tables/aggregates.csv"} <= set(first)
    code = (
        "import sys; from bnsweep.analysis import make_report; from bnsweep.sweep.ledger import Ledger;"
        "make_report(Ledger(sys.argv[1]), sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(moved), str(tmp_path / "out")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    again = contents(tmp_path / "out")
    assert list(first) == list(again)
    assert [name for name in first if first[name] != again[name]] == []


def test_the_page_needs_nothing_else(whole):
    text = page(whole)
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]{0,40})""", text)
    assert links
    assert all(link.startswith("data:image/") for link in links)
    assert "<script" not in text
    assert "@import" not in text


def test_tables_read_back_exactly(accuracies):
    ledger = accuracies(TABLE)
    report = make_report(ledger)
    tables = {path.stem: pd.read_csv(path) for path in report.tables if path.suffix == ".csv"}
    results = Results.read(ledger)
    assert list(tables["trials"]["trial_id"]) == list(results.trials["trial_id"])
    assert list(tables["trials"]["lr"]) == list(results.trials["lr"])
    assert (
        tables["conditions"]["test_accuracy_mean"].tolist()
        == results.conditions["test_accuracy_mean"].tolist()
    )
    assert list(tables["lr_range"]["arm"]) == ["none", "batch"]


def test_what_users_wrote_is_escaped(accuracies):
    evil = '<script>alert("1")</script> & <b>'
    report = make_report(accuracies(TABLE, description=evil, text=f"name: x # {evil}\n"))
    text = page(report)
    assert "<script" not in text
    assert "<b>alert" not in text
    assert text.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &lt;b&gt;") == 2


def test_a_norm_with_markup_or_mathematics_in_its_label_is_drawn_as_text(tmp_path, synthetic):
    plan = synthetic.trials([{"norm": "my_norms:make_it", "lr": lr} for lr in LRS], range(2))
    ledger = synthetic.build(tmp_path, plan, lambda one: synthetic.Outcome({"test_accuracy": 0.8}))
    assert "my_norms:make_it" in page(make_report(ledger))


def test_figures_without_readings_are_left_out(accuracies):
    report = make_report(accuracies(TABLE))
    assert {path.stem for path in report.figures} == {"test-accuracy-vs-lr", "train-accuracy-vs-lr"}


def test_an_unstarted_sweep_says_so(tmp_path, synthetic):
    plan = synthetic.trials([{"norm": "none"}, {"norm": "batch"}], range(3))
    report = make_report(synthetic.build(tmp_path, plan, lambda one: None))
    assert report.figures == ()
    assert "0 of 6 trials done, 6 missing" in page(report)
    assert "No trial has finished" in page(report)


def test_a_partial_sweep_says_what_is_missing_and_what_failed(tmp_path, synthetic):
    plan = synthetic.trials([{"norm": "none", "lr": lr} for lr in LRS], range(3))

    def outcome(one):
        late = one.seed > 0 and one.parameters["lr"] > 0.5
        return None if late else synthetic.Outcome({"test_accuracy": 0.5})

    ledger = synthetic.build(tmp_path, plan, outcome)
    ledger.write_failure(plan[-1].trial_id, "Traceback: boom")
    text = page(make_report(ledger))
    assert "7 of 9 trials done, 2 missing (1 failed)" in text
    assert "Unfinished: 2 of 9 trials are missing" in text
    assert "Failed, and counted as missing: 1 trial (1 failed attempts)" in text
    assert "unequal numbers of finished seeds, from 1 to 3" in text


def test_a_sweep_where_everything_diverged(tmp_path, synthetic):
    burst = synthetic.Outcome(
        {}, [(0, "train_loss", 0, 2.4, 0), (0, "train_accuracy", 0, 0.1, 0)], diverged_step=2
    )
    plan = synthetic.trials(synthetic.grid(["none", "batch"], LRS), range(2))
    report = make_report(synthetic.build(tmp_path, plan, lambda one: burst))
    assert "Every finished trial diverged" in page(report)
    assert "No arm trains at any learning rate" in page(report)
    assert {path.stem for path in report.figures} == {
        "test-accuracy-vs-lr", "train-accuracy-vs-lr", "training",
    }  # fmt: skip


def test_one_trial_alone(tmp_path, synthetic):
    plan = synthetic.trials([{"norm": "batch", "lr": 0.1}], [4])
    report = make_report(
        synthetic.build(tmp_path, plan, lambda one: synthetic.Outcome({"test_accuracy": 0.9}))
    )
    text = page(report)
    assert "One seed a condition" in text
    assert "One learning rate" in text
    assert "90.0 % (n=1)" in text


def test_a_regression_is_drawn_by_its_losses(tmp_path, synthetic):
    conditions = synthetic.grid(["none", "batch"], [1e-7, 1e-6, 1e-5], model="dln", steps=1000)
    ledger = synthetic.build(tmp_path, synthetic.trials(conditions, range(2)), synthetic.regression)
    report = make_report(ledger)
    assert {path.stem for path in report.figures} == {
        "train-loss-vs-lr",
        "test-loss-vs-lr",
        "training",
        "ics",
    }
    assert "mean final train loss below" in page(report)
    conditions = Results.read(ledger).conditions
    assert conditions["train_loss_mean"].map(lambda x: 0 < x <= 1e300).all()


def test_every_facet_has_its_figures(tmp_path, synthetic):
    conditions = [{"norm": "batch", "lr": lr, "width": width} for width in (0.5, 1.0) for lr in LRS]
    outcome = lambda one: synthetic.Outcome({"test_accuracy": 0.3 + one.parameters["width"] / 2})  # noqa: E731
    report = make_report(synthetic.build(tmp_path, synthetic.trials(conditions, range(2)), outcome))
    assert {path.stem for path in report.figures} == {
        "width-0.5-test-accuracy-vs-lr", "width-1-test-accuracy-vs-lr",
    }  # fmt: skip
    assert "55.0 %" in page(report)
    assert "80.0 %" in page(report)


def test_figures_of_an_earlier_report_do_not_linger(accuracies):
    ledger = accuracies(TABLE)
    folder = make_report(ledger).path.parent / "figures"
    (folder / "ics.png").write_bytes(b"old")
    (folder / "notes.txt").write_text("mine")
    make_report(ledger)
    assert not (folder / "ics.png").exists()
    assert (folder / "notes.txt").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(accuracies, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BnsweepError, match=r"must be writable, but writing in .*file failed"):
        make_report(accuracies(TABLE), tmp_path / "file")


def test_provenance_is_on_the_page(accuracies):
    ledger = accuracies(TABLE)
    text = page(make_report(ledger))
    for expected in ("packages torch", "2.15", Results.read(ledger).plan_hash, "0 1", "name: synthetic"):
        assert expected in text


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({("batch", lr): [v, v] for lr, v in zip(LRS, (0.2, 0.5, 0.9), strict=True)}, "best may lie beyond"),
        ({("batch", lr): [v, v] for lr, v in zip(LRS, (0.9, 0.5, 0.2), strict=True)}, "may begin below"),
        ({("batch", 0.1): [0.9] * 5, ("none", 0.01): [0.9] * 5}, "different learning rates"),
        ({("batch", 0.1): [0.9] * 3}, "3 seeds a condition at most"),
    ],
    ids=["best-at-edge", "trains-at-edge", "unequal-grids", "few-seeds"],
)
def test_cautions(accuracies, table, expected):
    assert expected in "\n".join(cautions(Results.read(accuracies(table))))


def test_a_sound_sweep_has_no_cautions(accuracies):
    values = [0.2, 0.9, 0.3]
    table = {(norm, lr): [v] * 5 for norm in ("none", "l1") for lr, v in zip(LRS, values, strict=True)}
    assert cautions(Results.read(accuracies(table))) == []


def test_early_stopping_and_mixed_devices_are_cautioned(tmp_path, synthetic):
    plan = synthetic.trials([{"norm": "none", "lr": lr} for lr in LRS], range(5))

    def outcome(config):
        state = "stopped" if config.seed == 0 else "completed"
        rest = {"environment": {"device": "cuda:0", "device_name": "AB"[config.seed % 2]}}
        return synthetic.Outcome({"test_accuracy": 0.5}, state=synthetic.State(state), rest=rest)

    text = "\n".join(cautions(Results.read(synthetic.build(tmp_path, plan, outcome))))
    assert "Stopped early: 3 trials" in text
    assert "different devices: A (9 trials), B (6 trials)" in text


def test_importing_the_package_loads_no_library():
    code = (
        "import sys, bnsweep.analysis, bnsweep.analysis.summary;"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pandas', 'matplotlib', 'scipy', 'pyarrow') "
        "if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
