"""The paper's cheap checks: the 25-layer linear network of Figure 3b and Figure 10, on the CPU.

The network is written here once more, for K members, and trained by plain gradient descent, so
that the probes are checked on a training that shares nothing with the package's own. Data and
targets are standard normal, the loss is half the sum of squares over 1000 samples, weights are
Glorot normal. Thresholds have a margin to what seeds 0 to 8 give, but for how soon batch normalization
turns erratic, which took two of nine seeds more than a hundred steps.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm

from bnsweep.probes import gradient_landscape, internal_covariate_shift, member_gradients, member_shift

DEPTH, WIDTH, SAMPLES = 25, 10, 1000
LAYERS = (9, 17)
STEP_SIZES = (0.01, 0.1, 1.0, 10.0, 31.6)


@dataclass(frozen=True)
class Layer:
    weight: str
    block: tuple[str, ...]


class DeepLinear:
    """K members, each with its own data, weights and learning rate."""

    def __init__(self, normalized: bool, seeds: list[int], lr: list[float]) -> None:
        self.normalized, self.members = normalized, len(seeds)
        self.lr = torch.tensor(lr, dtype=torch.float64)
        draws = [self._draw(seed) for seed in seeds]
        self.x, self.target = (torch.stack(t) for t in zip(*[d[:2] for d in draws], strict=True))
        self.params: dict[str, Tensor] = {}
        self.layers = []
        for i in range(1, DEPTH + 1):
            names = (f"w{i}", f"gamma{i}", f"beta{i}") if normalized else (f"w{i}",)
            self.params[f"w{i}"] = torch.cat([weights[i - 1] for *_, weights in draws])
            for name, value in zip(names[1:], (1.0, 0.0), strict=False):
                self.params[name] = torch.full((self.members * WIDTH,), value, dtype=torch.float64)
            self.layers.append(Layer(f"w{i}", names))

    def _draw(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
        x = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64)
        weights = torch.randn(DEPTH, WIDTH, WIDTH, generator=generator, dtype=torch.float64)
        return x, x @ matrix.T, weights * (2 / (WIDTH + WIDTH)) ** 0.5

    def loss(self, p: dict[str, Tensor]) -> Tensor:
        h = self.x
        for i in range(1, DEPTH + 1):
            h = h @ p[f"w{i}"].view(-1, WIDTH, WIDTH).mT
            if self.normalized:
                units = h.transpose(0, 1).flatten(1)
                units = batch_norm(units, None, None, p[f"gamma{i}"], p[f"beta{i}"], training=True)
                h = units.unflatten(1, (self.members, WIDTH)).transpose(0, 1)
        return (h - self.target).square().sum((1, 2)) / 2

    def train(self, steps: int, measured: set[int]) -> tuple[list, list]:
        """Descend, and return the shift and the landscape of the measured steps."""
        shifts, landscapes = [], []
        for step in range(steps):
            after = member_shift(self.params, member_gradients(self.loss, self.params)[1], self.lr)
            if step in measured:
                shifts.append(
                    internal_covariate_shift(self.loss, self.params, after, self.layers, LAYERS, self.members)
                )
                landscapes.append(
                    gradient_landscape(self.loss, self.params, self.lr, STEP_SIZES, self.members)
                )
            self.params = after
        return shifts, landscapes


@pytest.fixture(scope="module")
def normalized():
    """With batch normalization: two seeds at lr 1e-7, then at 1e-6; steps 80, 90 and 100."""
    return DeepLinear(True, [1, 2, 1, 2], [1e-7] * 2 + [1e-6] * 2).train(101, {80, 90, 100})


@pytest.fixture(scope="module")
def standard():
    """Without normalization: the same seeds at lr 1e-7."""
    return DeepLinear(False, [1, 2], [1e-7] * 2).train(61, {0, 5, 20, 40, 60})


def test_standard_network_has_almost_no_shift_at_a_small_learning_rate(standard):
    cosine = torch.stack([reading.cosine for reading in standard[0]])
    assert cosine.min() >= 0.99


def test_batch_normalized_network_shifts_a_lot_at_the_same_learning_rate(standard, normalized):
    readings = normalized[0]
    cosine = torch.stack([reading.cosine[:, :2] for reading in readings])
    assert cosine.amin((0, 1)).max() < 0.9
    assert cosine.min() < -0.5 and cosine.max() > 0.9
    shift = torch.stack([reading.l2[:, :2] for reading in readings]).median()
    assert shift > 30 * torch.stack([reading.l2 for reading in standard[0][1:]]).median()


def test_beta_times_lr_sits_at_the_edge_of_stability_with_batch_norm(normalized):
    beta_lr = torch.stack([reading.beta_lr[2:] for reading in normalized[1]])
    assert 1.7 < beta_lr.min() and beta_lr.max() < 3.0
    assert beta_lr.median().item() == pytest.approx(2.0, abs=0.15)
    assert all((reading.n_overflow == 0).all() for reading in normalized[1])


def test_short_steps_agree_on_the_curvature_in_float64_and_not_in_float32():
    net = DeepLinear(True, [1, 2], [1e-6] * 2)
    slopes = {}
    for dtype in (torch.float64, torch.float32):
        net.x, net.target = net.x.to(dtype), net.target.to(dtype)
        params = {name: tensor.to(dtype) for name, tensor in net.params.items()}
        sizes = torch.tensor([1e-8, 1e-4], dtype=torch.float64)
        reading = gradient_landscape(net.loss, params, net.lr, sizes.tolist(), 2)
        slopes[dtype] = reading.gradient_change / (sizes[:, None] * reading.gradient_norm)
    exact, single = slopes[torch.float64], slopes[torch.float32]
    torch.testing.assert_close(exact[0], exact[1], rtol=1e-3, atol=0)
    assert ((single[0] / exact[0] - 1).abs() > 0.5).all()  # lost in the rounding of the weights


def test_standard_network_overshoots_along_its_gradient_where_batch_norm_does_not():
    worst = []
    for batch_norm_on in (False, True):
        net = DeepLinear(batch_norm_on, [0, 1, 2], [1e-6] * 3)
        reading = gradient_landscape(net.loss, net.params, net.lr, STEP_SIZES, 3)
        worst.append((reading.loss_band[1] / reading.loss).max().item())
    assert worst[0] > 1000 and worst[1] < 2
