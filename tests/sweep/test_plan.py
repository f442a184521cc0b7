"""Expansion: every combination once, in order, with an identity that does not depend on the writing."""

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnsweep.errors import DataError, SpecError
from bnsweep.names import DATASETS
from bnsweep.parameters import PARAMETERS, complete_parameters
from bnsweep.sweep import Plan, Range, Setting, load_spec, load_text, make_plan
from bnsweep.sweep.expansion import (
    Completer,
    conditions,
    count_conditions,
    in_order,
    read_facts,
    representatives,
    steps_of,
)
from bnsweep.trial import TrialConfig


def plan_of(parameters, **top):
    return make_plan(load_spec({"name": "a", "parameters": parameters, **top}))


NOISY = {
    "norm": ["none", "batch", "noisy_batch"],
    "lr": [0.01, 0.1],
    "noise": {"values": [0.5, 1.0], "when": {"norm": "noisy_batch"}},
    "steps": 20,
}


def test_order_is_that_of_the_file():
    plan = plan_of(NOISY, seeds=[4, 2])
    assert plan.labels == (
        "none lr=0.01 seed=4", "none lr=0.01 seed=2", "none lr=0.1 seed=4", "none lr=0.1 seed=2",
        "batch lr=0.01 seed=4", "batch lr=0.01 seed=2", "batch lr=0.1 seed=4", "batch lr=0.1 seed=2",
        "noisy_batch lr=0.01 noise=0.5 seed=4", "noisy_batch lr=0.01 noise=0.5 seed=2",
        "noisy_batch lr=0.01 noise=1 seed=4", "noisy_batch lr=0.01 noise=1 seed=2",
        "noisy_batch lr=0.1 noise=0.5 seed=4", "noisy_batch lr=0.1 noise=0.5 seed=2",
        "noisy_batch lr=0.1 noise=1 seed=4", "noisy_batch lr=0.1 noise=1 seed=2",
    )  # fmt: skip
    assert (plan.count, plan.condition_count, plan.varying) == (16, 8, ("norm", "lr", "noise"))
    assert [trial.seed for trial in plan.conditions] == [4] * 8
    assert len(set(plan.trial_ids)) == 16


def test_a_conditional_parameter_may_stand_before_what_it_depends_on():
    noise = NOISY["noise"]
    early = plan_of({"noise": noise, **{k: v for k, v in NOISY.items() if k != "noise"}}, seeds=2)
    assert sorted(early.trial_ids) == sorted(plan_of(NOISY, seeds=2).trial_ids)


def test_conditions_chain_and_lists_mean_any():
    plan = plan_of(
        {
            "norm": ["batch", "noisy_batch", "noisy_none"],
            "noise": {"values": [0.5, 1], "when": {"norm": ["noisy_batch", "noisy_none"]}},
            "noise_at_eval": {"values": [True, False], "when": {"noise": 1, "norm": "noisy_batch"}},
        }
    )
    got = [
        (t.parameters["norm"], t.parameters.get("noise"), t.parameters.get("noise_at_eval"))
        for t in plan.trials
    ]
    assert got == [
        ("batch", None, None),
        ("noisy_batch", 0.5, False),  # the default where the condition does not hold
        ("noisy_batch", 1.0, True),
        ("noisy_batch", 1.0, False),
        ("noisy_none", 0.5, False),
        ("noisy_none", 1.0, False),
    ]


def test_trials_are_complete_and_equal_to_those_made_by_hand():
    plan = plan_of(NOISY, seeds=2, probes={"moments": {"every": 5}})
    by_hand = TrialConfig.create(
        {"norm": "noisy_batch", "lr": 0.1, "noise": 0.5, "steps": 20, "seed": 1}, {"moments": {"every": 5}}
    )
    assert by_hand.trial_id in plan.by_id
    assert plan.by_id[by_hand.trial_id] == by_hand
    assert list(plan.by_id[by_hand.trial_id].parameters) == list(by_hand.parameters)


def test_a_plan_survives_json():
    plan = plan_of(NOISY, seeds=2, probes={"landscape": {}})
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert (again.trial_ids, again.labels, again.plan_hash) == (plan.trial_ids, plan.labels, plan.plan_hash)


