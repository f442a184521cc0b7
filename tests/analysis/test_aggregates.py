"""Arms over the whole grid: the page and the table say what is counted by hand."""

import numpy as np
import pytest

from bnsweep.analysis import make_report
from bnsweep.analysis.results import Results

TABLE = {
    ("none", 0.1): [0.60, 0.61, 0.70, 0.65],
    ("none", 1.0): [0.10, 0.12, None, 0.11],
    ("batch", 0.1): [0.80, 0.61, 0.90, 0.85],
    ("batch", 1.0): [0.80, 0.90, 0.85, 0.05],
}


def test_every_arm_is_compared_with_none(accuracies):
    ledger = accuracies(TABLE)
    none, batch = Results.read(ledger).aggregates
    assert (none.base, none.better) == ("none", None)
    pooled = np.sort([0.80, 0.61, 0.90, 0.85, 0.80, 0.90, 0.85, 0.05])
    assert batch.iqm[0] == pytest.approx(pooled[2:6].mean())
    # at 0.1: 0.61 beats 0.60, ties 0.61, loses twice; the others beat all. At 1: 0.05 loses to all four.
    assert batch.better is not None
    assert batch.better[0] == pytest.approx(((1.5 + 12) / 16 + 12 / 16) / 2)
    assert batch.better[1] <= batch.better[0] <= batch.better[2]
    report = make_report(ledger)
    page = report.path.read_text()
    assert "<h2>Over the whole grid</h2>" in page and "beats none with probability" in page
    assert "0.80 [" in page
    assert "aggregates.csv" in {path.name for path in report.tables}


def test_unequal_seeds_have_no_aggregate(accuracies):
    assert Results.read(accuracies(TABLE | {("none", 0.1): [0.6, 0.6]})).aggregates == ()
