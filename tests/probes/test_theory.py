"""The theorems of Section 4 against dense projectors and Hessians, and where they must not hold."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian

from bnsweep.probes import layer_theory, sampled_activations, theory_rows

M, D, UNITS = 7, 4, 3


def made(eps=1e-5, members=1, norm=None, seed=0, shape=()):
    """One layer, its norm, and a smooth loss behind it, for ``members`` independent members."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    x, weight, start = draw(M, D), draw(members * UNITS, D), draw(members * UNITS, D)
    gamma, beta, head = draw(members * UNITS), draw(members * UNITS), draw(members, 5, UNITS)
    target = draw(M, members, 5)

    def normalize(y):
        return torch.batch_norm(y, gamma, beta, None, None, True, 0.0, eps, False)

    def loss(z):
        h = torch.tanh(z.unflatten(1, (members, UNITS)))
        out = torch.einsum("nku,kou->nko", h, head)
        return ((out - target).square() + out.sin()).sum((0, 2))

    leaf = weight.clone().requires_grad_()
    y = x @ leaf.T
    z = (norm or normalize)(y)
    return SimpleNamespace(
        reading=layer_theory(loss(z), y, z, leaf, start, gamma, eps),
        x=x, weight=weight, start=start, gamma=gamma, eps=eps, loss=loss, normalize=normalize,
        y=y.detach(), z=z.detach(), members=members, leaf=leaf,
    )  # fmt: skip


ERRORS = ("gradient_error", "curvature_error", "undone_error", "scale_error")


@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_identities_hold_to_rounding(eps, seed):
    found = made(eps, seed=seed).reading
    for name in ERRORS:
        assert getattr(found, name).item() < 1e-13, name


def test_a_wrong_epsilon_is_noticed_by_every_theorem_that_has_one():
    case = made(0.5)
    y = case.x @ case.leaf.T
    z = case.normalize(y)
    found = layer_theory(case.loss(z), y, z, case.leaf, case.start, case.gamma, 0.4)
    for name in ("gradient_error", "curvature_error", "scale_error"):
        assert getattr(found, name).item() > 1e-3, name


def test_another_norm_breaks_them():
    found = made(norm=lambda y: (y - y.mean(0)) / y.abs().mean(0)).reading
    assert found.gradient_error.item() > 1e-3 and found.curvature_error.item() > 1e-3


def dense(case):
    """Gradients and projectors of each unit, from the definition."""
    z = case.z.clone().requires_grad_()
    (g,) = torch.autograd.grad(case.loss(z).sum(), z)
    y = case.y.clone().requires_grad_()
    (v,) = torch.autograd.grad(case.loss(case.normalize(y)).sum(), y)
    s = (case.y.var(0, correction=0) + case.eps).sqrt()
    hat = (case.y - case.y.mean(0)) / s
    return g, v, s, hat


def test_shares_and_ratios_agree_with_dense_projectors():
    case = made(0.0)
    g, v, s, hat = dense(case)
    ones = torch.ones(M, 1, dtype=torch.float64)
    removed = 0.0
    for j in range(UNITS):
        h = hat[:, j : j + 1]
        projector = torch.eye(M, dtype=torch.float64) - ones @ ones.T / M - h @ h.T / M
        torch.testing.assert_close(v[:, j], case.gamma[j] / s[j] * projector @ g[:, j])
        removed += (g[:, j] - projector @ g[:, j]).square().sum().item()
    found = case.reading
    assert found.gradient_removed.item() == pytest.approx(removed / g.square().sum().item())
    assert found.gradient_ratio.item() == pytest.approx((v.norm() / g.norm()).item())
    along = (g * hat).sum(0)
    assert found.curvature_condition.item() == pytest.approx((case.gamma * along >= 0).double().mean().item())
    printed = (case.gamma / s).square() * (
        g.square().sum(0) - g.sum(0).square() / M - along.square() / M**0.5
    )
    assert found.printed_violated.item() == (v.square().sum(0) > printed).double().mean().item() > 0


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_the_second_order_identity_agrees_with_dense_hessians(eps):
    case = made(eps)
    g, v, s, hat = dense(case)
    size = M * UNITS
    left_matrix = hessian(lambda y: case.loss(case.normalize(y)).sum(), case.y).reshape(size, size)
    right_matrix = hessian(lambda z: case.loss(z).sum(), case.z).reshape(size, size)
    left = v.flatten() @ left_matrix @ v.flatten()
    b = (hat * v).sum(0) / M
    turned = (v - v.mean(0) - b * hat) / s
    w = (case.gamma * turned).flatten()
    a2 = (v - v.mean(0)).square().sum(0)
    curved = 2 * b * (g * turned).sum(0) + (g * hat).sum(0) * (a2 - M * b.square()) / (M * s)
    torch.testing.assert_close(left, w @ right_matrix @ w - (case.gamma / s * curved).sum())
    if eps == 0:  # the paper's own form
        paper = (case.gamma / (M * s.square()) * (g * hat).sum(0) * v.square().sum(0)).sum()
        scaled = (case.gamma / s * v).flatten()
        torch.testing.assert_close(left, scaled @ right_matrix @ scaled - paper)
    assert case.reading.curvature_error.item() < 1e-13


