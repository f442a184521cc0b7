"""The noise of Algorithm 1: its moments, its independence, and that level 0 is nothing."""

import math
from itertools import pairwise

import pytest
import torch

from bnsweep.norms import apply_noise, draw_noise

F64 = torch.float64


def draw(shapes=((50, 8, 8),), batch=50, seeds=(0,), step=0, **options):
    return draw_noise(list(shapes), batch, list(seeds), step, dtype=F64, **options)


def apply(x, site, level=1.0, sigma_is="std"):
    return apply_noise(x, site, torch.tensor([level], dtype=F64), sigma_is)


def shift_and_scale(site, level=1.0, sigma_is="std"):
    """The shift m is what becomes of 0, the scale s what 1 gains over it."""
    shift = apply(torch.zeros_like(site.shift), site, level, sigma_is)
    return shift, apply(torch.ones_like(site.shift), site, level, sigma_is) - shift


@pytest.mark.parametrize("level", [1.0, 0.5], ids=["paper", "half"])
def test_moments_over_units(level):
    # 40 000 units, one value each: standard errors are about 0.15 % of the bounds
    site = draw(shapes=[(40_000,)], batch=2)[0]
    shift, scale = shift_and_scale(site, level)
    unit_mean, unit_scale = (2 * site.mu - 1) * 0.5 * level, 1 + 0.25 * level * site.sigma
    n_mu, r = 0.5 * level, 0.1 * level
    assert unit_mean.square().mean().item() == pytest.approx(n_mu**2 / 3, rel=0.02)
    assert unit_scale.mean().item() == pytest.approx(1 + 0.125 * level, rel=0.002)
    assert (shift - unit_mean).abs().max().item() <= r
    assert (shift - unit_mean).var().item() == pytest.approx(r**2 / 3, rel=0.02)
    assert (scale - unit_scale).mean().item() == pytest.approx(0, abs=0.002)
    assert (scale - unit_scale).std().item() == pytest.approx(r, rel=0.02)


def test_mean_and_variance_of_a_noisy_unit():
    # mean mu_j and variance sigma_j^2 + r_sigma^2 + r_mu^2 / 3, for an input of mean 0 and variance 1
    site = draw(shapes=[(4, 100, 100)], batch=50)[0]  # 500 000 values a unit
    x = torch.randn(site.scale.shape, generator=torch.Generator().manual_seed(9), dtype=F64)
    y = apply(x, site).transpose(0, 1).flatten(1)
    mu, sigma = (2 * site.mu.flatten() - 1) * 0.5, 1 + 0.25 * site.sigma.flatten()
    torch.testing.assert_close(y.mean(1), mu, rtol=0, atol=0.008)  # 5 standard errors
    torch.testing.assert_close(y.var(1), sigma**2 + 0.1**2 + 0.1**2 / 3, rtol=0.012, atol=0)


def test_consecutive_steps_differ_by_a_third_on_average():
    steps = [draw(shapes=[(400,)], batch=1, step=step)[0].mu - 0.5 for step in range(60)]
    gaps = torch.cat([(a - b).abs() for a, b in pairwise(steps)])
    assert gaps.mean().item() == pytest.approx(1 / 3, rel=0.02)
    assert gaps.max().item() == pytest.approx(1, abs=0.05)
    assert gaps.max().item() < 1


def test_variance_option_spreads_wider():
    site = draw(shapes=[(2000,)], batch=50)[0]
    spread = {}
    for sigma_is in ("std", "variance"):
        _, scale = shift_and_scale(site, 1.0, sigma_is)
        spread[sigma_is] = (scale - 1 - 0.25 * site.sigma).std().item()
    assert spread["std"] == pytest.approx(0.1, rel=0.02)
    assert spread["variance"] == pytest.approx(math.sqrt(0.1), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sigma_is", ["std", "variance"])
@pytest.mark.parametrize("shape", [(6, 3, 3), (6,), (6, 1, 1)], ids=["conv", "linear", "one_pixel"])
def test_level_0_is_the_identity_to_the_bit(dtype, sigma_is, shape):
    site = draw_noise([shape], 5, [1, 2], 0, dtype=dtype)[0]
    x = torch.randn(site.shift.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x = (x * 1e4).requires_grad_()
    y = apply_noise(x, site, torch.zeros(2), sigma_is)
    y.backward(torch.full_like(y, 1.1))
    assert torch.equal(y, x)
    assert torch.equal(x.grad, torch.full_like(y, 1.1))


def test_each_member_has_its_own_level():
    site = draw(shapes=[(3, 2, 2)], batch=4, seeds=(7, 8))[0]
    x = torch.randn(4, 6, 2, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = apply_noise(x, site, torch.tensor([0.0, 1.0], dtype=F64))
    assert torch.equal(y[:, :3], x[:, :3])
    assert (y[:, 3:] != x[:, 3:]).all()


def test_the_gradient_goes_through_the_scale():
    site = draw(shapes=[(3, 2, 2)], batch=4)[0]
    x = torch.zeros(4, 3, 2, 2, dtype=F64, requires_grad=True)
    apply(x, site).sum().backward()
    torch.testing.assert_close(x.grad, shift_and_scale(site)[1], rtol=1e-12, atol=1e-12)


def test_draws_do_not_depend_on_the_stack_or_the_place_in_it():
    shapes, fields = [(3, 2, 2), (5,), (4, 1, 1)], ("mu", "sigma", "shift", "scale")
    alone = draw(shapes, 4, [8])
    among = draw(shapes, 4, [6, 7, 8, 9])
    for one, four, shape in zip(alone, among, shapes, strict=True):
        part = slice(2 * shape[0], 3 * shape[0])
        assert all(torch.equal(getattr(one, f), getattr(four, f)[:, part]) for f in fields)
        assert not torch.equal(one.shift, four.shift[:, : shape[0]])


@pytest.mark.parametrize(
    "change",
    [{"seeds": (1,)}, {"step": 1}, {"purpose": "evaluation"}],
    ids=["seed", "step", "purpose"],
)
def test_draws_are_those_of_seed_step_and_purpose(change):
    first, again, other = draw(batch=2)[0], draw(batch=2)[0], draw(batch=2, **change)[0]
    assert torch.equal(first.scale, again.scale)
    assert not torch.equal(first.scale, other.scale)
    assert not torch.equal(first.mu, other.mu)


def test_sites_and_fields_share_no_draws():
    one, two = draw(shapes=[(40, 3, 3), (40, 3, 3)], batch=10)
    values = [t.flatten() for t in (one.mu, one.sigma, one.shift, two.mu, two.sigma, two.shift)]
    assert torch.cat(values).unique().numel() == sum(len(v) for v in values)
    assert not torch.equal(one.scale, two.scale)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draw()
    assert torch.equal(torch.get_rng_state(), before)


def test_sigma_is_one_of_two():
    with pytest.raises(ValueError, match="std or variance, but found 'sd'"):
        apply(torch.zeros(50, 50, 8, 8, dtype=F64), draw()[0], 1.0, "sd")
