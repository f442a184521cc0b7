"""The landscape probe against quadratics, explicit loops, and cases that overflow."""

import math

import pytest
import torch
from torch import nn

from bnsweep.probes import gradient_landscape

SIZES = [0.01, 0.5, 1.0, 4.0]


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_quadratic_in_closed_form():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64)
    hessian = root @ root.mT
    w = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    lr = float64(0.1, 0.02, 0.005)
    reading = gradient_landscape(
        lambda p: torch.einsum("ki,kij,kj->k", p["w"], hessian, p["w"]) / 2, {"w": w}, lr, SIZES, 3
    )
    g = torch.einsum("kij,kj->ki", hessian, w)
    hg = torch.einsum("kij,kj->ki", hessian, g)
    beta = hg.norm(dim=1) / g.norm(dim=1)
    alpha = float64(*SIZES)[:, None] * lr
    close = {"rtol": 1e-11, "atol": 0}
    torch.testing.assert_close(reading.beta, beta, **close)
    torch.testing.assert_close(reading.beta_lr, beta * lr, **close)
    torch.testing.assert_close(reading.gradient_norm, g.norm(dim=1), **close)
    torch.testing.assert_close(reading.gradient_change, alpha * hg.norm(dim=1), **close)
    moved = w - alpha[..., None] * g
    losses = torch.einsum("ski,kij,skj->sk", moved, hessian, moved) / 2
    torch.testing.assert_close(reading.losses, losses, **close)
    torch.testing.assert_close(reading.loss, torch.einsum("ki,ki->k", w, g) / 2, **close)
    assert reading.n_overflow.tolist() == [0, 0, 0]


class Rosenbrock(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.xy = nn.Parameter(float64(*start))

    def forward(self):
        return (1 - self.xy[0]) ** 2 + 100 * (self.xy[1] - self.xy[0] ** 2) ** 2


def test_rosenbrock_by_explicit_loops():
    starts, lr = [(-1.0, 2.0), (0.3, -0.7)], float64(1e-3, 2e-4)

    def loss(p):
        x, y = p["xy"].view(2, 2).unbind(1)
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    reading = gradient_landscape(loss, {"xy": torch.cat([float64(*start) for start in starts])}, lr, SIZES, 2)
    for k, start in enumerate(starts):
        here = Rosenbrock(start)
        here().backward()
        g = here.xy.grad
        ratios = []
        for row, size in enumerate(SIZES):
            alpha = size * lr[k]
            there = Rosenbrock((here.xy - alpha * g).tolist())
            value = there()
            value.backward()
            change = (there.xy.grad - g).norm().item()
            ratios.append(change / (alpha * g.norm()).item())
            assert reading.losses[row, k].item() == pytest.approx(value.item(), rel=1e-12)
            assert reading.gradient_change[row, k].item() == pytest.approx(change, rel=1e-10)
        assert reading.beta[k].item() == pytest.approx(max(ratios), rel=1e-10)
        assert reading.argmax[k].item() == ratios.index(max(ratios))
        assert reading.beta_step[k].item() == SIZES[ratios.index(max(ratios))]


def test_network_by_modules_and_backward(conv_case):
    case = conv_case(3)
    noise = case.draw()
    reading = gradient_landscape(case.loss_fn(noise), case.params, case.lr, SIZES, 3)
    for k in range(3):
        loss, g = case.reference_gradient(case.params, k, noise)
        assert reading.loss[k].item() == pytest.approx(loss, rel=1e-12)
        norm = math.sqrt(sum(t.square().sum().item() for t in g.values()))
        ratios = []
        for row, size in enumerate(SIZES):
            moved = {n: t.clone() for n, t in case.params.items()}
            for name, tensor in moved.items():
                tensor.unflatten(0, (3, -1))[k] -= size * case.lr[k] * g[name]
            there, h = case.reference_gradient(moved, k, noise)
            change = math.sqrt(sum((h[n] - g[n]).square().sum().item() for n in g))
            ratios.append(change / (size * case.lr[k].item() * norm))
            assert reading.losses[row, k].item() == pytest.approx(there, rel=1e-10)
            assert reading.gradient_change[row, k].item() == pytest.approx(change, rel=1e-8)
        assert reading.gradient_norm[k].item() == pytest.approx(norm, rel=1e-10)
        assert reading.beta[k].item() == pytest.approx(max(ratios), rel=1e-8)


def test_resampled_noise_takes_a_new_draw_at_every_step_size(conv_case):
    case = conv_case(2)
    first, draws = case.draw(), [case.draw(), case.draw()]
    frozen = gradient_landscape(case.loss_fn(first), case.params, case.lr, [1e-6, 1e-6], 2)
    assert torch.equal(frozen.losses[0], frozen.losses[1])
    reading = gradient_landscape(
        case.loss_fn(first), case.params, case.lr, [1e-6, 1e-6], 2, lambda i: case.loss_fn(draws[i])
    )
    for k in range(2):
        _, g = case.reference_gradient(case.params, k, first)
        for row in range(2):
            # so short a step that the change is all due to the draw
            loss, h = case.reference_gradient(case.params, k, draws[row])
            change = math.sqrt(sum((h[n] - g[n]).square().sum().item() for n in g))
            assert reading.losses[row, k].item() == pytest.approx(loss, rel=1e-4)
            assert reading.gradient_change[row, k].item() == pytest.approx(change, rel=1e-4)
    assert (reading.gradient_change > 100 * frozen.gradient_change).all()


def test_beta_saturates_where_the_gradient_is_gone_after_the_smallest_step():
    reading = gradient_landscape(
        lambda p: torch.relu(p["w"]), {"w": float64(0.1)}, float64(1.0), [0.5, 1.0, 2.0], 1
    )  # fmt: skip
    assert reading.gradient_change.flatten().tolist() == [1.0, 1.0, 1.0]
    assert (reading.beta.item(), reading.argmax.item()) == (2.0, 0)


def test_overflow_is_counted_and_kept_out_of_the_bands():
    # exp(w^2) at 2 has the gradient 4 e^4 = 218: step 1 overflows, step 1e-3 does not
    reading = gradient_landscape(
        lambda p: p["w"].square().exp(), {"w": float64(2.0, 0.1)}, float64(1.0, 1.0), [1e-3, 1.0], 2
    )
    assert reading.n_overflow.tolist() == [2, 0]
    assert reading.losses[1, 0] == math.inf
    low, high = reading.loss_band
    assert low[0] == high[0] == reading.losses[0, 0]
    assert reading.gradient_change_band[1][0] == reading.gradient_change[0, 0]
    assert math.isfinite(reading.beta[0]) and reading.argmax[0] == 0
    assert reading.beta_step[0] == 1e-3


def test_nothing_finite_reads_infinite():
    reading = gradient_landscape(
        lambda p: p["w"].square().exp(), {"w": float64(2.0, 0.1)}, float64(1.0, 1.0), [1.0, 2.0], 2
    )
    assert reading.n_overflow.tolist() == [4, 0]
    assert [band[0].item() for band in reading.loss_band] == [math.inf, math.inf]
    assert reading.beta[0] == reading.beta_lr[0] == math.inf
    assert reading.argmax[0] == -1 and math.isnan(reading.beta_step[0])


def test_zero_gradient_has_no_smoothness():
    reading = gradient_landscape(lambda p: p["w"].square(), {"w": float64(0.0, 1.0)}, float64(1, 1), [1], 2)
    assert math.isnan(reading.beta[0]) and math.isnan(reading.beta_lr[0]) and reading.argmax[0] == -1
    assert reading.beta[1] == 2.0 and reading.n_overflow.tolist() == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300], ids=["nan", "inf", "overflow"])
