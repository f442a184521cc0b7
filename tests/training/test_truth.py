"""A pack of one against torch.nn, torch.optim and a plain training loop."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnsweep.data import batch_indices
from bnsweep.norms import draw_noise

CASES = {
    "vgg-batch-momentum": ("vgg", "batch", {"momentum": 0.9}),
    "vgg-none-adam": ("vgg", "none", {"optimizer": "adam", "lr": 0.003}),
    "vgg-noisy": ("vgg", "noisy_batch", {"noise": 1.5}),
    "vgg-relu-max-nesterov-decay-all": (
        "vgg-relu-max",
        "batch",
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01, "weight_decay_on": "all"},
    ),
    "vgg-group-loss-decay": ("vgg", "group", {"groups": 2, "weight_decay": 0.02, "weight_decay_as": "loss"}),
    "mlp-layer-adamw": ("mlp", "layer", {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1}),
    "mlp-batch-loss-decay-all": (
        "mlp",
        "batch",
        {"weight_decay": 0.05, "weight_decay_as": "loss", "weight_decay_on": "all"},
    ),
    "mlp-noisy-evaluation": ("mlp", "noisy_none", {"noise_at_eval": True}),
    "mlp-epochs": ("mlp", "none", {"batch_size": 16, "lr": 0.2}),
    "dln-none": ("dln", "none", {"lr": 1e-4}),
    "dln-batch": ("dln", "batch", {"lr": 1e-4, "momentum": 0.5}),
}
STEPS = 10


class Noise(nn.Module):
    """Algorithm 1 with given draws, written out as the protocol has it."""

    def __init__(self, level):
        super().__init__()
        self.level, self.draws = level, None

    def forward(self, x):
        if self.draws is None:
            return x
        mean = 0.5 * self.level * (2 * self.draws.mu - 1)
        scale = 1 + 0.25 * self.level * self.draws.sigma
        reach = 0.1 * self.level
        shift = mean - reach + 2 * reach * self.draws.shift
        return (scale + reach * self.draws.scale) * x + shift


def norm_layers(norm, channels, dim, level):
    if norm in ("batch", "noisy_batch"):
        layers = [nn.BatchNorm2d(channels) if dim == 4 else nn.BatchNorm1d(channels)]
    elif norm in ("layer", "group"):
        layers = [nn.GroupNorm(1 if norm == "layer" else 2, channels)]
    else:
        layers = []
    return layers + ([Noise(level)] if norm.startswith("noisy") else [])


def reference_net(network, norm, level=0.0):
    bias = norm not in ("batch", "noisy_batch")
    layers, inputs = [], 1
    if network.startswith("vgg"):
        pixels = 8
        activation = nn.GELU() if network == "vgg" else nn.ReLU()
        pool = nn.AvgPool2d(2) if network == "vgg" else nn.MaxPool2d(2)
        for stage, count in zip((4, 8, 16, 32, 32), (1, 1, 2, 2, 2), strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, stage, 3, padding=1, bias=bias)]
                layers += [*norm_layers(norm, stage, 4, level), activation]
                inputs = stage
            layers += [pool] if pixels > 1 else []
            pixels //= 2
        hidden = [(32, 32), (32, 32)]
    elif network == "mlp":
        activation, hidden = nn.GELU(), [(64, 16), (16, 16)]
    else:
        layers = [
            module
            for _ in range(4)
            for module in (nn.Linear(6, 6, bias=False), *norm_layers(norm, 6, 2, level))
        ]
        return nn.Sequential(*layers).double()
    layers += [nn.Flatten()]
    for inputs, outputs in hidden:
        layers += [nn.Linear(inputs, outputs, bias=bias), *norm_layers(norm, outputs, 2, level), activation]
    return nn.Sequential(*layers, nn.Linear(hidden[-1][1], 10)).double()


def reference_optimizer(net, p):
    everything, weights = list(net.parameters()), [w for w in net.parameters() if w.dim() > 1]
    decayed = everything if p["weight_decay_on"] == "all" else weights
    decay = 0.0 if p["weight_decay_as"] == "loss" else p["weight_decay"]
    kept = {id(parameter) for parameter in decayed}
    groups = [
        {"params": decayed, "weight_decay": decay},
        {"params": [w for w in everything if id(w) not in kept], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if p["optimizer"] == "sgd":
        return decayed, torch.optim.SGD(groups, p["lr"], p["momentum"], nesterov=p["nesterov"])
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[p["optimizer"]]
    return decayed, kind(groups, p["lr"], (p["beta1"], p["beta2"]), p["adam_eps"])


class Reference:
    """The plain loop: a module, an optimizer, and readings by step and name."""

    def __init__(self, net, trial, dataset):
        self.net, self.p, self.seed, self.data = net, trial.parameters, trial.seed, dataset
        self.noises = [module for module in net if isinstance(module, Noise)]
        self.decayed, self.optimizer = reference_optimizer(net, self.p)
        self.readings = {}

    def set_noise(self, x, step, purpose="noise"):
        shapes = []
        for noise in self.noises:
            noise.draws = None
        hooks = [n.register_forward_hook(lambda m, i, o: shapes.append(o.shape[1:])) for n in self.noises]
        with torch.no_grad():
            self.net.eval()(x)
        for hook in hooks:
            hook.remove()
        draws = draw_noise(shapes, len(x), [self.seed], step, dtype=torch.float64, purpose=purpose)
        for noise, draw in zip(self.noises, draws, strict=True):
            noise.draws = draw

    def loss(self, outputs, y):
        if y.dtype.is_floating_point:
            return 0.5 * F.mse_loss(outputs, y, reduction="sum")
        return F.cross_entropy(outputs, y)

    def note(self, step, split, outputs, y, loss):
        self.readings[step, f"{split}_loss"] = loss.item()
        if not y.dtype.is_floating_point:
            self.readings[step, f"{split}_accuracy"] = (outputs.argmax(1) == y).double().mean().item()

    @torch.no_grad()
    def evaluate(self, step):
        x, y = self.data.test_x, self.data.test_y
        for noise in self.noises:
            noise.draws = None
        if self.p.get("noise_at_eval"):
            self.set_noise(x, step, "evaluation 0")
        outputs = self.net.eval()(x)
        self.note(step, "test", outputs, y, self.loss(outputs, y))

    def step(self, step):
        size = self.p["batch_size"]
        n = len(self.data.train_x)
        index = batch_indices(self.seed, step, n, n if size == "full" else size)
        x, y = self.data.train_x[index], self.data.train_y[index]
        if self.noises:
            self.set_noise(x, step)
        outputs = self.net.train()(x)
        loss = self.loss(outputs, y)
        if self.p["weight_decay_as"] == "loss":
            loss = loss + self.p["weight_decay"] / 2 * sum(w.square().sum() for w in self.decayed)
        if step % 3 == 0 or step == STEPS - 1:
            self.note(step, "train", outputs, y, loss)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


@pytest.mark.parametrize("case", CASES)
def test_equal_to_a_plain_loop(packs, case):
    network, norm, settings = CASES[case]
    settings = {"batch_size": "full" if network == "dln" else 20} | settings
    trial = packs.make_trials(network, 1, norm=norm, steps=STEPS, eval_every=5, log_every=3, **settings)[0]
    trainer = packs.make_trainer([trial])
    reference = Reference(
        reference_net(network, norm, trial.parameters.get("noise", 0.0)), trial, trainer.dataset
    )
    start = packs.member_state(trainer, 0)
    names = [name for name in start if "running" not in name and " of " not in name]
    with torch.no_grad():
        for name, target in zip(names, reference.net.parameters(), strict=True):
            target.copy_(start[name])
    for step in range(STEPS):
        if step % 5 == 0:
            reference.evaluate(step)
        reference.step(step)
        trainer.step()
    reference.evaluate(STEPS)

    end = packs.member_state(trainer, 0)
    expected = [parameter.detach() for parameter in reference.net.parameters()]
    rounding = (
        1e-11 * torch.cat([value.flatten() for value in expected]).norm()
    )  # of what is added up, not of sums
    for name, value in zip(names, expected, strict=True):
        assert (end[name] - value).norm() <= rounding
        assert not torch.equal(end[name], start[name])
    readings = {(row.step, row.name): row.value for row in trainer.take_readings()}
    assert readings == pytest.approx(reference.readings, rel=1e-10)
