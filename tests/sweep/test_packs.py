"""Packs: who trains with whom, and whether all workers stay busy."""

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnsweep.sweep import Pack, load_spec, make_packs, make_plan
from bnsweep.trial import TrialConfig

PARAMETERS = {
    "norm": ["none", "noisy_batch", "l1"],
    "noise": {"values": [0.5, 1], "when": {"norm": "noisy_batch"}},
    "lr": [0.01, 0.1, 1],
    "steps": {"values": [10, 40], "when": {"norm": "l1"}},
}
PLAN = make_plan(load_spec({"name": "a", "parameters": PARAMETERS, "seeds": 4}))


def longest(packs, workers):
    """Return when the last worker ends: each takes the next pack of the list."""
    ends = [0.0] * workers
    for pack in packs:
        steps = PLAN.by_id[pack.members[0]].parameters["steps"]
        heapq.heapreplace(ends, ends[0] + len(pack.members) * steps)
    return max(ends)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 100), st.integers(1, 20), st.integers(0, len(PLAN.trials)))
def test_every_trial_is_in_one_pack_of_its_kind(size, workers, left):
    trials = PLAN.trials[:left]
    packs = make_packs(trials, size, workers)
    members = [member for pack in packs for member in pack.members]
    assert sorted(members) == sorted(trial.trial_id for trial in trials)
    assert len({pack.pack_id for pack in packs}) == len(packs)
    assert len(packs) >= min(workers, len(trials))
    order = {trial_id: i for i, trial_id in enumerate(PLAN.trial_ids)}
    for pack in packs:
        assert 1 <= len(pack.members) <= size
        assert {PLAN.by_id[member].signature for member in pack.members} == {pack.signature}
        assert [order[member] for member in pack.members] == sorted(order[member] for member in pack.members)


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("size", [8, 64])
def test_workers_end_together(size, workers):
    work = sum(trial.parameters["steps"] for trial in PLAN.trials)
    packs = make_packs(PLAN.trials, size, workers)
    assert longest(packs, workers) <= 1.25 * work / workers


def test_one_worker_gets_the_largest_packs():
    packs = make_packs(PLAN.trials, 64, 1)
    assert sorted(len(pack.members) for pack in packs) == [12, 12, 12, 24]


def test_few_trials_are_spread():
    assert [len(pack.members) for pack in make_packs(PLAN.trials[:4], 64, 3)] == [2, 1, 1]
    assert make_packs([], 64, 3) == []


def test_members_of_a_group_are_dealt_round():
    trials = [trial for trial in PLAN.trials if trial.parameters["norm"] == "none"]
    packs = make_packs(trials, 6, 2)
    for pack in packs:
        assert {PLAN.by_id[member].parameters["lr"] for member in pack.members} == {0.01, 0.1, 1.0}


def test_sizes_may_depend_on_the_signature():
    packs = make_packs(PLAN.trials, lambda trial: 3 if trial.parameters["norm"] == "l1" else 100)
    sizes = {norm: set() for norm in PARAMETERS["norm"]}
    for pack in packs:
        sizes[PLAN.by_id[pack.members[0]].parameters["norm"]].add(len(pack.members))
    assert sizes == {"none": {12}, "noisy_batch": {24}, "l1": {3}}


def test_probes_and_precision_keep_trials_apart():
    other = make_plan(
        load_spec({"name": "a", "parameters": {"norm": "none", "lr": [0.01, 0.1]}, "probes": {"moments": {}}})
    )
    double = make_plan(load_spec({"name": "a", "parameters": {"norm": "none", "precision": "float64"}}))
    plain = make_plan(load_spec({"name": "a", "parameters": {"norm": "none"}}))
    packs = make_packs([*other.trials, *double.trials, *plain.trials], 64)
    assert sorted((len(pack.members), pack.dtype) for pack in packs) == [
        (1, "float32"), (1, "float64"), (2, "float32"),
    ]  # fmt: skip


def test_a_packs_id_is_a_hash_of_its_content():
    pack = make_packs(PLAN.trials, 64)[0]
    assert Pack.from_dict(pack.to_dict()) == pack
    assert Pack.from_dict(pack.to_dict()).pack_id == pack.pack_id
    changed = [
        Pack(pack.members[::-1], pack.signature),
        Pack(pack.members, pack.signature, device="cuda"),
        Pack(pack.members, pack.signature, kernel="single"),
    ]
    assert len({pack.pack_id, *(other.pack_id for other in changed)}) == 4
    assert len(pack.pack_id) == 16


def test_a_packs_file_holds_its_trials():
    pack = make_packs(PLAN.trials, 5)[0]
    content = PLAN.pack_content(pack)
    assert Pack.from_dict(content).pack_id == pack.pack_id
    assert [TrialConfig.from_dict(trial).trial_id for trial in content["trials"]] == list(pack.members)
    assert content["labels"] == [TrialConfig.from_dict(t).label(PLAN.varying) for t in content["trials"]]