def test_a_diverged_member_leaves_the_others(conv_case, bad):
    case = conv_case(3)
    clean = gradient_landscape(case.loss_fn(), case.params, case.lr, SIZES, 3)
    dirty_params = {n: t.clone() for n, t in case.params.items()}
    for tensor in dirty_params.values():
        tensor.unflatten(0, (3, -1))[1] = bad
    dirty = gradient_landscape(case.loss_fn(), dirty_params, case.lr, SIZES, 3)
    for name in ("loss", "losses", "gradient_norm", "gradient_change", "beta", "beta_lr"):
        assert torch.equal(getattr(clean, name)[..., ::2], getattr(dirty, name)[..., ::2])
    assert not torch.equal(clean.losses[:, 1], dirty.losses[:, 1])
    assert dirty.n_overflow[::2].tolist() == [0, 0]


def test_three_members_are_three_networks(conv_case):
    together = conv_case(3)
    all_three = gradient_landscape(together.loss_fn(), together.params, together.lr, SIZES, 3)
    for k in range(3):
        alone = conv_case(1, first_seed=k)
        one = gradient_landscape(alone.loss_fn(), alone.params, together.lr[k : k + 1], SIZES, 1)
        for name in ("losses", "gradient_change", "beta"):
            torch.testing.assert_close(
                getattr(all_three, name)[..., k : k + 1], getattr(one, name), rtol=1e-8, atol=1e-11
            )


@pytest.mark.parametrize(
    ("lr", "sizes", "message"),
    [
        (float64(0.1), [], "step_sizes"),
        (float64(0.1), [1.0, 0.0], "step_sizes"),
        (float64(0.1), [math.nan], "step_sizes"),
        (float64(0.1, 0.1), [1.0], "each of 1 members"),
        (float64(0.0), [1.0], "each of 1 members"),
    ],
    ids=["no sizes", "zero size", "nan size", "too many lr", "zero lr"],
)
def test_misuse_is_refused(lr, sizes, message):
    with pytest.raises(ValueError, match=message):
        gradient_landscape(lambda p: p["w"].square(), {"w": float64(1.0)}, lr, sizes, 1)
