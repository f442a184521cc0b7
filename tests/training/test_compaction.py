"""Diverged members are let go, and the others do not notice."""

import pytest
import torch

from bnsweep.training import COMPACT_EVERY

NEVER = 10_000
SETTINGS = {
    "vgg-none": ("vgg", {"norm": "none", "momentum": [0.9, 0.0, 0.5, 0.0, 0.0]}),
    "vgg-noisy-none": ("vgg", {"norm": "noisy_none", "noise": [0.5, 1.0, 0.0, 2.0, 1.0]}),
    "mlp-adamw": ("mlp", {"norm": "none", "optimizer": "adamw", "lr": [1e6, 0.01, 1e6, 0.02, 0.003]}),
    "mlp-float32": ("mlp", {"norm": "batch", "precision": "float32", "lr": [1e6, 0.01, 1e6, 0.02, 0.003]}),
    "dln-none": ("dln", {"norm": "none"}),
    "dln-noisy-none": ("dln", {"norm": "noisy_none", "noise_at_eval": True}),
}
PROBES = {"ics": {"every": 2, "layers": [2]}, "landscape": {"every": 3}, "moments": {"every": 2}}


def five(packs, network, settings, **more):
    """Make five members of which the first and the third diverge at once."""
    scale = 1e-4 if network == "dln" else 1.0
    lr = [1e6, 0.05 * scale, 1e6, 0.01 * scale, 0.1 * scale]
    decay = [1e6, 0.0, 1e6, 0.01, 0.0]
    return packs.make_trials(network, 5, **{"lr": lr, "weight_decay": decay, "steps": 13, **settings, **more})


def run(packs, monkeypatch, trials, every, steps=None):
    monkeypatch.setattr("bnsweep.training.trainer.COMPACT_EVERY", every)
    return packs.train(trials, steps)


@pytest.mark.parametrize("case", SETTINGS)
def test_the_others_end_bit_for_bit_as_without_compaction(packs, monkeypatch, case):
    trials = five(packs, *SETTINGS[case], probes=PROBES)
    whole, rows = run(packs, monkeypatch, trials, NEVER)
    compacted, fewer_rows = run(packs, monkeypatch, trials, 4)
    assert whole.members == [0, 1, 2, 3, 4]
    assert compacted.members == [1, 3, 4]
    for member in (1, 3, 4):
        mine, theirs = packs.member_state(compacted, member), packs.member_state(whole, member)
        assert packs.same(mine, {name: theirs[name] for name in mine})
    for member in range(5):
        assert packs.readings_of(fewer_rows, member) == packs.readings_of(rows, member)
    assert repr(compacted.outcomes()) == repr(whole.outcomes())


def test_members_go_at_multiples_of_the_interval_and_not_before(packs, monkeypatch):
    trials = five(packs, "vgg", {"norm": "none"})
    trainer, _ = run(packs, monkeypatch, trials, 4, steps=4)
    assert trainer.members == [0, 1, 2, 3, 4]
    trainer.step()
    assert trainer.members == [1, 3, 4]
    assert [len(value) for value in trainer.state_dict()["stack"]["model"].values()][:1] == [3 * 4]


def test_the_interval_of_the_package(packs):
    trainer, _ = packs.train(five(packs, "mlp", {"norm": "none"}, steps=COMPACT_EVERY + 1))
    assert trainer.members == [1, 3, 4]


def test_members_that_diverge_later_go_later(packs, monkeypatch):
    speeds = {"lr": [1e6, 1e3, 0.01], "weight_decay": [1e6, 1e3, 0.0]}
    trials = packs.make_trials("mlp", 3, norm="none", steps=40, **speeds)
    trainer, _ = run(packs, monkeypatch, trials, 1)
    first, second, _ = (outcome.diverged_step for outcome in trainer.outcomes())
    assert first < second
    assert trainer.members == [2]
    whole, _ = run(packs, monkeypatch, trials, NEVER)
    assert packs.same(packs.member_state(trainer, 2), packs.member_state(whole, 2))


def test_no_member_goes_where_the_others_bits_depend_on_it(packs, monkeypatch, custom_norms):
    trials = five(packs, "mlp", {"norm": f"{custom_norms}:OfWidth"}, activation="relu", precision="float32")
    whole, rows = run(packs, monkeypatch, trials, NEVER)
    trainer, same_rows = run(packs, monkeypatch, trials, 4)
    assert [outcome.state for outcome in trainer.outcomes()].count("diverged") == 2
    assert trainer.members == [0, 1, 2, 3, 4]
    assert trainer.state_dict()["refused"] == [3, 4]
    assert rows == same_rows
    assert all(packs.same(packs.member_state(trainer, k), packs.member_state(whole, k)) for k in (1, 3, 4))


def test_a_diverged_member_stays_where_that_keeps_the_others_bits(packs, monkeypatch, custom_norms):
    # 16 features: below three members the arithmetic is another
    trials = packs.make_trials(
        "mlp",
        5,
        norm=f"{custom_norms}:OfMany",
        precision="float32",
        lr=[1e6, 0.05, 1e6, 0.01, 1e6],
        weight_decay=[1e6, 0.0, 1e6, 0.01, 1e6],
        steps=13,
    )
    whole, _ = run(packs, monkeypatch, trials, NEVER)
    trainer, _ = run(packs, monkeypatch, trials, 4)
    assert trainer.members == [1, 3, 4]
    assert trainer.state_dict()["refused"] == [2]
    assert all(packs.same(packs.member_state(trainer, k), packs.member_state(whole, k)) for k in (1, 3))


def test_agreement_is_to_the_bit_and_leaves_both_as_they_were(packs):
    trainer, _ = packs.train(packs.make_trials("vgg", 3, norm="batch"), steps=3)
    stack = trainer._stack
    stack.model.get_parameter("linear3.weight").data[20:] = torch.nan  # the last member's; NaN equals NaN
    smaller = stack.select([0, 2])
    before = stack.state_dict(), smaller.state_dict()
    assert stack.agrees(smaller, [0, 2], 3)
    for state, now in zip(before, (stack.state_dict(), smaller.state_dict()), strict=True):
        values = zip(state["model"].values(), now["model"].values(), strict=True)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in values)
    assert not stack.agrees(smaller, [0, 1], 3)
    weight = smaller.model.get_parameter("conv1.weight").data
    weight[0, 0, 1, 1] = torch.nextafter(weight[0, 0, 1, 1], torch.tensor(9.0, dtype=torch.float64))
    assert not stack.agrees(smaller, [0, 2], 3)


@pytest.mark.parametrize("name", ["linear1.norm.running_mean", "linear1.norm.running_var"])
def test_a_difference_that_only_evaluation_shows_counts(packs, name):
    trainer, _ = packs.train(packs.make_trials("mlp", 2, norm="batch"), steps=3)
    smaller = trainer._stack.select([1])
    smaller.model.get_buffer(name)[0] += 0.5
    assert not trainer._stack.agrees(smaller, [1], 3)
