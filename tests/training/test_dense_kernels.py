"""The kernels of dense networks against autograd on the real samples, in float64."""

import pytest
import torch

from bnsweep.training.moment_points import moment_points
from bnsweep.training.objective import batch_loss
from bnsweep.training.stack import MemberStack, dense_kernels

NORMS = ["none", "batch", "noisy_batch", "noisy_none", "l1", "l2", "linf", "layer", "group", "rms"]
LP = {"lp_centered": True, "lp_gaussian": True}
PROBES = {
    "ics": {"every": 1, "layers": "all"},
    "landscape": {"every": 1, "step_sizes": [0.5, 4.0]},
    "moments": {"every": 1, "layers": "all"},
}


def pair(packs, kernel, network, steps=0, *, samples=40, **parameters):
    """Return stacks of one pack with the kernel and the reference, both after some steps."""
    trials = packs.make_trials(network, 3, **parameters)
    dataset = packs.small_dataset(trials[0], train=samples, test=30)
    stacks = [MemberStack(trials, dataset, kernel=name) for name in (kernel, "grouped")]
    for stack in stacks:
        stack.initialize()
        generator = torch.Generator().manual_seed(1)
        for value in stack.optimizer.params.values():  # away from the norms' neutral start
            value.add_(0.1 * torch.randn(value.shape, dtype=value.dtype, generator=generator))
        for step in range(steps):
            stack.optimizer.step(stack.gradients(step).gradients)
    return stacks


def assert_close(mine, theirs, tolerance=1e-12):
    """Compare tensors by name; errors count relative to the largest value of them all."""
    assert mine.keys() == theirs.keys()
    size = max(value.abs().max().item() for value in theirs.values())
    worst = {name: (mine[name] - theirs[name]).abs().max().item() for name in theirs}
    assert max(worst.values()) <= tolerance * size, worst


def assert_same_pass(fused, reference, tolerance=1e-12):
    a, b = fused.gradients(5), reference.gradients(5)
    assert_close(a.gradients, b.gradients, tolerance)
    assert_close({"losses": a.losses}, {"losses": b.losses}, tolerance)
    buffers = [dict(stack.model.named_buffers()) for stack in (fused, reference)]
    if buffers[0]:
        assert_close(*buffers, tolerance)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", NORMS)
def test_written_out_passes_of_an_mlp_are_those_of_autograd(packs, norm, activation):
    fused, reference = pair(
        packs, "fused", "mlp", activation=activation, norm=norm, features=12, batch_size=16
    )
    assert_same_pass(fused, reference)


@pytest.mark.parametrize("batch_size", [8, "full"])
@pytest.mark.parametrize("norm", NORMS)
def test_written_out_passes_of_a_linear_network_are_those_of_autograd(packs, norm, batch_size):
    fused, reference = pair(packs, "fused", "dln", norm=norm, batch_size=batch_size)
    assert_same_pass(fused, reference, 1e-10 if norm == "group" else 1e-12)  # groups of 3 units: steep


@pytest.mark.parametrize(
    ("norm", "settings"),
    [
        ("l1", LP),
        ("l2", LP),
        ("linf", LP),
        ("batch", {"affine": False}),
        ("layer", {"affine": False}),
        ("batch", {"weight_decay": [0.0, 0.1, 0.3], "weight_decay_as": "loss", "weight_decay_on": "all"}),
        ("batch", {"features": 80, "batch_size": 64}),
    ],
    ids=["l1", "l2", "linf", "batch-plain", "layer-plain", "loss-decay", "batch-of-many-values"],
)
def test_written_out_passes_with_settings(packs, norm, settings):
    fused, reference = pair(
        packs, "fused", "mlp", samples=100, **{"norm": norm, "batch_size": 16, **settings}
    )
    assert_same_pass(fused, reference)