def test_the_lemma_is_about_the_nearest_multiple_of_the_weights():
    case = made()
    w, w0 = case.weight.flatten(), case.start.flatten()
    k = (w @ w0) / (w @ w)
    saved = 1 - (w0 - k * w).square().sum() / (w0 - w).square().sum()
    assert case.reading.distance_saved.item() == pytest.approx(saved.item())
    assert case.reading.start_cosine.item() == pytest.approx((w @ w0 / w.norm() / w0.norm()).item())
    own = made()
    y = own.x @ own.leaf.T
    z = own.normalize(y)
    at_start = layer_theory(own.loss(z), y, z, own.leaf, own.weight, own.gamma, own.eps)
    assert at_start.start_cosine.item() == pytest.approx(1.0)
    assert at_start.distance_saved.isnan()


def test_the_radial_derivative_is_that_of_finite_differences():
    case = made(0.5)
    step = 1e-5

    def at(scale):
        return case.loss(case.normalize(case.x @ (scale * case.weight).T)).item()

    difference = (at(1 + step) - at(1 - step)) / (2 * step)
    g, _, s, hat = dense(case)
    expected = (case.gamma * (g * hat).sum(0) * case.eps / s.square()).sum().item()
    assert difference == pytest.approx(expected, rel=1e-6)
    assert abs(expected) > 0.1 and case.reading.scale_error.item() < 1e-13


def test_members_do_not_see_each_other():
    together = made(members=3)
    poisoned = together.weight.clone()
    poisoned[UNITS : 2 * UNITS] = torch.nan
    leaf = poisoned.requires_grad_()
    y = together.x @ leaf.T
    z = together.normalize(y)
    found = layer_theory(together.loss(z), y, z, leaf, together.start, together.gamma, together.eps)
    for name in vars(found):
        assert torch.equal(getattr(found, name)[::2], getattr(together.reading, name)[::2]), name


def test_what_does_not_fit_is_refused():
    case = made()
    y = case.x @ case.leaf.T
    z = case.normalize(y)
    with pytest.raises(ValueError, match="start must have the shape"):
        layer_theory(case.loss(z), y, z, case.leaf, case.start[:1], None, 0.0)
    leaf = case.weight.float().requires_grad_()
    y = case.x.float() @ leaf.T
    z = nn.functional.batch_norm(y, None, None, training=True)
    with pytest.raises(ValueError, match="must be float64"):
        layer_theory(z.sum(0)[:1], y, z, leaf, case.start.float(), None, 1e-5)


def test_the_networks_error_is_its_worst_layers():
    small, large = made().reading, made(norm=lambda y: y - y.mean(0)).reading
    rows = {(name, layer): value for name, layer, value in theory_rows([small, large], 0, [2, 5])}
    assert rows["theory/gradient_error", 0] == rows["theory/gradient_error", 5] > 0.1
    shares = [rows["theory/gradient_removed", layer] for layer in (2, 5)]
    assert rows["theory/gradient_removed", 0] == pytest.approx(sum(shares) / 2)


def test_sampled_activations_are_the_first_unit_of_each_member():
    values = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sampled_activations([values, values[:, :, 0, 0]], members=2)
    for member, unit in enumerate((0, 2)):
        own = values[:, unit].flatten()
        assert found.mean[0, member].item() == pytest.approx(own.mean().item())
        assert found.variance[0, member].item() == pytest.approx(own.var(correction=0).item())
        torch.testing.assert_close(
            found.quantiles[:, 0, member], own.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]).double())
        )
    with pytest.raises(ValueError, match=r"record must hold sites"):
        sampled_activations([values], members=3)
