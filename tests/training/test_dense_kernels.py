"""The kernels of dense networks against autograd on the real samples, in float64."""

import pytest
import torch

from bnsweep.training import PackTrainer
from bnsweep.training.moment_points import moment_points
from bnsweep.training.objective import batch_loss
from bnsweep.training.stack import MemberStack, kernels_of

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
            stack.update(step)
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
        done = stack.update(3)
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
        ("dln", {"norm": "batch", "batch_size": "full"}, ("moments", "fused")),
        ("dln", {"norm": "batch", "batch_size": 8}, ("fused",)),
        ("dln", {"norm": "noisy_batch", "batch_size": "full"}, ("fused",)),
        ("dln", {"norm": "l1", "batch_size": "full"}, ("fused",)),
        ("dln", {"norm": "rms", "batch_size": "full"}, ("fused",)),
        ("dln", {"norm": "none", "batch_size": "full", "features": 39}, ("fused",)),
        ("mlp", {"norm": "none", "batch_size": "full"}, ("fused",)),
        ("vgg", {"norm": "batch"}, ()),
    ],
)
def test_a_kernel_is_offered_only_where_it_is_exact(packs, network, settings, kernels):
    (trial,) = packs.make_trials(network, 1, **settings)
    dataset = packs.small_dataset(trial, test=40)
    stack = MemberStack([trial], dataset, kernel="moments")
    assert kernels_of(stack.model.plan, trial.parameters["batch_size"], dataset) == kernels
    assert stack.kernel == (kernels or ("grouped",))[0]


def train(packs, trials, kernel):
    """Train to the end, with a change of trainers half way; return the trainer and its readings."""
    trainer = PackTrainer(trials, packs.small_dataset(trials[0], train=60), kernel)
    while trainer.step_index < 30 and not trainer.finished:
        trainer.step()
    rows = trainer.take_readings()
    resumed = PackTrainer(trials, trainer.dataset, kernel)
    resumed.load_state_dict(trainer.state_dict())
    while not resumed.finished:
        resumed.step()
    return resumed, rows + resumed.take_readings()


CASES = [("moments", "dln", norm, {}) for norm in ("none", "batch", "l2")]
CASES += [("fused", "dln", norm, {}) for norm in ("batch", "l1", "rms")]
CASES += [("fused", "mlp", norm, {}) for norm in NORMS]
CASES += [("fused", "mlp", "batch", {"precision": "float32", "optimizer": "adam"})]


@pytest.mark.parametrize(("kernel", "network", "norm", "settings"), CASES)
def test_a_member_alone_has_the_bits_that_it_has_in_a_pack(packs, kernel, network, norm, settings):
    probes = PROBES if network == "dln" else None
    trials = packs.make_trials(network, 5, norm=norm, steps=8, probes=probes, **settings)
    together, rows = train(packs, trials, kernel)
    for member in (0, 3):
        alone, own = train(packs, [trials[member]], kernel)
        assert packs.same(packs.member_state(alone, 0), packs.member_state(together, member))
        assert packs.readings_of(own, 0) == packs.readings_of(rows, member)


@pytest.mark.parametrize("kernel", ["fused", "moments"])
def test_a_member_that_diverges_is_let_go_and_leaves_the_others_as_they_were(packs, kernel):
    healthy = packs.make_trials("dln", 3, norm="none", steps=60)
    trials = list(healthy)
    trials[1] = packs.make_trials("dln", 2, norm="none", steps=60, lr=[1.0, 1e6])[1]
    trainer, _ = train(packs, trials, kernel)
    assert trainer.members == [0, 2]
    reference, _ = train(packs, healthy, kernel)
    for member in (0, 2):
        mine, theirs = (packs.member_state(each, member) for each in (trainer, reference))
        assert packs.same(mine, theirs)
