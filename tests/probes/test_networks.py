"""The probes on bnsweep's own networks: a plain reference, and nothing changed by measuring."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from bnsweep.models import make_model
from bnsweep.names import NAMES, DataFacts
from bnsweep.norms.noise import draw_noise
from bnsweep.probes import (
    activation_moments,
    gradient_landscape,
    internal_covariate_shift,
    moment_change,
)

BATCH = 6
VGG = {"model": "vgg11", "width": 0.03, "activation": "gelu", "pool": "avg"}
MLP = {"model": "mlp", "depth": 2, "features": 6, "activation": "gelu"}
DLN = {"model": "dln", "depth": 4, "features": 6}
CASES = [
    pytest.param({**model, "norm": norm}, id=f"{model['model']}-{norm}")
    for model in (VGG, MLP, DLN)
    for norm in NAMES["norm"]
    if norm != "instance" or model is VGG
]


class Network:
    """A network of K members in train mode with a batch, a noise draw and an SGD step."""

    def __init__(self, parameters, members=2):
        self.members = members
        self.regression = parameters["model"] == "dln"
        size = 32 if parameters["norm"] == "instance" else 8
        facts = DataFacts(1, 1, 0, BATCH, BATCH) if self.regression else DataFacts(1, size, 5, BATCH, BATCH)
        self.net = make_model({"groups": 2, **parameters}, facts, members, dtype=torch.float64)
        self.net.initialize(range(members), "glorot_normal")
        self.net.train()
        generator = torch.Generator().manual_seed(0)
        shape = (6,) if self.regression else (1, size, size)
        self.x = torch.randn(members, BATCH, *shape, generator=generator, dtype=torch.float64)
        self.target = torch.randn(members, BATCH, 6, generator=generator, dtype=torch.float64)
        self.labels = torch.randint(5, (members, BATCH), generator=generator)
        with torch.no_grad():
            for name, parameter in self.net.named_parameters():
                if ".norm." in name:
                    parameter.add_(
                        torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.2
                    )
        self.level = torch.linspace(0.5, 1.0, members, dtype=torch.float64)
        self.lr = torch.linspace(0.01, 0.02, members, dtype=torch.float64)
        self.layers = self.net.layers
        last = len(self.layers)
        self.measured = sorted({1, 2, 3, last - 2, last})

    def noise(self, step):
        if not self.net.noise_sites:
            return None
        seeds = range(self.members)
        return draw_noise(self.net.noise_sites, BATCH, seeds, step, dtype=torch.float64)

    def loss(self, output):
        if self.regression:
            return (output - self.target).square().flatten(1).sum(1) / 2
        losses = F.cross_entropy(output.flatten(0, 1), self.labels.flatten(), reduction="none")
        return losses.view(self.members, -1).mean(1)

    def loss_fn(self, noise):
        def loss(params):
            buffers = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
            return self.loss(functional_call(self.net, (params, buffers), (self.x, noise, self.level)))

        return loss

    def params(self):
        return {name: p.detach().clone() for name, p in self.net.named_parameters()}

    def backward(self, params, noise):
        """Return loss and gradients by the plain way, on a copy of the network."""
        net = deepcopy(self.net)
        net.load_state_dict(params, strict=False)
        net.zero_grad()
        losses = self.loss(net(self.x, noise, self.level))
        losses.sum().backward()
        return losses.detach(), {name: p.grad for name, p in net.named_parameters()}

    def after(self, params, noise):
        _, gradients = self.backward(params, noise)
        return {name: tensor - 0.02 * gradients[name] for name, tensor in params.items()}

    def flat(self, gradients, names):
        return torch.cat([gradients[name].reshape(self.members, -1) for name in names], 1)


@pytest.mark.parametrize("parameters", CASES)
def test_shift_is_that_of_a_copied_network(parameters):
    case = Network(parameters)
    noise, params = case.noise(0), case.params()
    after = case.after(params, noise)
    reading = internal_covariate_shift(
        case.loss_fn(noise), params, after, case.layers, case.measured, case.members
    )
    _, gradients = case.backward(params, noise)
    for row, i in enumerate(case.measured):
        hybrid = dict(params)
        for layer in case.layers[: i - 1]:
            hybrid |= {name: after[name] for name in layer.block}
        _, moved = case.backward(hybrid, noise)
        name = case.layers[i - 1].weight
        g, h = case.flat(gradients, [name]), case.flat(moved, [name])
        close = {"rtol": 1e-7, "atol": 1e-12 * g.abs().max().item() + 1e-300}
        torch.testing.assert_close(reading.l2[row], (g - h).norm(dim=1), **close)
        torch.testing.assert_close(
            reading.relative[row], (g - h).norm(dim=1) / g.norm(dim=1), rtol=1e-6, atol=1e-11
        )
    assert (reading.l2[1:] > 0).all()


@pytest.mark.parametrize("parameters", CASES)
def test_landscape_is_that_of_a_copied_network(parameters):
    case = Network(parameters)
    noise, params = case.noise(0), case.params()
    sizes = [0.5, 4.0]
    reading = gradient_landscape(case.loss_fn(noise), params, case.lr, sizes, case.members)
    loss, gradients = case.backward(params, noise)
    g = case.flat(gradients, params)
    torch.testing.assert_close(reading.loss, loss, rtol=1e-12, atol=0)
    ratios = []
    for row, size in enumerate(sizes):
        alpha = size * case.lr
        moved = {
            n: t
            - alpha.repeat_interleave(len(t) // case.members).view(-1, *[1] * (t.dim() - 1)) * gradients[n]
            for n, t in params.items()
        }
        there, h = case.backward(moved, noise)
        change = (case.flat(h, params) - g).norm(dim=1)
        torch.testing.assert_close(reading.losses[row], there, rtol=1e-10, atol=0)
        torch.testing.assert_close(reading.gradient_change[row], change, rtol=1e-7, atol=0)
        ratios.append(change / (alpha * g.norm(dim=1)))
    torch.testing.assert_close(reading.beta, torch.stack(ratios).amax(0), rtol=1e-7, atol=0)


def measure(case, noise, step_sizes=(0.5, 2.0)):
    """Take every reading of one step."""
    params = dict(case.net.named_parameters())
    loss = case.loss_fn(noise)
    after = {name: tensor.detach() * 1.01 for name, tensor in params.items()}
    record = []
    buffers = {name: buffer.clone() for name, buffer in case.net.named_buffers()}
    with torch.no_grad():
        functional_call(case.net, (params, buffers), (case.x, noise, case.level, record))
    moments = activation_moments(record, case.members)
    return (
        internal_covariate_shift(loss, params, after, case.layers, case.measured, case.members),
        gradient_landscape(loss, params, case.lr, step_sizes, case.members),
        moment_change(moments, moments),
    )


@pytest.mark.parametrize("parameters", CASES)
def test_measuring_changes_nothing(parameters):
    case = Network(parameters)
    noise = case.noise(0)
    case.loss(case.net(case.x, noise, case.level)).sum().backward()
    state = {name: tensor.clone() for name, tensor in case.net.state_dict().items()}
    grads = {name: (p.grad, p.grad.clone(), p._version) for name, p in case.net.named_parameters()}
    draws = [tensor.clone() for site in noise or () for tensor in vars(site).values()]
    generators = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())

    shift, landscape, moments = measure(case, noise)

    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert np.array_equal(np.random.get_state()[1], generators[2])
    assert all(torch.equal(tensor, state[name]) for name, tensor in case.net.state_dict().items())
    for name, parameter in case.net.named_parameters():
        grad, copy, version = grads[name]
        assert parameter.grad is grad and torch.equal(grad, copy)
        assert parameter._version == version and parameter.requires_grad
    assert case.net.training
    after = [tensor for site in noise or () for tensor in vars(site).values()]
    assert all(torch.equal(a, b) for a, b in zip(draws, after, strict=True))
    assert not shift.l2.requires_grad and not landscape.losses.requires_grad
    assert (moments.mean_change == 0).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {**VGG, "norm": "noisy_batch"},
        {**VGG, "norm": "l1"},
        {**MLP, "norm": "batch"},
        {**DLN, "norm": "batch"},
    ],
    ids=lambda p: f"{p['model']}-{p['norm']}",
)
def test_training_is_bit_identical_with_and_without_probes(parameters):
    ends = []
    for probed in (False, True):
        case = Network(parameters)
        optimizer = torch.optim.SGD(case.net.parameters(), lr=0.01, momentum=0.9)
        for step in range(4):
            noise = case.noise(step)
            if probed:
                measure(case, noise)
            optimizer.zero_grad()
            case.loss(case.net(case.x, noise, case.level)).sum().backward()
            optimizer.step()
        ends.append((case.net.state_dict(), optimizer.state_dict()["state"]))
    (without, momentum), (with_probes, momentum_too) = ends
    assert all(torch.equal(tensor, with_probes[name]) for name, tensor in without.items())
    for index, buffers in momentum.items():
        assert torch.equal(buffers["momentum_buffer"], momentum_too[index]["momentum_buffer"])


@pytest.mark.parametrize("norm", ["batch", "noisy_batch", "l1", "layer", "none"])
def test_a_diverged_member_leaves_the_others(norm):
    readings = []
    for bad in (None, torch.nan):
        case = Network({**VGG, "norm": norm}, members=3)
        if bad is not None:
            with torch.no_grad():
                for parameter in case.net.parameters():
                    parameter.unflatten(0, (3, -1))[1] = bad
        readings.append(measure(case, case.noise(0)))
    (shift, landscape, _), (shift_too, landscape_too, _) = readings
    assert shift_too.l2[:, 1].isnan().any() and landscape_too.n_overflow[1] > 0
    for name in ("l2", "cosine", "relative"):
        assert torch.equal(getattr(shift, name)[:, ::2], getattr(shift_too, name)[:, ::2])
    for name in ("losses", "gradient_change", "beta"):
        assert torch.equal(getattr(landscape, name)[..., ::2], getattr(landscape_too, name)[..., ::2])


def test_noise_shifts_the_mean_of_a_normalized_site_by_a_third_on_average():
    parameters = {"model": "mlp", "depth": 1, "features": 2000, "norm": "noisy_batch"}
    case = Network(parameters, members=1)
    case.level = torch.ones(1, dtype=torch.float64)
    case.net.load_state_dict(
        {n: torch.zeros_like(t) for n, t in case.net.state_dict().items() if n.endswith("norm.bias")},
        strict=False,
    )
    moments = []
    for step in range(2):
        record = []
        with torch.no_grad():
            case.net(case.x, case.noise(step), case.level, record)
        moments.append(activation_moments(record, 1))
    # of E|mu - mu'| = 1/3, plus what 8 samples leave of the per-sample noise
    assert moment_change(*moments).mean_change[0].item() == pytest.approx(1 / 3, abs=0.04)
