"""When what is read, what a pack may be, and that it learns."""

import math

import pytest
import torch

from bnsweep.data import load_dataset
from bnsweep.training import Outcome, PackTrainer, prepare_process
from bnsweep.trial import TrialConfig, TrialState


def steps_of(rows, name, member=0):
    return [row.step for row in rows if row.name == name and row.member == member]


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(6, 3, [0, 3, 6]), (7, 3, [0, 3, 6, 7]), (1, 100, [0, 1]), (4, 1, [0, 1, 2, 3, 4])],
)
def test_evaluates_at_first_every_so_often_and_at_last(packs, steps, every, expected):
    trainer, rows = packs.train(packs.make_trials("mlp", 2, steps=steps, eval_every=every))
    assert trainer.step_index == trainer.steps == steps
    for member in range(2):
        assert steps_of(rows, "test_loss", member) == expected
        assert steps_of(rows, "test_accuracy", member) == expected


@pytest.mark.parametrize(
    ("steps", "every", "expected"), [(6, 2, [0, 2, 4, 5]), (7, 3, [0, 3, 6]), (2, 100, [0, 1])]
)
def test_logs_every_so_often_and_at_the_last_step(packs, steps, every, expected):
    _, rows = packs.train(packs.make_trials("mlp", 2, steps=steps, log_every=every))
    assert steps_of(rows, "train_loss", 1) == steps_of(rows, "train_accuracy", 1) == expected


def test_each_probe_has_its_own_interval(packs):
    probes = {"ics": {"every": 4, "layers": [2]}, "landscape": {"every": 3}, "moments": {"every": 5}}
    _, rows = packs.train(packs.make_trials("mlp", 2, steps=7, probes=probes))
    assert sorted(set(steps_of(rows, "ics/l2"))) == [0, 4]
    assert steps_of(rows, "landscape/beta") == [0, 3, 6]
    assert sorted(set(steps_of(rows, "moments/mean_change"))) == [0, 5]


def test_layers_of_probes(packs):
    probes = {"ics": {"layers": [1, 3]}, "moments": {"layers": [2, 3]}}
    _, rows = packs.train(packs.make_trials("mlp", 1, steps=1, probes=probes))
    layers = {
        name: [row.layer for row in rows if row.name == name] for name in ("ics/l2", "moments/mean_change")
    }
    assert layers == {"ics/l2": [0, 1, 3], "moments/mean_change": [0, 2]}  # nothing follows layer 3


def test_a_regression_has_losses_and_no_accuracy(packs):
    trainer, rows = packs.train(packs.make_trials("dln", 2, norm="batch", eval_every=2, log_every=2))
    assert {row.name for row in rows} == {"train_loss", "test_loss"}
    losses = [row.value for row in rows if row.name == "train_loss" and row.member == 0]
    assert losses == sorted(losses, reverse=True)
    assert trainer.outcomes()[0].last_finite_loss == losses[-1]


def test_the_evaluation_is_over_the_whole_test_split_whatever_the_chunks(packs, monkeypatch):
    for network in ("vgg", "dln"):
        trials = packs.make_trials(network, 2, norm="batch")
        _, whole = packs.train(trials, steps=3)
        monkeypatch.setattr("bnsweep.training.stack.EVAL_CHUNK", 5)  # of 12 samples
        _, chunked = packs.train(trials, steps=3)
        for a, b in zip(whole, chunked, strict=True):
            assert a[:4] == b[:4]
            assert b.value == pytest.approx(a.value, rel=1e-12)


def test_readings_are_handed_out_once(packs):
    trainer = packs.make_trainer(packs.make_trials("mlp", 1))
    trainer.step()
    first = trainer.take_readings()
    assert [(row.step, row.name) for row in first] == [
        (0, "test_loss"),
        (0, "test_accuracy"),
        (0, "train_loss"),
        (0, "train_accuracy"),
    ]
    assert trainer.take_readings() == []


