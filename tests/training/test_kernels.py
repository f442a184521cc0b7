"""Every way to compute a stack means the same network: the loop over members is the reference."""

import pytest
import torch

from bnsweep.models import make_model
from bnsweep.names import KERNELS, NAMES, DataFacts
from bnsweep.training import PackTrainer
from bnsweep.training.stack import MemberStack

OTHERS = [kernel for kernel in KERNELS if kernel != "loop"]


def end_of(packs, trials, kernel):
    trainer = PackTrainer(trials, packs.small_dataset(trials[0]), kernel)
    while not trainer.finished:
        trainer.step()
    return trainer


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm().clamp(min=1e-9))


@pytest.mark.parametrize("kernel", OTHERS)
@pytest.mark.parametrize("norm", [norm for norm in NAMES["norm"] if norm != "instance"])
@pytest.mark.parametrize("network", ["vgg", "mlp", "dln"])
def test_losses_outputs_and_gradients_agree_in_float64(packs, network, norm, kernel):
    trials = packs.make_trials(network, 3, norm=norm)
    passes = []
    for choice in ("loop", kernel):
        stack = MemberStack(trials, packs.small_dataset(trials[0]), kernel=choice)
        stack.initialize()
        passes.append(stack.gradients(0))
    reference, other = passes
    assert relative_error(other.losses, reference.losses) < 1e-12
    if other.outputs.shape == reference.outputs.shape:  # not on moment points, which are fewer
        assert relative_error(other.outputs, reference.outputs) < 1e-12
    everything = [torch.cat([g.flatten() for g in done.gradients.values()]) for done in passes]
    assert relative_error(everything[1], everything[0]) < 1e-11


@pytest.mark.parametrize("kernel", OTHERS)
@pytest.mark.parametrize("network", ["vgg", "mlp", "dln"])
def test_training_agrees_in_float64(packs, network, kernel):
    trials = packs.make_trials(network, 3, norm="layer", momentum=0.9)
    reference, other = end_of(packs, trials, "loop"), end_of(packs, trials, kernel)
    for member in range(3):
        mine, theirs = packs.member_state(reference, member), packs.member_state(other, member)
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert relative_error(theirs[name], value) < 1e-10, name


@pytest.mark.parametrize("kernel", ["loop", "loop_channels_last"])
def test_a_member_of_a_loop_is_a_network_of_its_own_to_the_bit(packs, kernel):
    trials = packs.make_trials("vgg", 3, norm="batch")
    together = end_of(packs, trials, kernel)
    for member in range(3):
        alone = end_of(packs, [trials[member]], kernel)
        assert packs.same(packs.member_state(alone, 0), packs.member_state(together, member))


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_convolutions_return_contiguous_channels_whatever_the_kernel(kernel):
    net = make_model({"model": "vgg11", "width": 0.0625}, DataFacts(3, 32, 10, 1, 1), 2, kernel=kernel)
    seen = []
    for layer in net.layers:
        if layer.kind == "conv":
            net.get_submodule(layer.name).register_forward_hook(
                lambda module, inputs, output: seen.append(output.is_contiguous())
            )
    net(torch.randn(2, 4, 3, 32, 32))
    assert len(seen) == 8
    assert all(seen[:5]), "from the sixth on a pixel is left, and a matrix product computes it"


def test_an_unknown_kernel_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"grouped.*found 'fast'"):
        make_model({"model": "mlp"}, DataFacts(1, 8, 10, 1, 1), kernel="fast")


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_a_compacted_stack_keeps_its_kernel(kernel):
    net = make_model({"model": "mlp"}, DataFacts(1, 8, 10, 1, 1), 3, kernel=kernel)
    assert net.compact([0, 2]).kernel == kernel
