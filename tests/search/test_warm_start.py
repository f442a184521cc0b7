"""What a search knows before it begins: read once, written down, counted, never mixed with its own trials."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import optuna
import pytest

from bnsweep import api
from bnsweep.errors import BnsweepError, SpecError
from bnsweep.matching import stored_plan
from bnsweep.search import Search, knowledge
from bnsweep.search.databases import closing, open_storage
from bnsweep.sweep import load_spec, make_plan
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.plan import expander
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialState

from .conftest import SPACE, loss, record_of


def other(folder, **content):
    """Return the ledger of a random search that is finished, with three seeds a condition."""
    text = {
        "name": "other",
        "method": "random",
        "metric": {"name": "test_loss"},
        "seeds": 3,
        "parameters": SPACE,
        "search": {"num_trials": 20, "sampler": "sobol"},
        **content,
    }
    spec = load_spec(text)
    plan = make_plan(spec)
    ledger = Ledger.open(folder, "other", create=True)
    ledger.write_sweep(spec.text, stored_plan(spec, plan))
    for trial in plan.trials:
        ledger.write_record(record_of(trial, loss(trial.parameters)), [])
    return SimpleNamespace(ledger=ledger, plan=plan)


def knowing(made, known, number=10, sampler="tpe", **search):
    """Return a search that begins, or goes on, with what is known."""
    spec = made.spec(number, sampler, **search)
    return Search(spec, Ledger(made.ledger.root).search_log, expander(spec), known)


def told(world, folder, sampler="tpe", **content):
    made = world(**content)
    spec = made.spec(10, sampler, warm_start="other")
    return made, knowledge(spec, lambda name: Ledger.open(folder, name))


def test_finished_conditions_of_another_sweep_are_known(world, tmp_path):
    source = other(tmp_path)
    made, known = told(world, tmp_path)
    assert len(known.observations) == 20 and not known.left_out
    assert "means over 3 seeds, here 2" in str(known)
    search = knowing(made, known)
    trials = search.study.study.trials
    values = [sum(loss(c.parameters) + 0.001 * s for s in range(3)) / 3 if loss(c.parameters) else 1e30
              for c in source.plan.conditions]  # fmt: skip
    assert [trial.values[0] for trial in trials] == pytest.approx(values)
    assert [trial.params["lr"] for trial in trials] == [c.parameters["lr"] for c in source.plan.conditions]
    assert not search.suggestions and search.budget == 10
    world.run(search)
    assert len(search.suggestions) == 10 and len(search.study.study.trials) == 30
    planned = {trial.trial_id for trial in source.plan.trials}
    assert not planned & {trial_id for one in search.suggestions for trial_id in one.trial_ids}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_what_was_known_survives_its_source_and_a_crash(world, tmp_path, sampler):
    other(tmp_path)
    whole, known = told(world, tmp_path, sampler)
    number = 6 if sampler == "gp" else 12
    expected = world.run(knowing(whole, known, number, sampler))
    cut = world()
    knowing(cut, known, number, sampler)
    shutil.rmtree(tmp_path / "other")
    for _ in range(3):
        world.run(knowing(cut, None, number, sampler), until=2)
    assert world.run(knowing(cut, None, number, sampler)) == expected


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_what_is_known_helps_from_the_first_suggestion_on(world, tmp_path, sampler):
    """The minimum is at lr 0.1; without knowledge the first suggestions are spread over four decades."""
    other(tmp_path)
    _, known = told(world, tmp_path, sampler)
    first = {}
    for name, given in (("cold", None), ("warm", known)):
        search = knowing(world(), given, 6, sampler)
        world.run(search)
        first[name] = [end["values"][0] for _, end in sorted(search.ends.items())]
    assert sorted(first["warm"])[3] < sorted(first["cold"])[3], "the median of the first six"


def test_what_does_not_fit_is_counted_and_said(world, tmp_path):
    source = other(tmp_path)
    ids = source.plan.trial_ids
    shutil.rmtree(source.ledger.root / "trials" / ids[0])
    trial = source.plan.trials[3]
    shutil.rmtree(source.ledger.root / "trials" / ids[3])
    source.ledger.write_record(Record.of(trial, TrialState.STOPPED, 4, {"test_loss": 0.0}), [])
    lrs = [c.parameters["lr"] for c in source.plan.conditions]
    outside = sum(lr > 1 for lr in lrs[2:])
    parameters = SPACE | {"lr": {"min": 0.001, "max": 1, "distribution": "log_uniform_values"}}
    _, known = told(world, tmp_path, parameters=parameters)
    assert known.left_out == {"unfinished": 1, "stopped early": 1, "outside of the range of lr": outside}
    assert len(known.observations) == 18 - outside
    assert f"left out: 1 unfinished, 1 stopped early, {outside} outside of the range of lr" in str(known)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 20}, "20 with other steps"),
        ({"dataset": "gaussian", "model": "dln"}, "with other"),
        ({"batch_size": [16, 32]}, "outside of the range of batch_size"),
        ({"weight_decay": {"min": 0.1, "max": 0.2}}, "outside of the range of weight_decay"),
    ],
    ids=["steps", "data", "a list", "a range"],
)
def test_conditions_that_differ_in_more_than_what_varies_are_refused(world, tmp_path, change, words):
    other(tmp_path)
    if "dataset" in change:
        change = change | {"norm": "none"}
    with pytest.raises(BnsweepError, match=words) as caught:
        told(world, tmp_path, parameters=SPACE | change)
    assert "Leave search.warm_start out" in str(caught.value)


def test_an_optuna_study_is_known(world, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mine.db'}"
    with closing(open_storage(uri)) as storage:
        study = optuna.create_study(storage=storage, study_name="mine")
        space = {
            "lr": optuna.distributions.FloatDistribution(1e-4, 10, log=True),
            "momentum": optuna.distributions.FloatDistribution(0, 1),
        }
        for lr, momentum, value in ((0.1, 0.5, 0.01), (1.0, 0.5, 1.0), (1e-4, 0.5, 2.0), (0.1, 0.95, 0.3)):
            study.add_trial(optuna.trial.create_trial(
                value=value, params={"lr": lr, "momentum": momentum}, distributions=space))  # fmt: skip
        study.add_trial(
            optuna.trial.create_trial(value=1.0, params={"lr": 0.1}, distributions={"lr": space["lr"]})
        )
        study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
        study.ask()
    before = (tmp_path / "mine.db").read_bytes()
    made = world()
    spec = made.spec(4, warm_start=f"{uri}#mine")
    known = knowledge(spec, pytest.fail)
    assert [one["values"] for one in known.observations] == [[0.01], [1.0]]
    assert known.left_out == {
        "outside of the range of lr": 1, "outside of the range of momentum": 1,
        "without a setting that varies here": 1, "fail": 1, "running": 1,
    }  # fmt: skip
    assert (tmp_path / "mine.db").read_bytes() == before
    assert len(world.run(knowing(made, known, 4))) == 4
    constrained = world(constraints=["diverged_fraction <= 0.2"]).spec(4, warm_start=f"{uri}#mine")
    with pytest.raises(BnsweepError, match="without the value of a constraint"):
        knowledge(constrained, pytest.fail)
    accuracy = world(metric={"name": "test_accuracy"}).spec(4, warm_start=f"{uri}#mine")
    with pytest.raises(BnsweepError, match=r"objectives \(maximize\)"):
        knowledge(accuracy, pytest.fail)


def test_our_own_study_can_be_the_source(world, tmp_path):
    from bnsweep.search import show_study

    first = world(constraints=["diverged_fraction <= 0.2"])
    first.ledger.write_sweep(first.spec().text, {"trials": [], "search": {"goal": {}}})
    search = first.search(8)
    world.run(search)
    uri = f"sqlite:///{tmp_path / 'study.db'}"
    assert show_study(first.ledger.root, uri).shown == 8
    second = world(constraints=["diverged_fraction <= 0.2"])
    known = knowledge(second.spec(4, warm_start=f"{uri}#s"), pytest.fail)
    assert [one["values"] for one in known.observations] == [
        e["values"] for _, e in sorted(search.ends.items())
    ]
    assert [one["excess"] for one in known.observations] == [
        e["excess"] for _, e in sorted(search.ends.items())
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("sqlite:////nowhere/x.db#s", "is not there"),
        ("sqlite:///{}/empty.db#s", "must be readable"),
        ("sqlite:///{}/known.db#theirs", "it holds mine"),
        ("nobody", "must have been run"),
    ],
    ids=["no file", "no study database", "no such study", "no such sweep"],
)
def test_a_source_that_is_not_there_is_an_error_and_nothing_is_made(world, tmp_path, source, words):
    (tmp_path / "empty.db").touch()
    with closing(open_storage(f"sqlite:///{tmp_path / 'known.db'}")) as storage:
        optuna.create_study(storage=storage, study_name="mine")
    made = world()
    content = made.spec(4, warm_start=source.format(tmp_path)).to_dict()
    with pytest.raises(BnsweepError, match=words):
        api.run(content, storage=str(tmp_path / "results"))
    assert not (tmp_path / "results" / "s").exists()
    assert (tmp_path / "empty.db").stat().st_size == 0


@pytest.mark.parametrize("sampler", ["nsga2", "qmc"])
def test_samplers_that_would_not_listen_are_refused(world, sampler):
    with pytest.raises(SpecError, match="its own conditions alone"):
        world().spec(4, sampler, warm_start="other")
