# ruff: noqa: RUF001 (dashes as they are printed)
"""What each arm was given, and what a budget of tries finds, against a count of every choice."""

import itertools
from dataclasses import replace

import pytest

from bnsweep.analysis import make_report
from bnsweep.analysis.cautions import cautions
from bnsweep.analysis.effort import best_of, efforts, unequal
from bnsweep.analysis.results import Results

LRS = (0.01, 0.1, 1.0)


@pytest.fixture
def ledger(accuracies):
    """Makes a ledger of two seeds, with some learning rates for the arm without a norm."""

    def make(lrs_of_none=LRS):
        grid = [(norm, lr) for norm, lrs in (("none", lrs_of_none), ("batch", LRS)) for lr in lrs]
        return accuracies({(norm, lr): [0.5 + 0.1 * lr] * 2 for norm, lr in grid})

    return make


@pytest.mark.parametrize("tries", [1, 2, 3, 4, 5])
def test_best_of_is_the_mean_over_every_choice(tries):
    means = [0.3, 0.9, 0.1, 0.7, 0.7]
    every = [max(chosen) for chosen in itertools.combinations(means, tries)]
    assert best_of(means, tries) == pytest.approx(sum(every) / len(every))


def test_equal_arms_have_no_warning(ledger):
    results = Results.read(ledger())
    none, batch = efforts(results)
    assert none.lrs == batch.lrs == LRS and none.seeds == (2, 2) and none.conditions == 3
    assert none.resolution == pytest.approx(1.0)
    assert not [text for text in cautions(results) if "Unequal tuning" in text]


def test_unequal_arms_are_told_apart(ledger):
    results = Results.read(ledger((0.1,)))
    found = [text for text in cautions(results) if text.startswith("Unequal tuning")]
    assert len(found) == 2
    assert "conditions: none: 1; batch: 3" in found[0]
    assert "learning rates: none: 1, 0.1; batch: 3, 0.01–1 in steps of 1 decades at most" in found[1]


def test_seeds_and_steps_count_as_effort(ledger):
    none, batch = efforts(Results.read(ledger()))
    other = replace(batch, seeds=(2, 5), steps=(300, 600))
    said = list(unequal([none, other]))
    assert "seeds: none: 2; batch: 2 to 5" in said[0]
    assert "steps: none" in said[1] and "300, 600" in said[1]


def test_the_report_has_the_table(ledger):
    made = make_report(ledger())
    assert "Tuning effort" in made.path.read_text()
    lines = (made.path.parent / "tables" / "effort.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * len(LRS)
    assert lines[0].split(",")[-2:] == ["tries", "best_of_tries"]
