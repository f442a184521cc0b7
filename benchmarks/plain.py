"""The quickstart's networks as Ray Tune's documentation would have you train them.

A function trainable, a DataLoader, one process a trial, ``tune.grid_search`` over the settings, and
Ray's own MLflow callback on SQLite. Written for comparison only; nothing of bnsweep is used.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

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


def network(width: float, name: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, size = 1, 8
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


def train(config: dict[str, Any]) -> None:
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16 * 2 - 1
    y = torch.tensor(digits.target)
    held_out = torch.arange(len(x)) % 5 == 0
    loader = DataLoader(TensorDataset(x[~held_out], y[~held_out]), 128, shuffle=True, drop_last=True)
    model = network(config["width"], config["norm"])
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    step = 0
    while step < config["steps"]:
        for images, labels in loader:
            model.train()
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % config["eval_every"] == 0:
                model.eval()
                with torch.no_grad():
                    accuracy = (model(x[held_out]).argmax(1) == y[held_out]).double().mean().item()
                tune.report({"train_loss": loss.item(), "test_accuracy": accuracy})
            if step == config["steps"]:
                break


def run(space: dict[str, Any], folder: Path, reuse_actors: bool) -> tuple[int, float]:
    """Train every point of ``space``; return the number of trials and the seconds of ``fit``."""
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/plain.db", experiment_name="plain")
        tuner = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(reuse_actors=reuse_actors),
            run_config=tune.RunConfig(storage_path=str(folder / "plain"), callbacks=[callback], verbose=0),
        )
        began = time.monotonic()
        results = tuner.fit()
        return len(results), time.monotonic() - began
    finally:
        ray.shutdown()
