"""Interrupted at any step, a pack goes on to the same end."""

import io

import pytest
import torch

CASES = {
    "vgg-noise-1": ("vgg", 1, {"norm": "noisy_batch"}),
    "vgg-noise-2": ("vgg", 2, {"norm": "noisy_none", "lr": [1e6, 0.1]}),
    "vgg-noise-5": ("vgg", 5, {"norm": "noisy_none", "lr": [0.1, 0.05, 1e6, 0.02, 0.01]}),
    "vgg-batch-5": ("vgg-relu-max", 5, {"norm": "batch", "momentum": 0.9, "augment": "flip_crop"}),
    "vgg-noise-16": ("vgg", 16, {"norm": "noisy_none", "lr": [0.1, 1e6, *[0.02] * 14], "steps": 4}),
    "mlp-adam-5": ("mlp", 5, {"norm": "l1", "optimizer": "adam", "lr": [0.01, 0.02, 0.1, 0.003, 1.0]}),
    "mlp-float32-16": (
        "mlp",
        16,
        {"norm": "batch", "precision": "float32", "lr": [0.1, 1e6] * 8, "weight_decay": [0.1, 1e6] * 8},
    ),
    "dln-1": ("dln", 1, {"norm": "linf", "lr": 1e-4}),
    "dln-noise-2": ("dln", 2, {"norm": "noisy_none", "lr": [1e-4, 1e6], "noise_at_eval": True}),
    "dln-noise-16": ("dln", 16, {"norm": "noisy_batch", "momentum": 0.5, "lr": 1e-4}),
}
PROBES = {"ics": {"every": 4, "layers": [2]}, "moments": {"every": 3}}


def saved(trainer):
    stream = io.BytesIO()
    torch.save(trainer.state_dict(), stream)
    return stream.getvalue()


def loaded(content):
    return torch.load(io.BytesIO(content), weights_only=True)


def leaves(state):
    """Return every value of a nested state; tensors as lists of hexadecimal digits."""
    if isinstance(state, dict):
        return [leaf for key in state for leaf in leaves(state[key])]
    if isinstance(state, torch.Tensor):
        return [float(value).hex() for value in state.flatten().tolist()]
    return [repr(state)]


def end_of(packs, trainer):
    """Return everything a finished pack leaves behind."""
    states = {member: packs.member_state(trainer, member) for member in trainer.members}
    return trainer.members, states, trainer.outcomes()


def equal_ends(packs, a, b):
    same = all(
        packs.same(a[1][member], b[1][member]) for member in b[0] if a[2][member].diverged_step is None
    )
    return a[0] == b[0] and repr(a[2]) == repr(b[2]) and same


@pytest.mark.parametrize("case", CASES)
def test_goes_on_bit_for_bit_from_every_step(packs, monkeypatch, case):
    monkeypatch.setattr("bnsweep.training.trainer.COMPACT_EVERY", 3)
    network, members, settings = CASES[case]
    trials = packs.make_trials(network, members, **{"steps": 5, "probes": PROBES, **settings})
    whole, expected = packs.train(trials)
    end = end_of(packs, whole)

    trainer, before = packs.make_trainer(trials), []
    while not trainer.finished:
        before += trainer.take_readings()
        again = packs.make_trainer(trials)
        again.load_state_dict(loaded(saved(trainer)))
        assert again.step_index == trainer.step_index
        while not again.finished:
            again.step()
        assert repr(before + again.take_readings()) == repr(expected)
        assert equal_ends(packs, end, end_of(packs, again))
        trainer.step()
    assert len(whole.members) == members - sum(o.diverged_step is not None for o in whole.outcomes())


def test_a_finished_pack_can_be_loaded_too(packs):
    trials = packs.make_trials("mlp", 2, norm="batch")
    trainer, _ = packs.train(trials)
    again = packs.make_trainer(trials)
    again.load_state_dict(loaded(saved(trainer)))
    assert again.finished
    assert again.outcomes() == trainer.outcomes()
    assert again.take_readings() == []


def test_a_pack_of_which_all_have_diverged(packs):
    trials = packs.make_trials("mlp", 2, norm="none", lr=1e6, weight_decay=1e6, steps=100)
    trainer, _ = packs.train(trials)
    again = packs.make_trainer(trials)
    again.load_state_dict(loaded(saved(trainer)))
    assert again.finished
    assert again.outcomes() == trainer.outcomes()


def test_what_could_not_be_let_go_is_remembered(packs, monkeypatch, custom_norms):
    monkeypatch.setattr("bnsweep.training.trainer.COMPACT_EVERY", 4)
    settings = {"norm": f"{custom_norms}:OfWidth", "precision": "float32", "steps": 9}
    trials = packs.make_trials("mlp", 3, lr=[1e6, 0.1, 0.1], weight_decay=[1e6, 0, 0], **settings)
    trainer, _ = packs.train(trials, steps=6)
    again = packs.make_trainer(trials)
    again.load_state_dict(loaded(saved(trainer)))
    assert again.state_dict()["refused"] == [2]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_state_does_not_change_when_training_goes_on(packs, optimizer):
    settings = {"norm": "batch", "optimizer": optimizer, "lr": [0.1, 0.01, 1e6], "precision": "float32"}
    settings |= {"momentum": 0.9} if optimizer == "sgd" else {}
    trainer, _ = packs.train(packs.make_trials("mlp", 3, **settings), steps=1)
    state = trainer.state_dict()
    content = saved(trainer)
    while not trainer.finished:
        trainer.step()
    assert leaves(state) == leaves(loaded(content))
    assert leaves(state) != leaves(trainer.state_dict())


def test_a_loaded_state_does_not_change_either(packs):
    settings = {"momentum": 0.9, "precision": "float32", "lr": [1e6, 0.1], "weight_decay": [1e6, 0.0]}
    trials = packs.make_trials("mlp", 2, **settings)
    trainer, _ = packs.train(trials, steps=1)
    state, content = trainer.state_dict(), saved(trainer)
    ends = []
    for _ in range(2):
        again = packs.make_trainer(trials)
        again.load_state_dict(state)
        while not again.finished:
            again.step()
        ends.append(packs.member_state(again, 1))
        assert again.outcomes()[0].diverged_step is not None
    assert packs.same(*ends)
    assert leaves(state) == leaves(loaded(content))


def test_saving_changes_nothing(packs):
    trials = packs.make_trials("vgg", 2, norm="noisy_batch")
    plain, rows = packs.train(trials)
    trainer = packs.make_trainer(trials)
    while not trainer.finished:
        trainer.step()
        saved(trainer)
    assert trainer.take_readings() == rows
    assert packs.same(packs.member_state(plain, 1), packs.member_state(trainer, 1))


@pytest.mark.parametrize(
    "others",
    [{"seed": [1, 0]}, {"steps": 7}, {"members": 1}, {"momentum": 0.5}],
    ids=["order", "steps", "fewer", "momentum"],
)
def test_the_state_of_other_trials_is_refused(packs, others):
    trainer = packs.make_trainer(packs.make_trials("mlp", 2, lr=0.1))
    state = packs.make_trainer(packs.make_trials("mlp", **{"members": 2, "lr": 0.1, **others})).state_dict()
    with pytest.raises(ValueError, match=r"must belong to the trials .* in this order, but found"):
        trainer.load_state_dict(state)
    assert trainer.step_index == 0


def test_the_state_of_another_version_is_refused(packs):
    trainer = packs.make_trainer(packs.make_trials("mlp", 1))
    with pytest.raises(ValueError, match="must be of format 1, but found 99"):
        trainer.load_state_dict(trainer.state_dict() | {"format": 99})
