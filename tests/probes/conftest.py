"""A small convolutional network for K members, and its members again as torch.nn modules."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 4
LAYERS = (("0", "1"), ("3", "4"), ("8",))
"""Module names of each weight layer and of its norm, in the reference."""


class FixedNoise(nn.Module):
    """Scale and shift by given draws, where a reference needs noise."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x if self.draws is None else x * self.draws[0] + self.draws[1]


def reference_net(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(2, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS),
            nn.GELU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS),
            FixedNoise(),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(CHANNELS * 36, 3),
        ).double()
        for name, parameter in net.named_parameters():
            if name.startswith(("1.", "4.")):
                nn.init.normal_(parameter, mean=1.0, std=0.3)
    return net


@dataclass(frozen=True)
class Layer:
    weight: str
    block: tuple[str, ...]


class ConvCase:
    """K members: their modules, and the same networks stacked."""

    def __init__(self, members: int, first_seed: int = 0) -> None:
        self.members = members
        self.nets = [reference_net(first_seed + k) for k in range(members)]
        self.generators = [torch.Generator().manual_seed(100 + first_seed + k) for k in range(members)]
        self.x = torch.stack([self._normal(k, 8, 2, 6, 6) for k in range(members)])
        self.y = torch.stack([torch.randint(3, (8,), generator=g) for g in self.generators])
        self.params = self._stack(dict(n.named_parameters()) for n in self.nets)
        self.buffers = self._stack(
            {m: b for m, b in n.named_buffers() if not m.endswith("tracked")} for n in self.nets
        )
        self.after = {name: self._moved(tensor) for name, tensor in self.params.items()}
        self.lr = torch.tensor([0.05 * (k + 1) for k in range(members)], dtype=torch.float64)
        names = [tuple(n for n in self.params if n.split(".")[0] in modules) for modules in LAYERS]
        self.layers = [Layer(f"{m[0]}.weight", block) for m, block in zip(LAYERS, names, strict=True)]

    def _normal(self, k: int, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generators[k], dtype=torch.float64)

    def _stack(self, dictionaries) -> dict[str, Tensor]:
        dictionaries = list(dictionaries)
        return {n: torch.cat([d[n].detach() for d in dictionaries]) for n in dictionaries[0]}

    def _moved(self, tensor: Tensor) -> Tensor:
        shape = (tensor.shape[0] // self.members, *tensor.shape[1:])
        return tensor + 0.1 * torch.cat([self._normal(k, *shape) for k in range(self.members)])

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw a scale and a shift for the second norm, ``[N, K*C, H, W]`` each."""
        draws = [
            (self._normal(k, 8, CHANNELS, 6, 6), self._normal(k, 8, CHANNELS, 6, 6))
            for k in range(self.members)
        ]
        return torch.cat([1 + 0.3 * s for s, _ in draws], 1), torch.cat([m for _, m in draws], 1)

    def member(self, tensors: dict[str, Tensor], k: int) -> dict[str, Tensor]:
        return {name: tensor.unflatten(0, (self.members, -1))[k] for name, tensor in tensors.items()}

    def loss_fn(self, noise: tuple[Tensor, Tensor] | None = None) -> Callable[[dict[str, Tensor]], Tensor]:
        """Return the stacked loss: train mode, batch statistics, clones of the buffers."""

        def loss(p: dict[str, Tensor]) -> Tensor:
            buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
            h = self.x.transpose(0, 1).flatten(1, 2)
            for conv, norm in LAYERS[:2]:
                h = F.conv2d(h, p[f"{conv}.weight"], p[f"{conv}.bias"], padding=1, groups=self.members)
                running = (buffers[f"{norm}.running_mean"], buffers[f"{norm}.running_var"])
                h = F.batch_norm(h, *running, p[f"{norm}.weight"], p[f"{norm}.bias"], training=True)
                if norm == "4" and noise is not None:
                    h = h * noise[0] + noise[1]
                h = F.gelu(h)
            h = h.unflatten(1, (self.members, CHANNELS)).transpose(0, 1).flatten(2)
            weight = p["8.weight"].unflatten(0, (self.members, 3))
            out = torch.baddbmm(p["8.bias"].view(self.members, 1, 3), h, weight.mT)
            losses = F.cross_entropy(out.flatten(0, 1), self.y.flatten(), reduction="none")
            return losses.view(self.members, -1).mean(1)

        return loss

    def reference_gradient(
        self, params: dict[str, Tensor], k: int, noise: tuple[Tensor, Tensor] | None = None
    ) -> tuple[float, dict[str, Tensor]]:
        """Return member k's loss and gradient by the plain way: a module, backward, ``.grad``."""
        net = deepcopy(self.nets[k]).train()
        net.load_state_dict(self.member(params, k), strict=False)
        if noise is not None:
            net[5].draws = tuple(t.unflatten(1, (self.members, CHANNELS))[:, k] for t in noise)
        loss = F.cross_entropy(net(self.x[k]), self.y[k])
        loss.backward()
        return loss.item(), {name: p.grad for name, p in net.named_parameters()}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread: these networks are far too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def conv_case() -> Callable[..., ConvCase]:
    return ConvCase
