"""Small packs: a few members on a slice of the digits, on every network and norm."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bnsweep.data import Dataset, load_dataset
from bnsweep.training import PackTrainer, Row
from bnsweep.trial import TrialConfig

NETWORKS: dict[str, dict[str, object]] = {
    "vgg": {"model": "vgg11", "width": 0.0625, "activation": "gelu", "pool": "avg", "batch_size": 8},
    "vgg-relu-max": {"model": "vgg11", "width": 0.0625, "batch_size": 8},
    "mlp": {"model": "mlp", "depth": 2, "features": 16, "activation": "gelu", "batch_size": 8},
    "dln": {"model": "dln", "depth": 4, "features": 6},
}
LEARNING_RATES = (0.05, 0.01, 0.1, 0.02, 0.03)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread: these networks are far too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_trials(
    network: str, members: int = 3, *, probes: dict | None = None, **parameters: object
) -> list[TrialConfig]:
    """Make trials that differ in seed, lr and whatever is given as a list, one entry a member."""
    given = {"precision": "float64", "steps": 6, "eval_every": 4, "log_every": 2, **NETWORKS[network]}
    given |= {"groups": 2} if parameters.get("norm") == "group" else {}
    given |= parameters
    scale = 1e-4 if network == "dln" else 1.0
    trials = []
    for k in range(members):
        own = {"seed": k, "lr": scale * LEARNING_RATES[k % len(LEARNING_RATES)], **given}
        own = {name: value[k] if isinstance(value, list) else value for name, value in own.items()}
        trials.append(TrialConfig.create(own, probes))
    return trials


@cache
def whole_dataset(name: str, precision: str, features: int | None) -> Dataset:
    return load_dataset(name, {"features": features}, dtype=getattr(torch, precision))


def small_dataset(trial: TrialConfig, *, train: int = 40, test: int = 12, pixels: int = 8) -> Dataset:
    """Return the first samples of the trial's data set, enlarged to ``pixels`` if it holds images."""
    parameters = trial.parameters
    full = whole_dataset(parameters["dataset"], trial.tensor_dtype, parameters.get("features"))
    train_x, test_x = full.train_x[:train], full.test_x[:test]
    if train_x.dim() == 4:
        train_x, test_x = (
            x.repeat_interleave(pixels // 8, 2).repeat_interleave(pixels // 8, 3) for x in (train_x, test_x)
        )
    facts = replace(full.facts, size=pixels if train_x.dim() == 4 else 1, train=train, test=test)
    return Dataset(full.name, facts, train_x, full.train_y[:train], test_x, full.test_y[:test])


def make_trainer(trials: Sequence[TrialConfig]) -> PackTrainer:
    pixels = 32 if trials[0].parameters["norm"] == "instance" else 8
    return PackTrainer(trials, small_dataset(trials[0], pixels=pixels))


def train(trials: Sequence[TrialConfig], steps: int | None = None) -> tuple[PackTrainer, list[Row]]:
    """Train to the end, or for some steps; returns the trainer and its readings."""
    trainer = make_trainer(trials)
    while not trainer.finished and trainer.step_index != steps:
        trainer.step()
    return trainer, trainer.take_readings()


def member_state(trainer: PackTrainer, member: int) -> dict[str, torch.Tensor]:
    """Return copies of a member's weights, running statistics and optimizer state, by name."""
    row = trainer.members.index(member)
    content = trainer.state_dict()["stack"]
    tensors = dict(content["model"])
    for moment, values in content["optimizer"]["moments"].items():
        tensors |= {f"{moment} of {name}": value for name, value in values.items()}
    return {n: t.unflatten(0, (len(trainer.members), -1))[row] for n, t in tensors.items() if t.dim()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def readings_of(rows: Sequence[Row], member: int) -> list[tuple[int, str, int, str]]:
    """Return a member's readings without its position; NaN equals itself here."""
    own = (row for row in rows if row.member == member)
    return [(row.step, row.name, row.layer, row.value.hex()) for row in own]


CUSTOM_NORMS = """
import torch
from torch import nn


class Scaled(nn.Module):
    per_channel = True

    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.register_buffer("largest", torch.zeros(num_features))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        axes, shape = [0, *range(2, x.dim())], (-1,) + (1,) * (x.dim() - 2)
        size = 1 + x.abs().mean(axes) + 0.1 * self.largest  # the largest so far, without this batch
        if self.training:
            self.calls += 1
            self.largest.copy_(torch.maximum(self.largest, x.detach().abs().amax(axes)))
        return x * self.factor(x) * (self.weight / size).view(shape)

    def factor(self, x):
        return 1.0


class OfWidth(Scaled):
    def factor(self, x):
        return 1.0 + x.shape[1] / 1000


class OfMany(Scaled):
    def factor(self, x):
        return 1.0 if x.shape[1] < 48 else 1.5


class Whole(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.gain * x / (1 + x.abs().mean(tuple(range(1, x.dim())), keepdim=True))
"""


@pytest.fixture
def custom_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the norms above importable; returns the module's name."""
    (tmp_path / "norms_of_a_user.py").write_text(CUSTOM_NORMS)
    monkeypatch.syspath_prepend(tmp_path)
    return "norms_of_a_user"


@pytest.fixture
def packs() -> SimpleNamespace:
    tools: dict[str, Callable] = {
        tool.__name__: tool
        for tool in (make_trials, small_dataset, make_trainer, train, member_state, same, readings_of)
    }
    return SimpleNamespace(**tools)
