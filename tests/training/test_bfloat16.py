"""``precision: bfloat16``: products of weight layers while training, and nothing else."""

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnsweep.models import StackedConv, StackedLinear
from bnsweep.names import KERNELS, NAMES
from bnsweep.training import PackTrainer

B16 = torch.bfloat16
NORMS = [norm for norm in NAMES["norm"] if norm != "instance"]
PROBES = {
    "ics": {"every": 2},
    "landscape": {"every": 2, "step_sizes": [1.0, 4.0]},
    "moments": {"every": 2},
}


def rounded(x):
    return x.detach().to(B16).float()


def layer_of(kind, kernel="grouped", bias=True):
    make = StackedConv if kind == "conv" else StackedLinear
    layer = make(4, 6, 3, bias=bias, norm=nn.Identity(), kernel=kernel)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layer.products = B16
    return layer


@pytest.mark.parametrize("kernel", ["grouped", "channels_last", "loop", "loop_channels_last"])
@pytest.mark.parametrize(("kind", "size"), [("conv", 1), ("conv", 5), ("linear", 0)])
def test_operands_are_rounded_and_sums_are_not(kind, size, kernel):
    """Against float64 on rounded operands: what is left is the rounding of the output, 2**-9 of it."""
    torch.manual_seed(0)
    layer = layer_of(kind, kernel)
    x = torch.randn(5, 12, size, size) if size else torch.randn(5, 12)
    y = layer(x)
    assert y.dtype == torch.float32
    weight, bias = (rounded(p).double() for p in layer.parameters())
    parts = zip(rounded(x).double().chunk(3, 1), weight.chunk(3), bias.chunk(3), strict=True)
    exact = torch.cat(
        [F.conv2d(*part, padding=1) if kind == "conv" else F.linear(*part) for part in parts], 1
    )
    size_of_terms = torch.cat(
        [
            F.conv2d(*(t.abs() for t in part), padding=1)
            if kind == "conv"
            else F.linear(*(t.abs() for t in part))
            for part in zip(rounded(x).double().chunk(3, 1), weight.chunk(3), bias.chunk(3), strict=True)
        ],
        1,
    )
    assert ((y - exact).abs() <= 2**-8 * exact.abs() + 2**-20 * size_of_terms).all()
    assert not torch.equal(y.double(), exact)  # it did round


def test_weights_statistics_and_optimizer_stay_in_float32(packs):
    trainer, _ = packs.train(
        packs.make_trials("vgg", 2, norm="batch", precision="bfloat16", optimizer="adam")
    )
    assert {value.dtype for value in packs.member_state(trainer, 0).values()} == {torch.float32}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("network", ["vgg", "mlp", "dln"])
def test_the_first_loss_is_that_of_float32_up_to_a_rounding_a_layer(packs, network, norm):
    """Three roundings of 2**-9 in every layer, of input, weights and output: adding up at worst, times 2."""
    losses, ends = [], []
    for precision in ("float32", "bfloat16"):
        trials = packs.make_trials(network, 2, norm=norm, precision=precision, steps=1)
        trainer, rows = packs.train(trials)
        ends.append(packs.member_state(trainer, 0))
        losses.append(torch.tensor([row.value for row in rows if row.name == "train_loss"]))
    layers = len(trainer._stack.model.layers)
    torch.testing.assert_close(losses[1], losses[0], rtol=layers * 3 * 2**-8, atol=0.0)
    assert not packs.same(*ends)


@pytest.mark.parametrize("network", ["vgg", "mlp", "dln"])
def test_probes_and_evaluations_are_those_of_float32_at_the_same_weights(packs, network):
    """At step 0 both precisions stand at the same weights: everything but the training batch's loss agrees.

    Readings that compare two points of training differ, since the update was made with other gradients.
    """
    found = []
    for precision in ("float32", "bfloat16"):
        trials = packs.make_trials(network, 2, norm="batch", precision=precision, steps=1, probes=PROBES)
        _, rows = packs.train(trials)
        names = ("test_loss", "landscape/loss", "landscape/gradient_norm", "landscape/loss_max")
        found.append({(r.member, r.name): r.value for r in rows if r.step == 0 and r.name in names})
    assert found[0].keys() == found[1].keys() and len(found[0]) == 2 * 4
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, rel=1e-5), key


@pytest.mark.parametrize("norm", ["batch", "noisy_batch", "l1"])
def test_probes_change_nothing(packs, norm):
    plain, _ = packs.train(packs.make_trials("vgg", 3, norm=norm, precision="bfloat16"))
    probed, _ = packs.train(packs.make_trials("vgg", 3, norm=norm, precision="bfloat16", probes=PROBES))
    for member in range(3):
        a, b = (packs.member_state(trainer, member) for trainer in (plain, probed))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_goes_on_bit_for_bit(packs):
    trials = packs.make_trials("vgg", 3, norm="noisy_batch", precision="bfloat16")
    whole, rows = packs.train(trials)
    dataset = packs.small_dataset(trials[0])
    trainer = PackTrainer(trials, dataset)
    for _ in range(3):
        trainer.step()
    before, stream = trainer.take_readings(), io.BytesIO()
    torch.save(trainer.state_dict(), stream)
    stream.seek(0)
    again = PackTrainer(trials, dataset)
    again.load_state_dict(torch.load(stream, weights_only=True))
    while not again.finished:
        again.step()
    assert before + again.take_readings() == rows
    a, b = (packs.member_state(trainer, 1) for trainer in (whole, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_diverging_member_leaves_the_others_bit_for_bit(packs):
    calm = packs.make_trials("vgg", 4, norm="none", precision="bfloat16", steps=8, lr=0.01)
    wild = packs.make_trials("vgg", 4, norm="none", precision="bfloat16", steps=8, lr=[0.01, 1e6, 0.01, 0.01])
    a, b = packs.train(calm)[0], packs.train(wild)[0]
    assert [outcome.state for outcome in b.outcomes()].count("diverged") == 1
    for member in (0, 2, 3):
        states = packs.member_state(a, member), packs.member_state(b, member)
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_of_dense_networks_written_for_float32_are_not_used(packs, kernel):
    trials = packs.make_trials("dln", 2, norm="batch", precision="bfloat16")
    trainer = PackTrainer(trials, packs.small_dataset(trials[0]), kernel=kernel)
    assert trainer._stack.kernel == ("grouped" if kernel in ("fused", "moments") else kernel)