def test_the_plans_hash_follows_its_trials():
    plan = plan_of(NOISY)
    assert plan.plan_hash == plan_of(NOISY, description="other", storage="elsewhere").plan_hash
    assert plan.plan_hash != plan_of({**NOISY, "lr": [0.01, 0.2]}).plan_hash


# Identity


@settings(max_examples=60, deadline=None)
@given(st.permutations(["model", "width", "lr", "norm", "steps", "momentum"]), st.randoms())
def test_ids_do_not_depend_on_the_order_of_keys(order, draw):
    parameters = {
        "model": "vgg13", "width": [0.125, 0.5], "lr": [0.3, 1e-5, 0.01], "norm": ["none", "l1"], "steps": 7,
        "momentum": [0, 0.9],
    }  # fmt: skip
    shuffled = {name: parameters[name] for name in order}
    for name, values in shuffled.items():
        if isinstance(values, list):
            shuffled[name] = draw.sample(values, len(values))
    assert sorted(plan_of(shuffled).trial_ids) == sorted(plan_of(parameters).trial_ids)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-12, 1e6))
def test_ids_do_not_depend_on_the_writing_of_numbers(lr):
    mantissa, exponent = f"{lr:.17e}".split("e")
    forms = [repr(lr), f"{lr:.25f}" if lr > 1e-6 else repr(lr), f"{mantissa}E{int(exponent):+d}", f"+{lr!r}"]
    forms.append(f"{mantissa[0]}{mantissa[2:]}e{int(exponent) - len(mantissa) + 2}")
    ids = {make_plan(load_text(f"name: a\nparameters: {{lr: {form}}}\n")).trial_ids for form in forms}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lr: 0.1", "lr: 1e-1"),
        ("lr: 1", "lr: 1.0"),
        ("steps: 1000", "steps: 1e3"),
        ("lr: 0.1", "lr: {value: 0.1}"),
        ("lr: 0.1", "lr: [0.1]"),
        ("lr: [0.1, 0.01]", "lr: {values: [0.1, 0.01]}"),
        ("momentum: -0.0", "momentum: 0"),
        ("norm: batch", "norm: 'batch'"),
        ("lr: 0.1", "norm: batch"),  # defaults written out
        ("epochs: 2", "steps: 22"),
    ],
    ids=str,
)
def test_ids_do_not_depend_on_the_form(one, other):
    plans = [make_plan(load_text(f"name: a\nparameters: {{{text}}}\n")) for text in (one, other)]
    assert plans[0].trial_ids == plans[1].trial_ids


def test_adding_values_keeps_the_trials_that_were_there():
    before = set(plan_of(NOISY, seeds=2).trial_ids)
    more = {**NOISY, "norm": ["l2", *NOISY["norm"]], "lr": [0.05, *NOISY["lr"]]}
    after = set(plan_of(more, seeds=3).trial_ids)
    assert before < after


def test_what_determines_a_result_changes_the_id():
    base = plan_of({"lr": 0.1}).trial_ids
    assert plan_of({"lr": 0.2}).trial_ids != base
    assert plan_of({"lr": 0.1}, seeds=[1]).trial_ids != base
    assert plan_of({"lr": 0.1}, probes={"moments": {}}).trial_ids != base
    assert (
        plan_of({"lr": 0.1}, resources={"cpus": 2}, storage="x", tracking={"uri": "none"}).trial_ids == base
    )


# Ranges


def test_points_of_ranges():
    assert Range(0.003, 1.0, 6, "log_uniform_values").points() == (
        0.003, 0.00958732, 0.0306389, 0.0979148, 0.312913, 1.0,
    )  # fmt: skip
    assert Range(0.0, 0.3, 4, "uniform").points() == (0.0, 0.1, 0.2, 0.3)
    assert Range(1, 100, 4, "int_uniform").points(whole=True) == (1, 34, 67, 100)
    assert Range(0.1234567891, 7.7777777777, 2, "uniform").points() == (0.1234567891, 7.7777777777)


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-8, 1e3), st.floats(1.01, 1e6), st.integers(2, 60))
def test_logarithmic_ranges_agree_with_numpy(low, factor, num):
    np = pytest.importorskip("numpy")
    points = Range(low, low * factor, num, "log_uniform_values").points()
    assert points[0] == low and points[-1] == low * factor
    np.testing.assert_allclose(points, np.geomspace(low, low * factor, num), rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 1000), st.data())
