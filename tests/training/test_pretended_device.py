"""Packs on a device that is none: all of a step is there, nothing waits, and the numbers are the CPU's."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from bnsweep.data import Dataset
from bnsweep.names import KERNELS
from bnsweep.norms.table import NORMS
from bnsweep.training import COMPACT_EVERY, PackTrainer
from tests.pretend import DEVICE, Elsewhere, Pretence

PROBES = {name: {"every": 3} for name in ("activations", "ics", "landscape", "moments", "theory")}


def moved(dataset: Dataset) -> Dataset:
    tensors = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    return replace(
        dataset, **{name: value.to(DEVICE) for name, value in tensors.items() if isinstance(value, Tensor)}
    )


def is_quiet(trainer: PackTrainer) -> bool:
    """Whether nothing is to be read at the next step."""
    trial, step = trainer.trials[0], trainer.step_index
    every = [COMPACT_EVERY, trial.parameters["eval_every"], trial.parameters["log_every"]]
    every += [options["every"] for options in trial.probes.values()]
    return all(step % int(number) for number in every) and step + 1 < trainer.steps


def assert_the_same(packs, trials, kernel="grouped", **sizes):
    """Train here and there; returns the trainer there, and how many steps nothing was to be read at."""
    dataset = packs.small_dataset(trials[0], **sizes)
    here = PackTrainer(trials, dataset, kernel)
    while not here.finished:
        here.step()
    quiet = 0
    with Pretence() as pretence:
        there = PackTrainer(trials, moved(dataset), kernel)
        while not there.finished:
            silent = is_quiet(there)
            pretence.waits.clear()
            there.step()
            assert pretence.waits == [] if silent else pretence.waits
            quiet += silent
        state = there.state_dict()
        assert repr(there.outcomes()) == repr(here.outcomes())
    moments = state["stack"]["optimizer"]["moments"] if there.members else {}
    held = [state["diverged"], state["last_loss"], *state["stack"].get("model", {}).values()]
    for value in (*held, *(value for values in moments.values() for value in values.values())):
        assert isinstance(value, Elsewhere)
    rows, expected = there.take_readings(), here.take_readings()
    for member in range(len(trials)):
        assert packs.readings_of(rows, member) == packs.readings_of(expected, member)
    return there, quiet


def made(network: str, kernel: str) -> bool:
    """Whether a kernel is made for a network."""
    return {"moments": network == "dln", "fused": network != "vgg"}.get(kernel, True)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_with_every_probe(packs, norm):
    trials = packs.make_trials("vgg", members=2, norm=norm, probes=PROBES, precision="float32", steps=8)
    _, quiet = assert_the_same(packs, trials, pixels=32 if norm == "instance" else 8)
    assert quiet == 2


@pytest.mark.parametrize(
    ("network", "kernel"),
    [(network, kernel) for kernel in KERNELS for network in ("vgg", "mlp", "dln") if made(network, kernel)],
)
def test_every_kernel(packs, network, kernel):
    probes = {name: PROBES[name] for name in ("landscape", "moments")}
    norm = "none" if network == "dln" else "batch"
    there, quiet = assert_the_same(
        packs, packs.make_trials(network, norm=norm, probes=probes, steps=8), kernel
    )
    assert quiet == 2
    assert there._stack.kernel == kernel


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": "flip_crop", "norm": "noisy_batch", "noise": 1.0, "noise_at_eval": True},
        {"augment": "flip_crop", "batch_size": "full"},
        {"optimizer": "adamw", "weight_decay": [0.0, 0.1, 0.01]},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "weight_decay_as": "loss"},
        {"precision": "bfloat16"},
    ],
)
def test_every_part_of_a_step(packs, settings):
    trials = packs.make_trials("vgg", **{"norm": "batch", "steps": 8, **settings}, log_every=4)
    _, quiet = assert_the_same(packs, trials)
    assert quiet == 5


def test_members_that_diverge_are_left_behind(packs):
    rates = {"lr": [1e6, 0.05, 1e6, 0.01, 0.02], "weight_decay": [1e6, 0.0, 1e6, 0.01, 0.0]}
    trials = packs.make_trials("mlp", 5, norm="none", **rates, steps=30, eval_every=10, log_every=10)
    there, _ = assert_the_same(packs, trials)
    assert there.members == [1, 3, 4]


def test_a_checkpoint_from_there_goes_on_there(packs):
    trials = packs.make_trials("vgg", norm="batch", momentum=0.9)
    dataset = packs.small_dataset(trials[0])
    whole, _ = assert_the_same(packs, trials)
    with Pretence():
        first, second = (PackTrainer(trials, moved(dataset)) for _ in range(2))
        for _ in range(3):
            first.step()
        second.load_state_dict(first.state_dict())
        while not second.finished:
            second.step()
        assert repr(second.outcomes()) == repr(whole.outcomes())
        for name, value in second.state_dict()["stack"]["model"].items():
            assert torch.equal(value, whole.state_dict()["stack"]["model"][name])


def test_the_pretence_sees_what_it_is_for():
    with Pretence() as pretence:
        x = torch.arange(6.0, device=DEVICE).reshape(2, 3).requires_grad_()
        (gradient,) = torch.autograd.grad((x * torch.tensor(2.0) @ x.t()).sum(), x)
        assert isinstance(gradient, Elsewhere)
        assert pretence.waits == []
        with pytest.raises(AssertionError, match="two devices"):
            x + torch.ones(3)
        torch.ones(3).pin_memory().to(DEVICE, non_blocking=True)
        assert pretence.waits == []
        for wait in (
            lambda: float(gradient[0, 0]),
            lambda: gradient.tolist(),
            lambda: gradient.cpu(),
            lambda: torch.ones(3).to(DEVICE),
            lambda: torch.ones(3).to(DEVICE, non_blocking=True),
            lambda: torch.ones(3).pin_memory().to(DEVICE),
            lambda: gradient.to("cpu", non_blocking=True),
            lambda: gradient.copy_(torch.ones(2, 3)),
            lambda: torch.ones(2, 3).copy_(gradient),
            lambda: gradient[gradient > 2],
            lambda: gradient.index_put_((gradient > 2,), torch.zeros((), device=DEVICE)),
            lambda: gradient.nonzero(),
            lambda: torch.equal(gradient, gradient),
            lambda: bool(gradient.isfinite().all()),
        ):
            wait()
            assert len(pretence.waits) == 1
            pretence.waits.clear()