def test_outcomes_hold_the_last_reading_of_each_name(packs):
    trials = packs.make_trials("vgg", 2, probes={"moments": {"every": 2}})
    trainer, rows = packs.train(trials)
    for member, outcome in enumerate(trainer.outcomes()):
        last = {row.name: row.value for row in rows if row.member == member and row.layer == 0}
        loss = last["train_loss"]
        assert outcome == Outcome(member, TrialState.COMPLETED, 6, None, loss, last)


def test_outcomes_of_an_unfinished_pack_are_refused(packs):
    trainer = packs.make_trainer(packs.make_trials("mlp", 1))
    with pytest.raises(ValueError, match="must be finished, but stands at step 0 of 6"):
        trainer.outcomes()


def test_a_pack_has_one_signature(packs):
    trials = packs.make_trials("mlp", 1) + packs.make_trials("mlp", 1, features=8)
    with pytest.raises(ValueError, match="found 2 trials of 2 signatures"):
        packs.make_trainer(trials)
    with pytest.raises(ValueError, match="found 0 trials"):
        PackTrainer([], packs.make_trainer(trials[:1]).dataset)


def test_the_data_are_in_the_precision_of_the_trials(packs):
    trials = packs.make_trials("mlp", 1, precision="float32")
    other = packs.small_dataset(packs.make_trials("mlp", 1)[0])
    with pytest.raises(ValueError, match=r"precision of the trials, float32, but found torch\.float64"):
        PackTrainer(trials, other)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_everything_is_in_the_precision_asked_for(packs, precision):
    trials = packs.make_trials("vgg", 2, norm="noisy_batch", precision=precision, optimizer="adam")
    trainer, rows = packs.train(trials)
    kinds = {value.dtype for value in packs.member_state(trainer, 0).values()}
    assert kinds == {getattr(torch, precision)}
    assert all(math.isfinite(row.value) for row in rows)


@pytest.mark.parametrize(("norm", "members"), [("Scaled", 3), ("Whole", 1)])
@pytest.mark.parametrize("network", ["vgg", "mlp", "dln"])
def test_a_norm_of_the_users(packs, custom_norms, network, norm, members):
    name = f"{custom_norms}:{norm}"
    probes = {"ics": {"layers": [2]}, "landscape": {}, "moments": {}}
    trials = packs.make_trials(network, members, norm=name, steps=4, probes=probes, momentum=0.5)
    trainer = packs.make_trainer(trials)
    start = packs.member_state(trainer, members - 1)
    while not trainer.finished:
        trainer.step()
    end = packs.member_state(trainer, members - 1)
    moved = {key for key in end if not torch.equal(start[key], end[key])}
    still = {key for key in end if "unused" in key}
    assert moved == end.keys() - still
    alone, _ = packs.train(trials[-1:])
    for key, value in packs.member_state(alone, 0).items():
        torch.testing.assert_close(value, end[key], rtol=1e-10, atol=1e-13)


def test_a_process_is_prepared_for_repeatable_arithmetic():
    threads = torch.get_num_threads()
    prepare_process(threads=1)
    assert torch.get_num_threads() == 1
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    torch.set_num_threads(threads)


LEARNERS = {
    "mlp": {"model": "mlp", "depth": 2, "features": 64, "steps": 60},
    "vgg": {"model": "vgg11", "width": 0.125, "steps": 100},
}


@pytest.mark.parametrize("network", LEARNERS)
def test_handwritten_digits_are_learned(network):
    base = {"norm": "batch", "eval_every": 1000, "momentum": 0.9, **LEARNERS[network]}
    trials = [TrialConfig.create({"lr": lr, "seed": 1, **base}) for lr in (0.05, 1e-6)]
    trainer = PackTrainer(trials, load_dataset("digits", trials[0].parameters))
    while not trainer.finished:
        trainer.step()
    learned, stalled = (outcome.readings["test_accuracy"] for outcome in trainer.outcomes())
    assert learned > 0.9
    assert stalled < 0.5