def test_whole_ranges_have_distinct_points(low, span, data):
    num = data.draw(st.integers(2, span + 1))
    points = Range(low, low + span, num, "int_uniform").points(whole=True)
    assert len(set(points)) == num == len(points)
    assert list(points) == sorted(points)


# Epochs and data


def test_epochs_become_steps_in_each_trial():
    plan = plan_of({"batch_size": [128, "full", 1437], "epochs": [1, 3]})
    got = [(trial.parameters["batch_size"], trial.parameters["steps"]) for trial in plan.trials]
    assert got == [(128, 11), (128, 33), ("full", 1), ("full", 3), (1437, 1), (1437, 3)]
    assert all("epochs" not in trial.parameters for trial in plan.trials)
    assert plan.varying == ("batch_size", "steps")
    assert steps_of(5, 100, 1000) == 50


FACTS = {
    "schema": 1, "channels": 3, "size": 16, "classes": 4, "train": 100, "test": 20, "fingerprint": "abc",
    "class_names": ["a", "b", "c", "d"],
}  # fmt: skip


def image_folder(tmp_path, **parameters):
    return load_spec(
        {"name": "a", "parameters": {"dataset": "image_folder", **parameters}, "data_root": str(tmp_path)}
    )


def test_an_image_folder_brings_its_own_facts(tmp_path):
    (tmp_path / "fingerprint.json").write_text(json.dumps(FACTS))
    plan = make_plan(image_folder(tmp_path, batch_size=10, epochs=2))
    assert plan.unprepared is None
    assert (plan.trials[0].parameters["steps"], plan.trials[0].fingerprint) == (20, "abc")
    with pytest.raises(SpecError, match="batch_size must be <= 100"):
        image_folder(tmp_path, batch_size=101)
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "fingerprint.json").write_text(json.dumps(FACTS))
    assert make_plan(image_folder(other, batch_size=10, epochs=2)).trial_ids == plan.trial_ids


def test_an_image_folder_that_is_not_prepared_is_counted(tmp_path):
    plan = make_plan(image_folder(tmp_path, lr=[0.1, 0.2, 0.3], epochs=2))
    assert (plan.count, plan.trials, plan.unprepared) == (3, (), str(tmp_path))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "{", json.dumps({**FACTS, "train": 0}), json.dumps({**FACTS, "fingerprint": ""})],
    ids=["empty", "list", "no keys", "torn", "no samples", "no fingerprint"],
)
def test_a_damaged_fingerprint_is_a_mistake_of_data_root(tmp_path, content):
    (tmp_path / "fingerprint.json").write_text(content)
    with pytest.raises(DataError, match="bnsweep data prepare"):
        read_facts(str(tmp_path))
    with pytest.raises(SpecError) as caught:
        image_folder(tmp_path)
    assert [mistake.path for mistake in caught.value.mistakes] == ["data_root"]


# Against brute force

CHOICES = {
    "model": ["vgg11", "mlp", "dln"],
    "dataset": ["digits", "gaussian", "mnist"],
    "norm": ["none", "batch", "noisy_batch", "l1", "group", "instance", "my.norms:make"],
    "optimizer": ["sgd", "adam"],
    "momentum": [0.0, 0.5, 0.9],
    "nesterov": [True, False],
    "batch_size": ["full", 1, 64, 2000],
    "lr": [0.1, 0.2, 0.3],
    "noise": [0.5, 1.0],
    "groups": [2, 4],
    "width": [0.5, 1.0],
    "depth": [2, 3],
    "eval_every": [5, 10],
}


@st.composite
def settings_lists(draw):
    """Draw a few settings, some under conditions on earlier or later ones."""
    names = draw(st.lists(st.sampled_from(sorted(CHOICES)), unique=True, min_size=1, max_size=5))
    found = []
    rank = draw(st.permutations(names))
    for name in names:
        values = tuple(draw(st.lists(st.sampled_from(CHOICES[name]), unique=True, min_size=1, max_size=3)))
        targets = [other for other in names if rank.index(other) < rank.index(name)]
        when = {}
        for other in draw(st.lists(st.sampled_from(targets), unique=True, max_size=2)) if targets else []:
            when[other] = tuple(draw(st.lists(st.sampled_from(CHOICES[other]), unique=True, min_size=1)))
        found.append(Setting(name, values, when))
    return found


