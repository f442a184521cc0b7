"""A trial's result does not depend on its pack."""

import pytest

from bnsweep.names import NAMES

CASES = [
    pytest.param(network, norm, id=f"{network}-{norm}")
    for network in ("vgg", "vgg-relu-max", "mlp", "dln")
    for norm in NAMES["norm"]
    if (norm != "instance" or network == "vgg") and (network != "vgg-relu-max" or norm in ("none", "linf"))
]
PROBES = {
    "ics": {"every": 3, "layers": [2, 4]},
    "landscape": {"every": 3, "step_sizes": [0.5, 2.0]},
    "moments": {"every": 3},
    "activations": {"every": 3},
    "theory": {"every": 3, "layers": [1, 3]},
}


def assert_alone_is_together(packs, trials, members):
    together, rows = packs.train(trials)
    for member in members:
        alone, own = packs.train([trials[member]])
        assert packs.readings_of(own, 0) == packs.readings_of(rows, member)
        end, mine = packs.member_state(alone, 0), packs.member_state(together, member)
        # alone, a member without momentum keeps no buffer for it
        assert packs.same(end, {name: mine[name] for name in end})
        assert {name.partition(" of ")[0] for name in mine.keys() - end.keys()} <= {"momentum"}


@pytest.mark.parametrize(("network", "norm"), CASES)
def test_bit_for_bit_in_float64(packs, network, norm):
    trials = packs.make_trials(network, 5, norm=norm, momentum=[0.0, 0.9, 0.5, 0.9, 0.0])
    assert_alone_is_together(packs, trials, [0, 3])


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "beta1": [0.9, 0.8, 0.0], "weight_decay": [0.0, 0.1, 0.0]},
        {"optimizer": "adamw", "adam_eps": [1e-8, 1e-3, 1e-5], "weight_decay": [0.0, 0.1, 1.0]},
        {"weight_decay": [0.0, 0.1, 0.01], "weight_decay_as": "loss", "weight_decay_on": "all"},
        {"weight_decay": [0.0, 0.1, 0.01], "momentum": 0.9, "nesterov": True},
        {"norm": "noisy_batch", "noise": [0.0, 1.0, 4.0], "noise_at_eval": True, "batch_size": 7},
        {"augment": "flip_crop", "batch_size": 5},
    ],
    ids=["adam", "adamw", "loss-decay", "nesterov", "noise", "augment"],
)
@pytest.mark.parametrize("network", ["vgg", "mlp"])
def test_bit_for_bit_with_settings_of_each_member(packs, network, settings):
    assert_alone_is_together(packs, packs.make_trials(network, 3, **settings), range(3))


@pytest.mark.parametrize(
    "network", ["mlp", "dln"]
)  # a float32 convolution of one member takes another kernel
def test_bit_for_bit_in_float32_where_there_are_no_convolutions(packs, network):
    trials = packs.make_trials(network, 3, norm="batch", precision="float32")
    assert_alone_is_together(packs, trials, range(3))


@pytest.mark.parametrize("norm", ["batch", "noisy_batch", "none"])
@pytest.mark.parametrize("network", ["vgg", "dln"])
def test_readings_of_probes_bit_for_bit(packs, network, norm):
    trials = packs.make_trials(network, 4, norm=norm, probes=PROBES)
    assert_alone_is_together(packs, trials, [1])


def test_the_order_of_members_does_not_matter(packs):
    trials = packs.make_trials("vgg", 3, norm="noisy_batch")
    forward, rows = packs.train(trials)
    backward, reversed_rows = packs.train(trials[::-1])
    for member in range(3):
        assert packs.readings_of(rows, member) == packs.readings_of(reversed_rows, 2 - member)
        ends = packs.member_state(forward, member), packs.member_state(backward, 2 - member)
        assert packs.same(*ends)


def test_trials_of_one_seed_start_alike_and_see_the_same_batches(packs):
    trials = packs.make_trials("mlp", 2, seed=3, lr=[0.01, 0.1])
    trainer, rows = packs.train(trials, steps=1)
    assert packs.readings_of(rows, 0) == packs.readings_of(rows, 1)
    assert not packs.same(packs.member_state(trainer, 0), packs.member_state(trainer, 1))
