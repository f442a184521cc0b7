"""A member whose loss stops being finite: its outcome, and the others' indifference."""

import dataclasses
import math

import pytest
import torch

from bnsweep.names import NAMES
from bnsweep.training import COMPACT_EVERY
from bnsweep.trial import TrialState

CASES = [
    *(("vgg", norm, "float32") for norm in NAMES["norm"]),
    *(
        (network, norm, "float32")
        for network in ("mlp", "dln")
        for norm in NAMES["norm"]
        if norm != "instance"
    ),
    *(("mlp", norm, "float64") for norm in NAMES["norm"] if norm != "instance"),
    *(("vgg", norm, "float64") for norm in ("none", "noisy_batch", "linf")),
    *(("vgg-relu-max", norm, "float32") for norm in ("none", "batch", "linf")),
]
ABSURD = {"lr": 1e6, "weight_decay": 1e6}


def with_absurd(packs, network, absurd, members=3, **settings):
    """Make a pack in which the members of ``absurd`` cannot but diverge, and the same without those."""
    scale = 1e-4 if network == "dln" else 1.0
    sane = {"lr": [0.05 * scale, 0.1 * scale, 0.02 * scale] * 2, "weight_decay": [0.01, 0.0, 0.001] * 2}
    mad = {
        name: [ABSURD[name] if k in absurd else value for k, value in enumerate(values)]
        for name, values in sane.items()
    }
    return [packs.make_trials(network, members, **settings, **values) for values in (mad, sane)]


@pytest.mark.parametrize(("network", "norm", "precision"), CASES, ids="-".join)
def test_the_others_are_bit_for_bit_as_if_it_had_not_diverged(packs, monkeypatch, network, norm, precision):
    monkeypatch.setattr("bnsweep.training.trainer.COMPACT_EVERY", 10_000)
    steps = 6 if precision == "float32" else 28
    settings = {"norm": norm, "precision": precision, "steps": steps, "momentum": 0.9, "batch_size": 8}
    if network == "dln":
        settings["batch_size"] = "full"
    ill, healthy = with_absurd(packs, network, [1], **settings)
    (trainer, rows), (reference, expected) = packs.train(ill), packs.train(healthy)
    assert trainer.members == [0, 1, 2]
    assert [o.state for o in trainer.outcomes()] == ["completed", "diverged", "completed"]
    for member in (0, 2):
        assert packs.readings_of(rows, member) == packs.readings_of(expected, member)
        ends = packs.member_state(trainer, member), packs.member_state(reference, member)
        assert packs.same(*ends)


def test_diverged_at_the_first_loss_that_is_not_finite(packs):
    probes = {"landscape": {"every": 1}, "moments": {"every": 1}, "ics": {"every": 1, "layers": [2]}}
    trials, _ = with_absurd(packs, "vgg", [1], norm="none", log_every=1, eval_every=1, probes=probes)
    trainer, rows = packs.train(trials)
    outcome = trainer.outcomes()[1]
    losses = {row.step: row.value for row in rows if row.member == 1 and row.name == "train_loss"}
    assert outcome.state is TrialState.DIVERGED
    assert outcome.steps == outcome.diverged_step == 2
    assert list(losses) == [0, 1]
    assert all(math.isfinite(value) for value in losses.values())
    assert outcome.last_finite_loss == losses[1] == outcome.readings["train_loss"]
    later = {row.name for row in rows if row.member == 1 and row.step >= 2}
    assert later == {"test_loss", "test_accuracy"}, "only what was read before the loss of step 2"
    assert max(row.step for row in rows if row.member == 1) == 2
    assert max(row.step for row in rows if row.member == 0) == trials[0].parameters["steps"]


def test_the_loss_that_counts_holds_the_penalty(packs):
    settings = {"norm": "batch", "seed": 0, "lr": 0.01, "steps": 1, "weight_decay_as": "loss"}
    trainer = packs.make_trainer(packs.make_trials("mlp", 2, weight_decay=[0.5, 0.0], **settings))
    content = trainer.state_dict()
    content["stack"]["model"]["linear1.weight"].fill_(1e200)
    trainer.load_state_dict(content)
    trainer.step()
    assert [outcome.diverged_step for outcome in trainer.outcomes()] == [0, None]


def test_an_evaluation_at_the_end_that_is_not_finite_is_a_divergence_too(packs):
    trials, _ = with_absurd(packs, "vgg", [0], norm="none", precision="float32", steps=1)
    trainer, _ = packs.train(trials)
    outcome = trainer.outcomes()[0]
    assert (outcome.state, outcome.steps, outcome.diverged_step) == ("diverged", 1, 1)
    assert not math.isfinite(outcome.readings["test_loss"])
    assert math.isfinite(outcome.last_finite_loss)
    assert [outcome.state for outcome in trainer.outcomes()[1:]] == ["completed", "completed"]


def test_an_earlier_evaluation_that_is_not_finite_is_none(packs):
    trainer = packs.make_trainer(packs.make_trials("mlp", 2, norm="batch", steps=4, eval_every=2))
    for _ in range(2):
        trainer.step()
    content = trainer.state_dict()
    variance = content["stack"]["model"]["linear1.norm.running_var"].unflatten(0, (2, -1))
    variance[0] = math.nan
    trainer.load_state_dict(content)
    trainer.step()
    values = {(row.member, row.step, row.name): row.value for row in trainer.take_readings()}
    assert math.isnan(values[0, 2, "test_loss"])
    assert math.isfinite(values[0, 2, "train_loss"])
    assert not trainer.finished


def test_when_all_have_diverged_the_pack_is_finished(packs):
    trials, _ = with_absurd(packs, "mlp", [0, 1, 2], norm="batch", precision="float32", steps=200)
    trainer, rows = packs.train(trials)
    assert trainer.finished
    assert trainer.step_index == COMPACT_EVERY
    assert trainer.members == []
    assert [outcome.diverged_step for outcome in trainer.outcomes()] == [2, 2, 2]
    assert max(row.step for row in rows) <= 2
    with pytest.raises(ValueError, match="the pack is finished"):
        trainer.step()


def test_who_never_had_a_finite_loss_has_none(packs):
    trials = packs.make_trials("mlp", 2, steps=2)
    trainer = packs.make_trainer(trials)
    broken = dataclasses.replace(trainer.dataset, train_x=torch.full_like(trainer.dataset.train_x, math.nan))
    trainer = type(trainer)(trials, broken)
    while not trainer.finished:
        trainer.step()
    for outcome in trainer.outcomes():
        assert (outcome.diverged_step, outcome.last_finite_loss) == (0, None)
        assert set(outcome.readings) == {"test_loss", "test_accuracy"}