@pytest.mark.parametrize("norm", ["batch", "l1", "linf", "layer", "rms"])
def test_a_member_that_overflows_leaves_the_others_as_they_were(packs, norm):
    first, _ = pair(packs, "fused", "mlp", norm=norm, precision="float32", activation="relu")
    stacks = [first, first.select(range(3))]
    with torch.no_grad():
        stacks[1].optimizer.params["linear1.weight"].unflatten(0, (3, -1))[1] = torch.inf
    a, b = (stack.gradients(0) for stack in stacks)
    assert not b.losses[1].isfinite()
    for name, gradient in a.gradients.items():
        rows = gradient.unflatten(0, (3, -1))[[0, 2]], b.gradients[name].unflatten(0, (3, -1))[[0, 2]]
        assert torch.equal(*rows)


@pytest.mark.parametrize("norm", ["none", "batch", "l2"])
def test_points_of_equal_moments_train_as_the_samples_do(packs, norm):
    few, reference = pair(
        packs, "moments", "dln", 10, samples=200, norm=norm, batch_size="full", momentum=0.9
    )
    assert few.batches.inputs(0)[0].shape[1] == 7
    assert_same_pass(few, reference)
    assert_close(few.optimizer.params, reference.optimizer.params)
    assert_close(few.evaluate(11), reference.evaluate(11))


@pytest.mark.parametrize("norm", ["none", "batch", "l2"])
def test_probes_measure_on_points_what_they_measure_on_samples(packs, norm):
    stacks = pair(packs, "moments", "dln", 3, samples=200, norm=norm, batch_size="full", probes=PROBES)
    readings = []
    for stack in stacks:
        snapshot = stack.snapshot(3, stack.trials[0].probes)
        done = stack.gradients(3)
        stack.optimizer.step(done.gradients)
        rows = stack.measure(snapshot, done)
        readings.append([{(name, layer): value for name, layer, value in own} for own in rows])
    for mine, theirs in zip(*readings, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine == pytest.approx(theirs, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("rank", [2, 4])
def test_points_keep_the_loss_of_targets_that_are_no_function_of_the_inputs(rank):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, rank, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(rank, 4, generator=generator, dtype=torch.float64) + 3
    y = torch.randn(50, 4, generator=generator, dtype=torch.float64) - 1
    points, targets, loss = moment_points(x, y)
    assert points.shape == targets.shape == (5, 4)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        want = batch_loss((x @ matrix + 2)[None], y[None])
        torch.testing.assert_close(loss.of(batch_loss((points @ matrix + 2)[None], targets[None])), want)


@pytest.mark.parametrize(
    ("network", "settings", "kernels"),
    [
        ("dln", {"norm": "batch", "batch_size": "full"}, ("moments", "fused", "grouped")),
        ("dln", {"norm": "batch", "batch_size": 8}, ("fused", "grouped")),
        ("dln", {"norm": "noisy_batch", "batch_size": "full"}, ("fused", "grouped")),
        ("dln", {"norm": "l1", "batch_size": "full"}, ("fused", "grouped")),
        ("dln", {"norm": "rms", "batch_size": "full"}, ("fused", "grouped")),
        ("dln", {"norm": "none", "batch_size": "full", "features": 39}, ("fused", "grouped")),
        ("mlp", {"norm": "none", "batch_size": "full"}, ("fused", "grouped")),
        ("vgg", {"norm": "batch"}, ("grouped",)),
    ],
)
def test_a_kernel_is_offered_only_where_it_is_exact(packs, network, settings, kernels):
    (trial,) = packs.make_trials(network, 1, **settings)
    dataset = packs.small_dataset(trial, test=40)
    stack = MemberStack([trial], dataset)
    assert dense_kernels(stack.model.plan, trial.parameters["batch_size"], dataset) == kernels
    assert stack.kernel == kernels[0]


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_the_reference_is_bit_for_bit_independent_too(packs, norm):
    trials = packs.make_trials("mlp", 4, norm=norm)
    dataset = packs.small_dataset(trials[0])
    together, alone = (MemberStack(own, dataset, kernel="grouped") for own in (trials, trials[2:3]))
    for stack in (together, alone):
        stack.initialize()
        for step in range(3):
            stack.optimizer.step(stack.gradients(step).gradients)
    for name, value in alone.optimizer.params.items():
        assert torch.equal(together.optimizer.params[name].unflatten(0, (4, -1))[2], value)
