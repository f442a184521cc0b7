"""Trained to more steps from where it ended, a trial is the one that was trained to them at once."""

import io

import pytest
import torch

CASES = {
    "vgg-noise-2": ("vgg", 2, {"norm": "noisy_none", "lr": [1e6, 0.1]}),
    "vgg-batch-5": ("vgg-relu-max", 5, {"norm": "batch", "momentum": 0.9, "augment": "flip_crop"}),
    "vgg-diverging-5": ("vgg", 5, {"norm": "noisy_none", "lr": [0.1, 0.05, 1e6, 0.02, 0.01]}),
    "mlp-adam-5": ("mlp", 5, {"norm": "l1", "optimizer": "adam", "lr": [0.01, 0.02, 0.1, 0.003, 1.0]}),
    "mlp-float32-16": (
        "mlp",
        16,
        {"norm": "batch", "precision": "float32", "lr": [0.1, 1e6] * 8, "weight_decay": [0.1, 1e6] * 8},
    ),
    "dln-noise-2": ("dln", 2, {"norm": "noisy_none", "lr": [1e-4, 1e6], "noise_at_eval": True}),
    "dln-1": ("dln", 1, {"norm": "linf", "lr": 1e-4}),
}
PROBES = {"ics": {"every": 4, "layers": [2]}, "moments": {"every": 3}}


def stored(states):
    """Return states that have been written down and read again, as safely as from a ledger."""
    stream = io.BytesIO()
    torch.save(states, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def on_schedule(rows, trial):
    """Leave out what is read at the last step alone."""
    every = {"train": int(trial.parameters["log_every"]), "test": int(trial.parameters["eval_every"])}
    return [row for row in rows if row.step % every.get(row.name.partition("_")[0], 1) == 0]


def by_place(rows):
    found = {}
    for row in rows:
        found.setdefault((row.member, row.step, row.name, row.layer), row.value.hex())
    return found


def resume(packs, trials, first, rows):
    """Go on with ``trials`` from a finished trainer of shorter ones; returns the trainer, all rows."""
    states = [
        state or {"diverged": outcome.diverged_step, "last_loss": outcome.last_finite_loss}
        for state, outcome in zip(stored(first.member_states()), first.outcomes(), strict=True)
    ]
    kept = on_schedule(rows, trials[0])
    last = [{r.name: r.value for r in kept if r.member == k and r.layer == 0} for k in range(len(trials))]
    trainer = packs.make_trainer(trials)
    trainer.go_on(states, last)
    while not trainer.finished:
        trainer.step()
    return trainer, kept + trainer.take_readings()


@pytest.mark.parametrize("short", [4, 5, 6])
@pytest.mark.parametrize("case", CASES)
def test_more_steps_give_the_bits_of_training_at_once(packs, monkeypatch, case, short):
    monkeypatch.setattr("bnsweep.training.trainer.COMPACT_EVERY", 3)
    network, members, settings = CASES[case]
    settings = {"probes": PROBES, **settings}
    whole, expected = packs.train(packs.make_trials(network, members, **{**settings, "steps": 9}))
    first, rows = packs.train(packs.make_trials(network, members, **{**settings, "steps": short}))
    trials = packs.make_trials(network, members, **{**settings, "steps": 9})
    trainer, found = resume(packs, trials, first, rows)
    assert by_place(found) == by_place(expected)
    assert repr(trainer.outcomes()) == repr(whole.outcomes())
    for member in trainer.members:
        assert packs.same(packs.member_state(trainer, member), packs.member_state(whole, member))


def test_members_of_two_packs_go_on_as_one(packs):
    """In float64 a member's bits do not depend on who is beside it."""
    settings = {"norm": "batch", "momentum": [0.0, 0.9, 0.5, 0.0], "log_every": 1, "eval_every": 1}
    long = packs.make_trials("mlp", 4, **settings, steps=9)
    whole, _ = packs.train(long)
    parts = [
        packs.train(packs.make_trials("mlp", 4, **settings, steps=5)[at])[0] for at in (slice(2), slice(2, 4))
    ]
    states = [state for part in parts for state in stored(part.member_states())]
    order = [3, 0, 2]
    trainer = packs.make_trainer([long[k] for k in order])
    trainer.go_on([states[k] for k in order], [{} for _ in order])
    while not trainer.finished:
        trainer.step()
    for row, member in enumerate(order):
        assert packs.same(packs.member_state(trainer, row), packs.member_state(whole, member))
        assert trainer.outcomes()[row].readings == whole.outcomes()[member].readings


def test_a_last_evaluation_that_overflows_ends_the_short_trial_only(packs):
    """The weights overflow at the update of step 1; the training loss shows it at step 2."""
    settings = {"norm": "none", "lr": 1e6, "weight_decay": 1e6, "precision": "float32", "eval_every": 100}
    ends = {}
    for steps in range(1, 40):
        trainer, rows = packs.train(packs.make_trials("mlp", 1, **settings, steps=steps))
        ends[steps] = trainer.outcomes()[0].diverged_step
        if ends[steps] == steps:
            break
    assert ends[steps] == steps
    long = packs.make_trials("mlp", 1, **settings, steps=steps + 9)
    again, _ = resume(packs, long, trainer, rows)
    whole, _ = packs.train(long)
    assert repr(again.outcomes()) == repr(whole.outcomes())


def test_a_pack_of_which_all_have_diverged(packs):
    settings = {"norm": "none", "lr": 1e6, "weight_decay": 1e6}
    first, rows = packs.train(packs.make_trials("mlp", 2, **settings, steps=100))
    assert first.member_states() == [None, None]
    long = packs.make_trials("mlp", 2, **settings, steps=200)
    trainer, found = resume(packs, long, first, rows)
    whole, expected = packs.train(long)
    assert by_place(found) == by_place(expected)
    assert repr(trainer.outcomes()) == repr(whole.outcomes())


@pytest.mark.parametrize("change", ["format", "step", "shape", "count", "absent"])
def test_states_that_do_not_fit_are_refused(packs, change):
    first, _ = packs.train(packs.make_trials("mlp", 2, norm="batch", steps=4))
    states = first.member_states()
    if change == "format":
        states[0]["format"] = 99
    elif change == "step":
        states[0]["step"] = 3
    elif change == "shape":
        states[0]["stack"]["model"] = {name: value[:1] for name, value in states[0]["stack"]["model"].items()}
    elif change == "absent":
        states[0]["stack"]["model"].popitem()
    else:
        states = states[:1]
    trainer = packs.make_trainer(packs.make_trials("mlp", 2, norm="batch", steps=9))
    with pytest.raises(ValueError, match="must"):
        trainer.go_on(states, [{}, {}])
