"""The report of a search: ranking, Pareto front, tables and figures, against small cases by hand."""

from types import SimpleNamespace

import pytest

from bnsweep.analysis import make_report
from bnsweep.analysis.results import Results
from bnsweep.analysis.search_figures import _drawn
from bnsweep.analysis.searches import pareto_front
from bnsweep.matching import stored_plan
from bnsweep.sweep import load_spec, make_plan
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.objectives import Goal, quantile_of
from bnsweep.sweep.records import Record
from bnsweep.sweep.spec import Constraint, Metric
from bnsweep.trial import TrialState


@pytest.fixture
def search(tmp_path):
    """A random search of six conditions whose accuracy is known: 0.9 minus 0.1 times its number."""
    spec = load_spec(
        {
            "name": "s",
            "method": "random",
            "search": {"num_trials": 6},
            "parameters": {
                "model": "mlp",
                "norm": ["none", "batch"],
                "lr": {"min": 0.001, "max": 1, "distribution": "log_uniform_values"},
                "steps": 10,
            },
            "seeds": 3,
        }
    )
    plan = make_plan(spec)
    ledger = Ledger.open(tmp_path, "s", create=True)
    ledger.write_sweep(spec.text, stored_plan(spec, plan))
    for index, trial in enumerate(plan.trials):
        number, seed = divmod(index, 3)
        readings = {"test_accuracy": 0.9 - 0.1 * number + 0.01 * (seed - 1)}
        if number == 5 and seed == 0:
            record = Record.of(trial, TrialState.DIVERGED, 4, {}, diverged_step=4)
        else:
            record = Record.of(trial, TrialState.COMPLETED, 10, readings)
        ledger.write_record(record, [(10, "test_accuracy", 0, 0.5, 0)])
    return SimpleNamespace(spec=spec, plan=plan, ledger=ledger)


def test_conditions_are_ranked_by_their_mean(search):
    found = Results.read(search.ledger).found
    assert [one.number for one in found.ranked] == [0, 1, 2, 3, 4, 5]
    assert found.ranked[0].worth.values == pytest.approx((0.9,))
    assert found.ranked[-1].worth.values == pytest.approx(((0.1 + 0.4 + 0.41) / 3,))
    assert found.ranked[-1].worth.diverged_fraction == pytest.approx(1 / 3)
    assert found.names == ("norm", "lr")


def test_the_report_names_the_best_and_its_caution(search, tmp_path):
    report = make_report(search.ledger, tmp_path / "out")
    assert {path.name for path in report.tables} == {"trials.csv", "conditions.csv", "search.csv"}
    names = {path.name for path in report.figures if path.suffix == ".png"}
    assert names == {"search-history.png", "search-slices.png", "search-parallel.png"}
    assert "90.0 [87.5, 92.5] %" in report.summary
    assert "its luck was chosen" in report.summary
    page = report.path.read_text()
    assert "Best conditions" in page and "search.csv" in page
    again = make_report(search.ledger, tmp_path / "again")
    assert again.path.read_bytes() == report.path.read_bytes()


def test_an_unfinished_condition_is_not_ranked(search, tmp_path):
    spec = load_spec({**search.spec.to_dict(), "search": {"num_trials": 8}})
    search.ledger.write_sweep(spec.text, stored_plan(spec, make_plan(spec)))
    found = Results.read(search.ledger).found
    assert len(found.tried) == 6
    assert make_report(search.ledger, tmp_path / "out").summary.startswith("18 of 24 trials done")


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1.0, 1.0)], [0]),
        ([(1.0, 1.0), (1.0, 1.0)], [0, 1]),
        ([(0.0, 2.0), (1.0, 1.0), (2.0, 0.0), (2.0, 2.0)], [0, 1, 2]),
        ([(0.0, 0.0), (0.0, 1.0)], [0]),
    ],
    ids=["none", "one", "equal", "a curve", "a tie in one"],
)
def test_the_pareto_front(points, front):
    assert pareto_front(points) == front


def test_goals_are_reached_by_quantile_and_kept_by_constraints(search):
    records = list(search.ledger.records(search.plan.trial_ids[15:]))
    goal = Goal((Metric("test_accuracy", "maximize"),), 0.0, ("diverged_fraction <= 0.25",))
    worth = goal.worth(records)
    assert worth.values == (0.1,)
    assert worth.excess == {"diverged_fraction <= 0.25": pytest.approx(1 / 3 - 0.25)}
    assert not worth.feasible
    assert Goal.from_dict(goal.to_dict()) == goal


@pytest.mark.parametrize(("part", "value"), [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.25, 1.75)])
def test_quantiles(part, value):
    assert quantile_of([4.0, 2.0, 1.0, 3.0], part) == value


def test_a_constraint_is_broken_by_as_much_as_it_says():
    assert Constraint("test_loss", True, 1.0).excess(1.5) == 0.5
    assert Constraint("test_accuracy", False, 0.75).excess(0.5) == 0.25
    assert Constraint.parse("test_accuracy >= 0.5") == Constraint("test_accuracy", False, 0.5)
    assert Constraint.parse("lr <= 1") is None


def test_one_loss_that_exploded_does_not_hide_the_others():
    def tried(number, loss, diverged):
        return SimpleNamespace(
            number=number, worth=SimpleNamespace(values=(loss,), diverged_fraction=diverged)
        )

    goal = SimpleNamespace(metrics=(Metric("test_loss", "minimize"),))
    found = SimpleNamespace(goal=goal, tried=[tried(0, 0.5, 0), tried(1, 2.0, 0), tried(2, 1e30, 0.5)])
    assert _drawn(found, 0) == [0.5, 2.0, 20.0]
    found.tried = found.tried[2:]
    assert _drawn(found, 0) == [1e30], "nothing to compare it with"
