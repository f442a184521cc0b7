"""What every network promises: independence of the members, noise, recording, initialization, compaction."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from bnsweep.errors import SpecError
from bnsweep.models import MODELS, StackedNet, make_model, parameter_decay
from bnsweep.names import NAMES, DataFacts
from bnsweep.norms import NORMS, draw_noise

SEEDS = (5, 6, 7, 8)
NETS = {
    "vgg11-8px": ({"model": "vgg11", "width": 0.125}, DataFacts(1, 8, 10, 0, 0)),
    "vgg11-32px": ({"model": "vgg11", "width": 0.0625}, DataFacts(3, 32, 10, 0, 0)),
    "mlp": ({"model": "mlp", "depth": 2, "features": 32}, DataFacts(1, 8, 10, 0, 0)),
    "dln": ({"model": "dln", "depth": 6, "features": 10}, DataFacts(1, 1, 0, 0, 0)),
}
CASES = [
    pytest.param(net, norm, id=f"{net}-{norm}")
    for net in NETS
    for norm in NORMS
    if norm != "instance" or net == "vgg11-32px"
]


def make(net, norm="batch", seeds=SEEDS, dtype=torch.float64, init="glorot_normal", **extra):
    parameters, facts = NETS[net]
    model = make_model({**parameters, "norm": norm, "groups": 2, **extra}, facts, len(seeds), dtype=dtype)
    model.initialize(seeds, init)
    return model


def batch(net, members=4, samples=6, dtype=torch.float64, seed=0):
    facts = NETS[net][1]
    shape = (10,) if net == "dln" else (facts.channels, facts.size, facts.size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(members, samples, *shape, generator=generator, dtype=dtype)


def noise_for(model, seeds=SEEDS, samples=6, dtype=torch.float64):
    sites = draw_noise(model.noise_sites, samples, seeds, 3, dtype=dtype)
    return (sites, torch.tensor([seed - 5.0 for seed in seeds])) if sites else (None, None)


def test_the_table_holds_the_legal_names():
    assert set(MODELS) == set(NAMES["model"])


@pytest.mark.parametrize(("net", "norm"), CASES)
def test_a_member_is_to_the_bit_what_it_is_alone(net, norm):
    stack, x = make(net, norm), batch(net)
    out = stack(x, *noise_for(stack))
    out.square().sum().backward()
    for member, seed in enumerate(SEEDS):
        alone = make(net, norm, [seed])
        mine = alone(x[member : member + 1].clone(), *noise_for(alone, [seed]))
        mine.square().sum().backward()
        assert torch.equal(mine[0], out[member])
        for name, parameter in alone.named_parameters():
            theirs = stack.get_parameter(name).grad.unflatten(0, (len(SEEDS), -1))[member]
            assert torch.equal(parameter.grad, theirs), name
        for name, buffer in alone.named_buffers():
            assert torch.equal(buffer, stack.get_buffer(name).unflatten(0, (len(SEEDS), -1))[member]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("net", "norm"), CASES)
def test_a_member_that_is_not_finite_leaves_the_others_untouched(net, norm, dtype):
    healthy, ill = make(net, norm, dtype=dtype), make(net, norm, dtype=dtype)
    x = batch(net, dtype=dtype)
    spoilt = x.clone()
    spoilt[1] = float("nan")
    noise = noise_for(healthy, dtype=dtype)
    others = torch.tensor([0, 2, 3])
    outs = healthy(x, *noise), ill(spoilt, *noise)
    for out in outs:
        out.square().sum().backward()
    assert torch.equal(outs[0][others], outs[1][others])
    assert outs[1][1].isnan().any()
    for name, parameter in healthy.named_parameters():
        pair = [p.grad.unflatten(0, (4, -1))[others] for p in (parameter, ill.get_parameter(name))]
        assert torch.equal(*pair), name
    for name, buffer in healthy.named_buffers():
        pair = [b.unflatten(0, (4, -1))[others] for b in (buffer, ill.get_buffer(name))]
        assert torch.equal(*pair), name


@pytest.mark.parametrize("noisy", ["batch", "none"])
@pytest.mark.parametrize("net", NETS)
def test_noise_of_level_0_is_none_to_the_bit(net, noisy):
    plain, model, x = make(net, noisy), make(net, f"noisy_{noisy}"), batch(net)
    sites, level = noise_for(model)
    outs = plain(x), model(x, sites, 0 * level)
    for out in outs:
        out.square().sum().backward()
    assert torch.equal(*outs)
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert not torch.equal(model(x, sites, level), outs[0])
    assert torch.equal(model(x), outs[0])


@pytest.mark.parametrize("net", NETS)
def test_noise_sites_are_the_hidden_sites(net):
    model = make(net, "noisy_batch")
    record = []
    model(batch(net), *noise_for(model), record)
    assert [t.shape[1:] for t in record] == [(4 * c, *rest) for c, *rest in model.noise_sites]
    assert len(model.site_layers) == len(record)
    assert make(net, "batch").noise_sites == ()


def test_running_statistics_are_those_before_the_noise():
    plain, noisy, x = make("dln", "batch"), make("dln", "noisy_batch"), batch("dln")
    plain(x)
    noisy(x, *noise_for(noisy))
    assert torch.equal(plain.linear1.norm.running_mean, noisy.linear1.norm.running_mean)
    assert not torch.equal(plain.linear2.norm.running_mean, noisy.linear2.norm.running_mean)


@pytest.mark.parametrize("level", [None, torch.ones(4)], ids=["no_level", "too_few_sites"])
def test_noise_that_does_not_fit_is_refused(level):
    model = make("mlp", "noisy_batch")
    sites, _ = noise_for(model)
    with pytest.raises(ValueError, match="one entry for each of the 2 noisy sites"):
        model(batch("mlp"), sites if level is None else sites[:1], level)


@pytest.mark.parametrize("net", NETS)
def test_recording_sees_normalized_activations_and_changes_nothing(net):
    model, twin, x = make(net), make(net), batch(net)
    record = []
    assert torch.equal(model(x, record=record), twin(x))
    for activations in record:
        assert not activations.requires_grad
        values = activations.transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros_like(values[:, 0]), rtol=0, atol=1e-10)
        # variance 1, up to eps, in every unit that is not dead
        alive = values.var(1, correction=0)[values.var(1) > 0.5]
        torch.testing.assert_close(alive, torch.ones_like(alive), rtol=0, atol=0.1)
    assert any((activations < 0).any() for activations in record)


def test_the_deep_linear_network_is_the_product_of_its_matrices():
    model, x = make("dln", "none"), batch("dln")
    product = torch.eye(10, dtype=torch.float64).expand(4, 10, 10)
    for layer in model.layers:
        product = model.get_parameter(layer.weight).unflatten(0, (4, 10)) @ product
    torch.testing.assert_close(model(x), x @ product.transpose(1, 2), rtol=1e-12, atol=1e-12)
    assert [name for name, _ in model.named_parameters()] == [layer.weight for layer in model.layers]


def test_the_deep_linear_network_is_normalized_last_too():
    out = make("dln", "batch", dtype=torch.float64)(batch("dln", samples=50))
    torch.testing.assert_close(out.mean(1), torch.zeros(4, 10, dtype=torch.float64), rtol=0, atol=1e-10)


def test_the_mlp_equals_a_sequential():
    model, x = make("mlp", "layer", [3]), batch("mlp", 1)
    reference = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(),
        nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU(),
        nn.Linear(32, 10),
    ).double()  # fmt: skip
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        theirs.data = mine.data.clone()
    torch.testing.assert_close(model(x)[0], reference(x[0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("net", NETS)
def test_batch_norm_makes_the_network_blind_to_the_scale_of_its_weights(net):
    model, x = make(net, norm_eps=0.0), batch(net)
    before = model(x).detach()
    hidden = [model.layers[index - 1].weight for index in model.site_layers]
    for factor, name in enumerate(hidden, 2):
        model.get_parameter(name).data *= factor
    torch.testing.assert_close(model(x), before, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("net", NETS)
def test_functional_call_is_the_call_and_leaves_the_model_alone(net):
    model, twin, x = make(net, "noisy_batch"), make(net, "noisy_batch"), batch(net)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    noise = noise_for(model)
    out = functional_call(model, (parameters, buffers), (x, *noise))
    assert torch.equal(out, twin(x, *noise))
    assert all(torch.equal(b, twin.get_buffer(name)) for name, b in buffers.items())
    fresh = make(net, "noisy_batch")
    assert all(torch.equal(b, fresh.get_buffer(name)) for name, b in model.named_buffers())

    def loss(parameters):
        copies = {name: b.clone() for name, b in fresh.named_buffers()}
        return functional_call(fresh, (parameters, copies), (x, *noise)).square().sum()

    gradients = torch.func.grad(loss)(parameters)
    twin(x, *noise).square().sum().backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, twin.get_parameter(name).grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("init", NAMES["init"])
def test_initial_weights_have_the_variance_of_the_rule(init):
    model = make("vgg11-8px", "none", [0], init=init, width=0.5)
    for layer in model.layers[1:8]:
        weight = model.get_parameter(layer.weight)
        outputs, inputs = weight.shape[0] * 9, weight.shape[1] * 9
        expected = 2 / inputs if init.startswith("he") else 2 / (inputs + outputs)
        error = 6 / math.sqrt(weight.numel())  # over 4 standard errors of a variance
        assert weight.var().item() == pytest.approx(expected, rel=error)
        assert weight.mean().item() == pytest.approx(0, abs=5 * math.sqrt(expected / weight.numel()))
        if init.endswith("uniform"):
            assert weight.abs().max().item() == pytest.approx(math.sqrt(3 * expected), rel=0.01)
        else:
            assert weight.abs().max().item() > 3 * math.sqrt(expected)
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("net", NETS)
def test_initial_weights_pair_over_norms_stacks_and_precisions(net):
    stack, alone = make(net, "batch"), make(net, "none", [7])
    single = make(net, "layer", [1, 7], dtype=torch.float32)
    for layer in stack.layers:
        weight = alone.get_parameter(layer.weight)
        assert torch.equal(stack.get_parameter(layer.weight).unflatten(0, (4, -1))[2], weight)
        assert torch.equal(single.get_parameter(layer.weight).unflatten(0, (2, -1))[1], weight.float())
        assert not torch.equal(stack.get_parameter(layer.weight).unflatten(0, (4, -1))[0], weight)


def test_layers_of_one_shape_start_differently():
    model = make("dln", "none")
    assert not torch.equal(model.linear1.weight, model.linear2.weight)


@pytest.mark.parametrize(
    ("seeds", "init", "said"), [([1], "he_normal", "4 members"), (SEEDS, "he", "init must be")]
)
def test_bad_initialization_is_refused(seeds, init, said):
    with pytest.raises(ValueError, match=said):
        make("mlp").initialize(seeds, init)


@pytest.mark.parametrize(("net", "norm"), CASES)
def test_compacting_keeps_members_to_the_bit(net, norm):
    model, x = make(net, norm), batch(net)
    sites, level = noise_for(model)
    model(x, sites, level)
    keep = [3, 1]
    small = model.compact(keep)
    assert isinstance(small, StackedNet)
    assert small.members == 2
    assert (small.notes, small.layers, small.noise_sites) == (model.notes, model.layers, model.noise_sites)
    few = noise_for(model, [SEEDS[k] for k in keep])
    outs = model(x, sites, level)[keep], small(x[keep], *few)
    assert torch.equal(*outs)
    for name, buffer in small.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name).unflatten(0, (4, -1))[keep].flatten(0, 1))
    small.get_parameter(small.layers[0].weight).data.zero_()
    assert model.get_parameter(model.layers[0].weight).abs().min() > 0
    assert not model.eval().compact([0]).training


@pytest.mark.parametrize(("net", "norm"), CASES)
def test_state_dict_round_trip(net, norm):
    source, target, x = make(net, norm), make(net, norm, (0, 1, 2, 3)), batch(net)
    source(x)
    target.load_state_dict(source.state_dict())
    assert torch.equal(source.eval()(x), target.eval()(x))


@pytest.mark.parametrize(("net", "norm"), CASES)
def test_blocks_part_the_parameters(net, norm):
    model = make(net, norm)
    assert [name for layer in model.layers for name in layer.block] == [
        n for n, _ in model.named_parameters()
    ]
    assert all(layer.weight in layer.block for layer in model.layers)
    assert parameter_decay(model) == tuple(layer.weight for layer in model.layers)
    tensors = [*model.parameters(), *model.buffers()]
    assert all(tensor.shape[0] % model.members == 0 for tensor in tensors)


CUSTOM = """
import torch
from torch import nn