def brute_force(found):
    """Return the conditions by filtering the whole product, with absence as one more value."""
    kept = []
    absent = object()
    for values in itertools.product(*[(*setting.values, absent) for setting in found]):
        condition = {s.name: v for s, v in zip(found, values, strict=True) if v is not absent}
        if all(
            (s.name in condition) == all(condition.get(name) in wanted for name, wanted in s.when.items())
            for s in found
        ):
            kept.append(condition)
    return kept


@settings(max_examples=300, deadline=None)
@given(settings_lists())
def test_expansion_agrees_with_brute_force(found):
    expanded = list(conditions(found))
    expected = brute_force(found)
    assert count_conditions(found) == len(expanded) == len(expected)
    frozen = {frozenset(condition.items()) for condition in expanded}
    assert len(frozen) == len(expanded)
    assert frozen == {frozenset(condition.items()) for condition in expected}
    ordered = in_order(found)
    ranks = [[s.values.index(c[s.name]) if s.name in c else -1 for s in ordered] for c in expanded]
    assert ranks == sorted(ranks)


def legal(condition, complete):
    try:
        return complete(condition)
    except ValueError:
        return None


@settings(max_examples=300, deadline=None)
@given(settings_lists())
def test_representatives_find_exactly_the_illegal_grids(found):
    completer = Completer(DATASETS.get)
    few = [legal(condition, completer.complete) for condition in conditions(representatives(found))]
    everything = [legal(condition, complete_parameters) for condition in conditions(found)]
    assert all(few) == all(everything)
    shared = Completer(DATASETS.get)
    for condition, expected in zip(conditions(found), everything, strict=True):
        got = legal(condition, shared.complete)
        assert got == (expected and {name: value for name, value in expected.items() if name != "seed"})


def test_only_the_deciding_settings_decide():
    """What ``applies`` and defaults read must be among those that the expansion keeps apart."""
    from bnsweep.parameters import _conflicts
    from bnsweep.sweep.expansion import DECIDING

    read = set()

    class Recorder(dict):
        def __getitem__(self, key):
            read.add(key)
            return super().__getitem__(key)

        def get(self, key, default=None):
            read.add(key)
            return super().get(key, default)

    draw = random.Random(0)
    for _ in range(300):
        given_ = {name: draw.choice(CHOICES[name]) for name in ("model", "dataset", "norm", "optimizer")}
        complete = legal(given_, complete_parameters)
        recorder = Recorder(complete or complete_parameters({}))
        for parameter in PARAMETERS.values():
            parameter.applies(recorder)
            parameter.default_for(recorder)
        _conflicts(recorder)
    assert {"model", "norm", "batch_size"} <= read <= DECIDING


# Size


def test_ten_thousand_trials_expand_quickly(least_cpu_seconds):
    text = (
        "name: a\nparameters:\n  norm: [none, batch, noisy_batch, l1]\n"
        "  lr: {min: 1e-4, max: 1, num: 125, distribution: log_uniform_values}\n"
        "  momentum: [0, 0.5, 0.9, 0.99]\nseeds: 5\n"
    )
    assert least_cpu_seconds(lambda: make_plan(load_text(text)).trial_ids) < 2.0
    plan = make_plan(load_text(text))
    ids = plan.trial_ids
    assert len(set(ids)) == plan.count == 10_000


def test_sizes_beyond_memory_are_counted(least_cpu_seconds):
    wide = [
        Setting(name, tuple(range(10_000))) for name in ("lr", "momentum", "noise", "steps", "weight_decay")
    ]
    assert count_conditions(wide) == 10**20
    assert least_cpu_seconds(lambda: count_conditions(wide)) < 0.5


def test_conditions_that_cannot_be_counted_are_refused():
    names = list(PARAMETERS)[:36]
    first, second = names[:18], names[18:]
    tangled = [Setting(name, (0, 1)) for name in first]
    tangled += [Setting(name, (0, 1), {other: (0,) for other in first}) for name in second]
    with pytest.raises(ValueError, match="ways in which when"):
        count_conditions(tangled)
