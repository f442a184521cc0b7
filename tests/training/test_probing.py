"""The short cuts of the probes against the definitions, on the step that training really made."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bnsweep.names import NAMES
from bnsweep.probes import gradient_landscape, internal_covariate_shift, linear_covariate_shift
from bnsweep.training.probing import StepLoss
from bnsweep.training.stack import MemberStack

CASES = [
    pytest.param(network, norm, id=f"{network}-{norm}")
    for network in ("vgg", "vgg-relu-max", "mlp", "dln")
    for norm in NAMES["norm"]
    if (norm != "instance" or network == "vgg") and (network != "vgg-relu-max" or norm in ("batch", "linf"))
]
EXACT = {"rtol": 0, "atol": 0, "equal_nan": True}


def made_step(packs, network, members=3, step=1, **settings):
    """Train the reference for ``step`` steps and then make the one that is measured."""
    trials = packs.make_trials(network, members, **settings)
    stack = MemberStack(trials, packs.make_trainer(trials).dataset, kernel="grouped")
    stack.initialize()
    for earlier in range(step):
        stack.update(earlier)
    snapshot = stack.snapshot(step, {})
    done = stack.update(step)
    x, y = stack.batches.inputs(step)
    noise, levels = stack.batches.noise(step), stack.batches.levels
    return SimpleNamespace(
        loss=StepLoss(stack.model, snapshot.buffers, x, y, noise, levels, stack.objective),
        redrawn=stack.batches.noise(step, "probe 0"),
        lr=snapshot.lr,
        before=snapshot.params,
        after=stack.optimizer.params,
        done=done,
        layers=stack.model.layers,
        every=range(1, len(stack.model.layers) + 1),
        members=members,
        stack=stack,
        snapshot=snapshot,
    )


def shift(case, method, measured=None, **options):
    args = case.before, case.after, case.layers, measured or case.every, case.members
    return internal_covariate_shift(case.loss, *args, method=method, **options)


def assert_same_shift(a, b, **close):
    assert a.layers == b.layers
    for name in ("l2", "cosine", "relative"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), **close)


@pytest.mark.parametrize(("network", "norm"), CASES)
def test_shift_from_a_shared_prefix_has_the_bits_of_the_definition(packs, network, norm):
    case = made_step(packs, network, norm=norm)
    naive = shift(case, "naive")
    assert (naive.l2[1:] > 0).all()
    assert_same_shift(shift(case, "shared", gradients=case.done.gradients), naive, **EXACT)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "noisy_batch"},
        {"norm": "noisy_none"},
        {"weight_decay": 0.1, "weight_decay_as": "loss", "weight_decay_on": "all"},
        {"precision": "float32"},
    ],
    ids=["noisy batch", "noise alone", "loss decay", "float32"],
)
@pytest.mark.parametrize("network", ["vgg", "dln"])
def test_shift_with_noise_drawn_anew_and_with_penalties(packs, network, settings):
    case = made_step(packs, network, **settings)
    other = replace(case.loss, noise=case.redrawn)
    for of in ("weight", "block"):
        naive, shared = (shift(case, method, loss_fn_after=other, of=of) for method in ("naive", "shared"))
        assert_same_shift(shared, naive, **EXACT)
    assert (naive.l2[0] > 0).all() == (case.redrawn is not None)


@pytest.mark.parametrize("norm", ["Scaled", "Whole", "OfWidth"])
def test_shift_with_a_norm_of_the_users(packs, custom_norms, norm):
    members = 1 if norm == "Whole" else 3
    case = made_step(packs, "vgg", members, norm=f"{custom_norms}:{norm}")
    assert_same_shift(
        shift(case, "shared", [4, 2], gradients=case.done.gradients), shift(case, "naive", [4, 2]), **EXACT
    )


def closed(case, measured):
    args = case.before, case.after, case.layers, measured, case.members
    return linear_covariate_shift(*args, case.loss.x, case.loss.y)


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("batch", [3, "full"])
def test_closed_form_of_a_linear_network(packs, depth, batch):
    case = made_step(packs, "dln", norm="none", depth=depth, batch_size=batch, step=3)
    assert_same_shift(closed(case, case.every), shift(case, "naive"), rtol=1e-8, atol=1e-12)


def test_closed_form_keeps_order_and_bits_and_keeps_members_apart(packs):
    case = made_step(packs, "dln", norm="none")
    every = closed(case, case.every)
    some = closed(case, [3, 2])
    assert torch.equal(some.l2, every.l2[[2, 1]])
    for side in (case.before, case.after):
        for weight in side.values():
            weight.view(3, -1)[1] = torch.nan
    assert torch.equal(closed(case, case.every).l2[:, ::2], every.l2[:, ::2])


def test_landscape_from_the_training_gradient_has_the_same_bits(packs):
    case = made_step(packs, "vgg", norm="noisy_batch")
    args = case.loss, case.before, case.lr, [0.5, 2.0], case.members
    known = (case.done.losses, case.done.gradients)
    ours, plain = gradient_landscape(*args, known=known), gradient_landscape(*args)
    for name in ("loss", "losses", "gradient_norm", "gradient_change", "beta"):
        assert torch.equal(getattr(ours, name), getattr(plain, name))


def passes(packs, network, probes, **settings):
    """Count the passes through the network that the readings of one step take."""
    case = made_step(packs, network, **settings)
    count = []
    case.stack.model.register_forward_hook(lambda *args: count.append(1))
    rows = case.stack.measure(replace(case.snapshot, probes=probes), case.done)
    assert all(own for own in rows)
    return len(count)


@pytest.mark.parametrize(
    ("network", "settings", "probe", "expected"),
    [
        ("dln", {"norm": "none"}, "ics", 0),
        ("dln", {"norm": "batch"}, "ics", 4),
        ("dln", {"norm": "none", "weight_decay": 0.1, "weight_decay_as": "loss"}, "ics", 4),
        ("mlp", {"norm": "none"}, "ics", 3),
        ("vgg", {"norm": "batch"}, "landscape", 2),
    ],
    ids=["closed form", "with a norm", "with a penalty", "with activations", "landscape"],
)
def test_a_short_cut_is_taken_where_its_conditions_hold(packs, network, settings, probe, expected):
    options = {"ics": {"layers": "all", "noise": "frozen"}}
    options["landscape"] = {"step_sizes": [0.5, 2.0], "noise": "frozen"}
    assert passes(packs, network, {probe: options[probe]}, **settings) == expected


def test_moments_of_layers_without_a_norm_are_no_readings(packs):
    case = made_step(packs, "vgg")
    rows = case.stack.measure(replace(case.snapshot, probes={"moments": {"layers": [11]}}), case.done)
    assert rows == [[], [], []]
