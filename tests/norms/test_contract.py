"""What every norm promises, by name."""

import copy

import pytest
import torch

from bnsweep.errors import SpecError
from bnsweep.names import NAMES
from bnsweep.norms import NORMS, make_norm

MEMBERS, CHANNELS = 3, 8
SHAPES = {"linear": (6, 24), "conv": (6, 24, 3, 3), "one_pixel": (6, 24, 1, 1)}
CASES = [
    pytest.param(norm, shape, id=f"{norm}-{kind}")
    for norm in NORMS
    for kind, shape in SHAPES.items()
    if norm != "instance" or kind == "conv"
]


def normal(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(norm, members=MEMBERS, dtype=torch.float64, **options):
    return make_norm(norm, CHANNELS, members, groups=2, **options).to(dtype)


def trained(norm, shape, dtype=torch.float64):
    module = make(norm, dtype=dtype)
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = normal(parameter.shape, seed, dtype)
    module(normal(shape, 7, dtype))
    return module


def test_the_table_holds_the_legal_names():
    assert set(NORMS) == set(NAMES["norm"])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("norm", "shape"), CASES)
def test_shape_and_type_are_kept(norm, shape, dtype, training):
    x = normal(shape, 0, dtype)
    y = trained(norm, shape, dtype).train(training)(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert y.isfinite().all()


@pytest.mark.parametrize("norm", NORMS)
def test_state_has_a_first_axis_of_all_channels(norm):
    module = make(norm)
    tensors = [*module.parameters(), *module.buffers()]
    assert all(tensor.shape == (MEMBERS * CHANNELS,) for tensor in tensors)


@pytest.mark.parametrize("norm", NORMS)
def test_without_affine_nothing_is_learned(norm):
    assert list(make(norm, affine=False).parameters()) == []


@pytest.mark.parametrize(("norm", "shape"), CASES)
def test_state_dict_round_trip(norm, shape):
    source, target = trained(norm, shape), make(norm)
    target.load_state_dict(source.state_dict())
    x = normal(shape, 1)
    assert torch.equal(target.eval()(x), source.eval()(x))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("norm", "shape"), CASES)
def test_gradient_is_that_of_finite_differences(norm, shape, training):
    small = (3, 24, *[2 if size > 1 else 1 for size in shape[2:]])
    module = trained(norm, small).train(training)
    x = normal(small, 3).requires_grad_()
    assert torch.autograd.gradcheck(module, (x,), fast_mode=True)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("norm", "shape"), CASES)
def test_evaluation_changes_no_state_and_training_only_buffers(norm, shape, training):
    module = trained(norm, shape)
    before = copy.deepcopy(module)
    module.train(training)(normal(shape, 4))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before.parameters(), strict=True))
    same = all(torch.equal(a, b) for a, b in zip(module.buffers(), before.buffers(), strict=True))
    assert same == (not training or not list(module.buffers()))


@pytest.mark.parametrize(("norm", "shape"), CASES)
def test_a_member_is_what_it_is_alone(norm, shape):
    stack = trained(norm, shape)
    alone = make(norm, members=1)
    part = slice(CHANNELS, 2 * CHANNELS)
    for tensor, source in zip(alone.state_dict().values(), stack.state_dict().values(), strict=True):
        tensor.copy_(source[part])
    x = normal(shape, 5)
    y, mine = stack(x)[:, part], alone(x[:, part].contiguous())
    torch.testing.assert_close(mine, y, rtol=1e-14, atol=1e-14)
    for buffer, source in zip(alone.buffers(), stack.buffers(), strict=True):
        torch.testing.assert_close(buffer, source[part], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize(("norm", "shape"), CASES)
def test_a_member_that_is_not_finite_leaves_the_others_untouched(norm, shape, value, dtype):
    healthy, ill = trained(norm, shape, dtype), trained(norm, shape, dtype)
    x, weights = normal(shape, 6, dtype).requires_grad_(), normal(shape, 8, dtype)
    spoilt = x.detach().clone()
    spoilt[:, CHANNELS : 2 * CHANNELS] = value
    spoilt.requires_grad_()
    outputs = healthy(x), ill(spoilt)
    for y in outputs:
        (y * weights).sum().backward()
    others = torch.arange(MEMBERS * CHANNELS) // CHANNELS != 1
    assert torch.equal(outputs[0][:, others], outputs[1][:, others])
    assert torch.equal(x.grad[:, others], spoilt.grad[:, others])
    for a, b in zip(healthy.parameters(), ill.parameters(), strict=True):
        assert torch.equal(a.grad[others], b.grad[others])
    for a, b in zip(healthy.buffers(), ill.buffers(), strict=True):
        assert torch.equal(a[others], b[others])


def test_an_unknown_name_is_refused():
    with pytest.raises(SpecError, match=r"must be one of none, batch, .* but found 'bach'"):
        make_norm("bach", 4)
