"""The benchmarks' networks as the documentation of Ray Tune, or of Optuna, would have you train them.

Ray Tune: a function trainable, a DataLoader, one process a trial, ``tune.grid_search`` over the
settings, and Ray's own MLflow callback on SQLite. Optuna: one process a core that shares a study and its
grid through a journal file, without MLflow. Written for comparison only; nothing of bnsweep is used.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import ray
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.workloads import enlarged_digits

CHANNELS = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class L1Norm(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("size", torch.ones(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        if self.training:
            mean, size = x.mean(axes), x.abs().mean(axes)
            self.mean.lerp_(mean.detach(), 0.1)
            self.size.lerp_(size.detach(), 0.1)
        else:
            mean, size = self.mean, self.size
        y = (x - mean.view(shape)) / (size.view(shape) + 1e-5)
        return y * self.weight.view(shape) + self.bias.view(shape)


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        shape = [1, x.shape[1]] + [1] * (x.dim() - 2)
        mu, sigma = torch.rand(shape) - 0.5, 1 + 0.25 * torch.rand(shape)
        shift = mu + 0.1 * (2 * torch.rand_like(x) - 1)
        return x * (sigma + 0.1 * torch.randn_like(x)) + shift


def norm(name: str, features: int, flat: bool) -> list[nn.Module]:
    batch = nn.BatchNorm1d(features) if flat else nn.BatchNorm2d(features)
    return {"none": [], "batch": [batch], "noisy_batch": [batch, Noise()], "l1": [L1Norm(features)]}[name]


def vgg(width: float, name: str, channels: int, size: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for item in CHANNELS:
        if item == "M":
            if size > 1:
                layers.append(nn.MaxPool2d(2))
                size //= 2
            continue
        out = round(int(item) * width)
        layers += [nn.Conv2d(channels, out, 3, padding=1), *norm(name, out, False), nn.ReLU()]
        channels = out
    layers.append(nn.Flatten())
    for _ in range(2):
        layers += [nn.Linear(channels, channels), *norm(name, channels, True), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(channels, 10))


def dln(depth: int, features: int, name: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(features, features, bias=False), *norm(name, features, True)]
    return nn.Sequential(*layers)


def images(config: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = enlarged_digits(config.get("size", 8), config.get("channels", 1))
    return x * 2 - 1, y


def train(config: dict[str, Any], report: Callable[[dict[str, float]], None]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    if config["model"] == "dln":
        train_dln(config, report)
        return
    x, y = images(config)
    held_out = torch.arange(len(x)) % 5 == 0
    loader = DataLoader(
        TensorDataset(x[~held_out], y[~held_out]), config["batch_size"], shuffle=True, drop_last=True
    )
    model = vgg(config["width"], config["norm"], x.shape[1], x.shape[2])
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    step = 0
    while step < config["steps"]:
        for batch, labels in loader:
            model.train()
            loss = nn.functional.cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % config["eval_every"] == 0:
                model.eval()
                with torch.no_grad():
                    accuracy = (model(x[held_out]).argmax(1) == y[held_out]).double().mean().item()
                report({"train_loss": loss.item(), "test_accuracy": accuracy})
            if step == config["steps"]:
                break


def train_dln(config: dict[str, Any], report: Callable[[dict[str, float]], None]) -> None:
    features = config["features"]
    x, target = torch.randn(2000, features), torch.randn(features, features) / features**0.5
    y = x @ target.T
    model = dln(config["depth"], features, config["norm"])
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    for step in range(1, config["steps"] + 1):
        model.train()
        loss = 0.5 * (model(x[:1000]) - y[:1000]).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % config["eval_every"] == 0:
            model.eval()
            with torch.no_grad():
                test = 0.5 * (model(x[1000:]) - y[1000:]).square().sum()
            report({"train_loss": loss.item(), "test_loss": test.item()})


def trainable(config: dict[str, Any]) -> None:
    train(config, tune.report)


def run(space: dict[str, list[Any]], folder: Path, reuse_actors: bool) -> tuple[int, float]:
    """Train every point of ``space`` with Ray Tune; return trials and the seconds of ``fit``."""
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/plain.db", experiment_name="plain")
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={name: tune.grid_search(values) for name, values in space.items()},
            tune_config=tune.TuneConfig(reuse_actors=reuse_actors),
            run_config=tune.RunConfig(storage_path=str(folder / "plain"), callbacks=[callback], verbose=0),
        )
        began = time.monotonic()
        results = tuner.fit()
        return len(results), time.monotonic() - began
    finally:
        ray.shutdown()


def run_optuna(space: dict[str, list[Any]], folder: Path) -> tuple[int, float]:
    """Train every point of ``space`` with Optuna, one process a core; return trials and seconds."""
    journal = str(folder / "optuna.log")
    began = time.monotonic()
    study(space, journal)
    context = multiprocessing.get_context("spawn")
    count = os.cpu_count() or 1
    workers = [context.Process(target=optimize, args=(space, journal)) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - began
    done = {
        tuple(sorted(trial.params.items()))
        for trial in study(space, journal).trials
        if trial.value is not None
    }
    return len(done), seconds


def study(space: dict[str, list[Any]], journal: str) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(journal))
    sampler = optuna.samplers.GridSampler({name: list(values) for name, values in space.items()}, seed=0)
    return optuna.create_study(study_name="plain", storage=storage, sampler=sampler, load_if_exists=True)


def optimize(space: dict[str, list[Any]], journal: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        last: list[float] = [0.0]
        config = {name: trial.suggest_categorical(name, list(values)) for name, values in space.items()}
        train(config, lambda metrics: last.append(metrics["train_loss"]))
        return last[-1] if last[-1] == last[-1] else float("inf")

    study(space, journal).optimize(objective)
