"""Probes change nothing: training with them and without ends in the same bits."""

import random
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch.func import functional_call

from bnsweep.names import NAMES
from bnsweep.probes import (
    TheoryReading,
    activation_moments,
    gradient_landscape,
    internal_covariate_shift,
    moment_change,
)

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
    "landscape/loss_at_1",
    "landscape/loss_at_4",
    "landscape/gradient_change_at_1",
    "landscape/gradient_change_at_4",
    *(f"activations/{name}" for name in ("mean", "variance", "q05", "q25", "q50", "q75", "q95")),
}
NAMES_OF_THEORY = {f"theory/{field.name}" for field in fields(TheoryReading)}


def probes(noise="frozen"):
    return {
        "ics": {"every": 2, "layers": [2, 3], "noise": noise},
        "landscape": {"every": 2, "step_sizes": [1.0, 4.0], "noise": noise, "keep": "each"},
        "moments": {"every": 2},
        "activations": {"every": 2, "layers": [2, 3]},
        "theory": {"every": 2, "layers": [1, 2]},
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
    theory = NAMES_OF_THEORY if norm in ("batch", "noisy_batch") else set()
    assert {row.name for row in rows if "/" in row.name} == NAMES_READ | theory
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
    rows = assert_pure(packs, "vgg", probes(), norm=f"{custom_norms}:Scaled", log_every=2)
    at_point, training = (
        {(row.member, row.step): row.value for row in rows if row.name == name and row.step in (0, 2, 4)}
        for name in ("landscape/loss", "train_loss")
    )
    assert at_point == pytest.approx(training, rel=1e-12), "the buffers are those before the step"


def test_with_a_member_that_diverges(packs):
    settings = {"norm": "batch", "precision": "float32", "lr": [0.1, 1e6, 0.01], "weight_decay": [0, 1e6, 0]}
    bare, _ = packs.train(packs.make_trials("vgg", 3, **settings))
    probed, rows = packs.train(packs.make_trials("vgg", 3, probes=probes(), **settings))
    for member in (0, 2):
        assert packs.same(packs.member_state(bare, member), packs.member_state(probed, member))
    assert bare.outcomes()[1].diverged_step == 2
    assert {row.step for row in rows if row.member == 1 and "/" in row.name} == {0}


def losses_of(trainer, step, content):
    """Return the loss of each member as a function of parameters, on the batch and noise of ``step``."""
    stack = trainer._stack
    x, y = stack.batches.inputs(step)

    def loss(params, record=None):
        buffers = {name: content[name].clone() for name, _ in stack.model.named_buffers()}
        arguments = (x, stack.batches.noise(step), stack.batches.levels, record)
        return stack.objective(functional_call(stack.model.train(), (params, buffers), arguments), y, params)

    return loss


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_the_probes_read_is_the_update_that_was_made(packs, optimizer):
    settings = {"norm": "noisy_batch", "optimizer": optimizer, "log_every": 1, "weight_decay": [0.1, 0.0]}
    trainer = packs.make_trainer(packs.make_trials("vgg", 2, probes=probes(), **settings))
    trainer.step()
    trainer.step()
    contents = [trainer.state_dict()["stack"]["model"]]
    trainer.take_readings()
    trainer.step()
    contents.append(trainer.state_dict()["stack"]["model"])
    rows = {(row.member, row.name, row.layer): row.value for row in trainer.take_readings()}

    model = trainer._stack.model
    before, after = ({name: state[name] for name, _ in model.named_parameters()} for state in contents)
    loss, records = losses_of(trainer, 2, contents[0]), ([], [])
    shift = internal_covariate_shift(loss, before, after, model.layers, [2, 3], 2)
    rates = torch.tensor([trial.parameters["lr"] for trial in trainer.trials], dtype=torch.float64)
    landscape = gradient_landscape(loss, before, rates, [1.0, 4.0], 2)
    with torch.no_grad():
        loss(before, records[0])
        losses_of(trainer, 3, contents[0])(after, records[1])
    change = moment_change(*(activation_moments(record, 2) for record in records))
    for k in range(2):
        assert shift.l2[1, k] > 0
        assert rows[k, "ics/l2", 3] == shift.l2[1, k]
        assert rows[k, "ics/cosine", 2] == shift.cosine[0, k]
        assert rows[k, "landscape/beta_lr", 0] == landscape.beta_lr[k]
        assert rows[k, "landscape/loss_max", 0] == landscape.losses[:, k].max()
        assert rows[k, "landscape/loss", 0] == pytest.approx(rows[k, "train_loss", 0], rel=1e-12)
        assert rows[k, "moments/mean_change", 5] == change.mean_change[4, k]
        assert rows[k, "moments/variance_change", 10] == change.variance_change[9, k]