class Viewing(nn.Module):
    per_channel = True
    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(num_features))
        self.register_buffer("calls", torch.zeros(()))
    def forward(self, x):
        self.calls += 1
        y = x.view(x.shape[0], x.shape[1], -1)
        return (y * self.weight[:, None]).view(x.shape)

class Whole(Viewing):
    per_channel = False
"""


@pytest.fixture
def custom(tmp_path, monkeypatch, request):
    name = "norm_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    (tmp_path / f"{name}.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("net", NETS)
def test_a_custom_norm_stacks_and_compacts(net, custom):
    model, x = make(net, f"{custom}:Viewing"), batch(net)
    out = model(x)
    small = model.compact([2])
    assert torch.equal(small(x[2:3])[0], out[2])
    assert small.get_buffer("linear1.norm.calls") == 2


def test_a_custom_norm_that_is_not_per_channel_trains_alone(custom):
    assert make("mlp", f"{custom}:Whole", [1])(batch("mlp", 1)).shape == (1, 6, 10)
    with pytest.raises(SpecError, match="must work per channel to be stacked"):
        make("mlp", f"{custom}:Whole", [1, 2])


@pytest.mark.parametrize("net", ["mlp", "dln"])
def test_instance_norm_without_space_is_refused(net):
    with pytest.raises(SpecError, match="instance needs convolutions"):
        make(net, "instance")


def test_an_unknown_model_is_refused():
    with pytest.raises(SpecError, match=r"parameters.model must be one of vgg11, .* but found 'vgg12'"):
        make_model({"model": "vgg12"}, DataFacts(1, 8, 10, 0, 0))
