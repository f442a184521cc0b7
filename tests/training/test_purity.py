"""Probes change nothing: training with them and without ends in the same bits."""

import random

import numpy as np
import pytest
import torch

from bnsweep.trial import NAMES

CASES = [
    pytest.param(network, norm, id=f"{network}-{norm}")
    for network in ("vgg", "vgg-relu-max", "mlp", "dln")
    for norm in NAMES["norm"]
    if (norm != "instance" or network == "vgg") and (network != "vgg-relu-max" or norm in ("none", "linf"))
]
NAMES_READ = {
    "ics/l2",
    "ics/cosine",
    "ics/relative",
    "landscape/loss",
    "landscape/loss_min",
    "landscape/loss_max",
    "landscape/loss_width",
    "landscape/gradient_norm",
    "landscape/gradient_change_min",
    "landscape/gradient_change_max",
    "landscape/beta",
    "landscape/beta_lr",
    "landscape/beta_step",
    "landscape/n_overflow",
    "moments/mean_change",
    "moments/variance_change",
}


def probes(noise="frozen"):
    return {
        "ics": {"every": 2, "layers": [2, 3], "noise": noise},
        "landscape": {"every": 2, "step_sizes": [1.0, 4.0], "noise": noise},
        "moments": {"every": 2},
    }


def assert_pure(packs, network, probes, **settings):
    """Train with and without probes; returns the readings with them."""
    bare, plain = packs.train(packs.make_trials(network, 3, **settings))
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    probed, rows = packs.train(packs.make_trials(network, 3, probes=probes, **settings))
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()
    for member in range(3):
        assert packs.same(packs.member_state(bare, member), packs.member_state(probed, member))
    assert [row for row in rows if "train" in row.name or "test" in row.name] == plain
    assert all(parameter.grad is None for parameter in probed._stack.model.parameters())
    assert bare._stack.model.training == probed._stack.model.training
    return rows


@pytest.mark.parametrize(("network", "norm"), CASES)
def test_for_every_norm_and_network(packs, network, norm):
    rows = assert_pure(packs, network, probes(), norm=norm, momentum=0.9, steps=3)
    assert {row.name for row in rows if "/" in row.name} == NAMES_READ
    assert {row.step for row in rows if "/" in row.name} == {0, 2}


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"weight_decay": 0.1, "weight_decay_as": "loss"},
        {"augment": "flip_crop", "precision": "float32"},
    ],
    ids=["adam", "adamw", "loss-decay", "augment"],
)
def test_for_every_optimizer(packs, settings):
    assert_pure(packs, "vgg", probes(), **settings)


@pytest.mark.parametrize("norm", ["noisy_batch", "noisy_none", "batch"])
@pytest.mark.parametrize("network", ["vgg", "dln"])
def test_with_noise_drawn_anew(packs, network, norm):
    frozen = assert_pure(packs, network, probes("frozen"), norm=norm, steps=3)
    resampled = assert_pure(packs, network, probes("resampled"), norm=norm, steps=3)
    values = [
        [row.value for row in rows if row.name == "landscape/gradient_change_max"]
        for rows in (frozen, resampled)
    ]
    assert (values[0] == values[1]) == (norm == "batch")


def test_for_a_norm_of_the_users_with_buffers(packs, custom_norms):
    assert_pure(packs, "vgg", probes(), norm=f"{custom_norms}:Scaled")


def test_with_a_member_that_diverges(packs):
    settings = {"norm": "batch", "precision": "float32", "lr": [0.1, 1e6, 0.01], "weight_decay": [0, 1e6, 0]}
    bare, _ = packs.train(packs.make_trials("vgg", 3, **settings))
    probed, rows = packs.train(packs.make_trials("vgg", 3, probes=probes(), **settings))
    for member in (0, 2):
        assert packs.same(packs.member_state(bare, member), packs.member_state(probed, member))
    assert bare.outcomes()[1].diverged_step == 2
    assert {row.step for row in rows if row.member == 1 and "/" in row.name} == {0}


def test_what_the_probes_read_is_the_step_that_was_made(packs):
    """The loss at the point is the training loss, and the moments are those of two steps' batches."""
    trials = packs.make_trials("vgg", 2, norm="noisy_batch", probes=probes(), log_every=1)
    _, rows = packs.train(trials)
    values = {(row.member, row.step, row.name): row.value for row in rows if row.layer == 0}
    for member in range(2):
        for step in (0, 2, 4):
            loss = values[member, step, "train_loss"]
            assert values[member, step, "landscape/loss"] == pytest.approx(loss, rel=1e-12)
