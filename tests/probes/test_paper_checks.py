"""The paper's cheap checks on the deep linear network: 25 layers of 10 x 10, half-sum loss.

The network is written here on purpose, for K members, so that the probes are checked against a
training loop that shares nothing with the package. Seeds are members.
"""

import pytest
import torch
from torch import Tensor

from bnsweep.probes import gradient_landscape, internal_covariate_shift, member_gradients

DEPTH, WIDTH, SAMPLES = 25, 10, 1000


class Block:
    def __init__(self, index: int, normalized: bool) -> None:
        self.weight = f"w{index}"
        self.block = (f"w{index}", f"gamma{index}", f"beta{index}") if normalized else (f"w{index}",)


def deep_linear(normalized: bool, seeds: list[int]):
    """Return parameters, the loss of every member, and the layers."""
    members = len(seeds)
    params: dict[str, Tensor] = {}
    inputs, targets, weights = [], [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
        x = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64)
        inputs.append(x)
        targets.append(x @ matrix.T)
        std = (2 / (WIDTH + WIDTH)) ** 0.5
        weights.append(torch.randn(DEPTH, WIDTH, WIDTH, generator=generator, dtype=torch.float64) * std)
    batch, target = torch.stack(inputs), torch.stack(targets)
    for layer in range(1, DEPTH + 1):
        params[f"w{layer}"] = torch.cat([member[layer - 1] for member in weights])
        if normalized:
            params[f"gamma{layer}"] = torch.ones(members * WIDTH, dtype=torch.float64)
            params[f"beta{layer}"] = torch.zeros(members * WIDTH, dtype=torch.float64)

    def loss_fn(p: dict[str, Tensor]) -> Tensor:
        h = batch
        for layer in range(1, DEPTH + 1):
            h = h @ p[f"w{layer}"].view(members, WIDTH, WIDTH).mT
            if normalized:
                mean, var = h.mean(1, keepdim=True), h.var(1, correction=0, keepdim=True)
                gamma, beta = (p[f"{n}{layer}"].view(members, 1, WIDTH) for n in ("gamma", "beta"))
                h = (h - mean) / (var + 1e-5).sqrt() * gamma + beta
        return (h - target).square().sum((1, 2)) / 2

    return params, loss_fn, [Block(layer, normalized) for layer in range(1, DEPTH + 1)]


def descend(params: dict[str, Tensor], loss_fn, lr: float) -> dict[str, Tensor]:
    _, gradients = member_gradients(loss_fn, params)
    return {name: tensor - lr * gradients[name] for name, tensor in params.items()}
