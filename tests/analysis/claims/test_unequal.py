"""Sweeps whose trials do not compare: said, and never averaged over."""

import json

import pytest

from bnsweep.analysis import make_report
from bnsweep.analysis.cautions import cautions
from bnsweep.analysis.claims import freeze
from bnsweep.analysis.comparison import Side, compare
from bnsweep.analysis.results import Results
from bnsweep.cli.compare_verb import split
from bnsweep.errors import BnsweepError, LedgerError
from bnsweep.sweep import load_spec
from bnsweep.trial import RESULTS_VERSION

LRS = (0.01, 0.1, 1.0)
REACH = {"none": 0.01, "batch": 1.0}


@pytest.fixture
def made(tmp_path, synthetic):
    """Makes the results of a sweep with lr_robustness; ``rest`` gives what a trial's record says besides."""

    def make(grid, seeds=range(6), rest=lambda one: {}, name="synthetic"):
        def outcome(one):
            trains = one.parameters["lr"] <= REACH[one.parameters["norm"]]
            own = dict(rest(one))
            state = own.pop("state", synthetic.State.COMPLETED)
            return synthetic.Outcome({"test_accuracy": 0.9 if trains else 0.1}, state=state, rest=own)

        plan = grid if not isinstance(grid[0], dict) else synthetic.trials(grid, seeds)
        ledger = synthetic.build(tmp_path / name, plan, outcome, name=name)
        stored = freeze(
            load_spec({"name": "x", "parameters": {"lr": [0.1]}, "claims": ["lr_robustness"]}), {}, 0
        )
        content = json.loads((ledger.root / "plan.json").read_text())
        content.pop("schema")
        ledger.write_sweep("name: x\n", content | {"claims": stored})
        return Results.read(ledger)

    return make


GRID = [{"norm": norm, "lr": lr} for norm in REACH for lr in LRS]


def test_equal_trials_are_judged_without_a_word(made):
    results = made(GRID)
    [verdict] = results.verdicts
    assert (verdict.word, verdict.cautions) == ("supported", ())
    assert not [text for text in cautions(results) if "nequal" in text or "version" in text]


def test_seeds_that_one_arm_lacks_are_left_out_and_named(made, synthetic):
    plan = synthetic.trials(GRID, range(4)) + synthetic.trials([GRID[0], *GRID[3:]], (4, 5))
    [verdict] = made(plan).verdicts
    assert verdict.judged.tests[0].n == 4
    assert "seeds that not every arm has are left out: 4, 5" in verdict.cautions
    assert any("seeds: none: 4 to 6; batch: 6" in text for text in verdict.cautions)


def test_learning_rates_that_one_arm_lacks_are_left_out_and_named(made):
    [verdict] = made([*GRID, {"norm": "batch", "lr": 3.0}]).verdicts
    assert "learning rates that not every arm has are left out: 3" in verdict.cautions
    assert any("learning rates" in text and "unequal tuning" in text for text in verdict.cautions)


def test_budgets_that_differ_between_arms_are_never_compared(made):
    steps = {"none": 200, "batch": 300}
    results = made([{**one, "steps": steps[one["norm"]]} for one in GRID])
    [verdict] = results.verdicts
    assert verdict.word == "undecided"
    assert verdict.reason.startswith("arm missing: no setting has none and batch together")
    assert "differ in steps" in verdict.reason
    assert "lr_robustness: undecided" in make_report(results.ledger).summary


def test_budgets_that_both_arms_have_are_judged_apart(made):
    found = made([{**one, "steps": steps} for one in GRID for steps in (200, 300)]).verdicts
    assert [one.key for one in found] == ["lr_robustness steps=200", "lr_robustness steps=300"]
    assert {one.judged.tests[0].n for one in found} == {6}


def test_trials_stopped_early_are_not_compared(made, synthetic):
    state = lambda one: {"state": synthetic.State.STOPPED} if one.seed == 2 else {}  # noqa: E731
    [verdict] = made(GRID, rest=state).verdicts
    assert (verdict.word, "stopped early" in verdict.reason) == ("undecided", True)


def test_twins_that_names_do_not_tell_apart_are_not_chosen_from(made):
    """Two learning-rate grids whose trials differ in a momentum that prints alike."""
    twins = [{**one, "momentum": value} for one in GRID for value in (0.9, 0.90000001)]
    results = made(twins)
    [verdict] = results.verdicts
    assert (verdict.word, "several trials" in verdict.reason) == ("undecided", True)
    assert any("Several trials share" in text for text in cautions(results))


@pytest.mark.parametrize("versions", [(RESULTS_VERSION + 1,), (RESULTS_VERSION, RESULTS_VERSION + 1)])
def test_other_versions_of_the_code_are_said(made, versions):
    results = made(GRID, rest=lambda one: {"results_version": versions[one.seed % len(versions)]})
    said = [text for text in cautions(results) if "version" in text]
    assert len(said) == 1
    assert (results.verdicts[0].word == "supported") == (len(versions) == 1)


def test_a_ledger_of_a_newer_format_is_refused(made):
    results = made(GRID)
    path = results.ledger.root / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 999}))
    with pytest.raises(LedgerError, match="999"):
        Results.read(results.ledger).verdicts  # noqa: B018


def test_a_comparison_names_what_else_differs(made):
    one = made([{**own, "steps": 200} for own in GRID], name="one")
    two = made([{**own, "steps": 300} for own in GRID], seeds=range(4), name="two")
    lines = compare(Side(one), Side(two))
    assert "caution: steps is 200 in one and 300 in two" in lines
    assert "caution: seeds that only one side has are left out: 4, 5" in lines
    assert all("n=4" in line for line in lines if line.startswith("  lr"))


def test_a_comparison_refuses_to_average_over_versions(made):
    mixed = made(GRID, rest=lambda one: {"results_version": 1 + one.seed % 2}, name="mixed")
    with pytest.raises(BnsweepError, match="results versions 1, 2: their numbers are never averaged"):
        compare(Side(mixed, "batch"), Side(mixed, "none"))
    one, two = (made(GRID, rest=lambda _, v=v: {"results_version": v}, name=f"v{v}") for v in (1, 2))
    assert "caution: results versions 1, 2: their numbers do not compare" in compare(Side(one), Side(two))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a", "")),
        ("a:b", ("a", "b")),
        ("s3://k/a:m:f", ("s3://k/a", "m:f")),
        ("/x/a:b n=1", ("/x/a", "b n=1")),
    ],
)
def test_a_side_is_a_sweep_or_an_arm_of_one(text, parts):
    assert split(text) == parts
