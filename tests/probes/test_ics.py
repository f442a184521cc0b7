"""Internal covariate shift against a hand-written reference and against closed forms."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.linalg import vector_norm

from bnsweep.probes import internal_covariate_shift, member_gradients

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def flat(gradients, names):
    return torch.cat([gradients[name].flatten() for name in names])


def naive(case, k, i, names, noise=None, noise_after=None):
    """Definition 2.1 word by word: modules, deep copies, backward; returns l2, cosine, relative."""
    _, before = case.reference_gradient(case.params, k, noise)
    hybrid = dict(case.params)
    for layer in case.layers[: i - 1]:
        hybrid |= {name: case.after[name] for name in layer.block}
    _, after = case.reference_gradient(hybrid, k, noise_after or noise)
    g, h = flat(before, names), flat(after, names)
    difference = vector_norm(g - h).item()
    cosine = (g @ h / (vector_norm(g) * vector_norm(h))).item()
    return difference, cosine, difference / vector_norm(g).item()


@pytest.mark.parametrize("noisy", [False, True], ids=["batch norm", "noisy batch norm"])
@pytest.mark.parametrize("of", ["weight", "block"])
def test_agrees_with_modules_and_backward(conv_case, noisy, of):
    case = conv_case(3)
    noise = case.draw() if noisy else None
    reading = internal_covariate_shift(
        case.loss_fn(noise), case.params, case.after, case.layers, [1, 2, 3], 3, of=of
    )
    assert reading.layers == (1, 2, 3)
    for row, layer in enumerate(case.layers):
        names = [layer.weight] if of == "weight" else layer.block
        for k in range(3):
            expected = naive(case, k, row + 1, names, noise)
            found = [t[row, k].item() for t in (reading.l2, reading.cosine, reading.relative)]
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-11)


def test_only_earlier_layers_matter(conv_case):
    case = conv_case(2)
    loss = case.loss_fn()
    reading = internal_covariate_shift(loss, case.params, case.after, case.layers, [2], 2)
    later = {n: t + 1.0 if n[0] in "348" else t for n, t in case.after.items()}
    assert torch.equal(internal_covariate_shift(loss, case.params, later, case.layers, [2], 2).l2, reading.l2)
    norm_only = {n: t + 1.0 if n == "1.bias" else t for n, t in case.after.items()}
    moved = internal_covariate_shift(loss, case.params, norm_only, case.layers, [2], 2)
    assert (moved.l2 != reading.l2).all()


def test_measured_layers_keep_their_order_and_their_values(conv_case):
    case = conv_case(2)
    args = (case.loss_fn(), case.params, case.after, case.layers)
    every = internal_covariate_shift(*args, [1, 2, 3], 2)
    some = internal_covariate_shift(*args, [3, 2], 2)
    assert some.layers == (3, 2)
    assert torch.equal(some.l2, every.l2[[2, 1]])
    assert torch.equal(some.cosine, every.cosine[[2, 1]])


def test_no_update_is_no_shift_and_the_first_layer_never_shifts(conv_case):
    case = conv_case(2)
    noise = case.draw()
    still = internal_covariate_shift(case.loss_fn(noise), case.params, case.params, case.layers, [1, 2, 3], 2)
    assert (still.l2 == 0).all() and (still.cosine == 1).all() and (still.relative == 0).all()
    moved = internal_covariate_shift(case.loss_fn(noise), case.params, case.after, case.layers, [1, 2], 2)
    assert (moved.l2[0] == 0).all() and (moved.cosine[0] == 1).all()
    assert (moved.l2[1] > 0).all()


def test_resampled_noise_adds_what_redrawing_does(conv_case):
    case = conv_case(2)
    first, second = case.draw(), case.draw()
    reading = internal_covariate_shift(
        case.loss_fn(first), case.params, case.after, case.layers, [1, 3], 2, case.loss_fn(second)
    )
    for k in range(2):
        for row, i in enumerate((1, 3)):
            expected = naive(case, k, i, [case.layers[i - 1].weight], first, second)
            assert reading.l2[row, k].item() == pytest.approx(expected[0], rel=1e-9)
    assert (reading.l2[0] > 1e-3).all()


def test_closed_form_of_a_deep_linear_network():
    generator = torch.Generator().manual_seed(5)
    w = [torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    v = [m + 0.3 * torch.randn(4, 4, generator=generator, dtype=torch.float64) for m in w]
    x = torch.randn(4, 20, generator=generator, dtype=torch.float64)
    y = torch.randn(4, 20, generator=generator, dtype=torch.float64)
    reading = internal_covariate_shift(
        lambda p: (p["w3"] @ p["w2"] @ p["w1"] @ x - y).square().sum()[None] / 2,
        {f"w{i}": m for i, m in enumerate(w, 1)},
        {f"w{i}": m for i, m in enumerate(v, 1)},
        [SimpleNamespace(weight=f"w{i}", block=[f"w{i}"]) for i in (1, 2, 3)],
        [1, 2, 3],
        1,
    )
    # the derivative of |ABCx - y|^2 / 2 by B is A^T (ABCx - y) (Cx)^T
    second = w[2].T @ (w[2] @ w[1] @ w[0] @ x - y) @ (w[0] @ x).T
    second_new = w[2].T @ (w[2] @ w[1] @ v[0] @ x - y) @ (v[0] @ x).T
    third = (w[2] @ w[1] @ w[0] @ x - y) @ (w[1] @ w[0] @ x).T
    third_new = (w[2] @ v[1] @ v[0] @ x - y) @ (v[1] @ v[0] @ x).T
    expected = [0.0, vector_norm(second - second_new).item(), vector_norm(third - third_new).item()]
    assert reading.l2.flatten().tolist() == pytest.approx(expected, rel=1e-12)
    relative = [0.0, expected[1] / vector_norm(second).item(), expected[2] / vector_norm(third).item()]
    assert reading.relative.flatten().tolist() == pytest.approx(relative, rel=1e-12)


def pair(*w2_before):
    """L = (w1 w2)^2 / 2 for members that differ in w2; dL/dw2 = w1^2 w2."""
    before = {"w1": torch.ones(len(w2_before)), "w2": torch.tensor(w2_before)}
    after = {"w1": torch.full((len(w2_before),), 2.0), "w2": torch.zeros(len(w2_before))}
    layers = [SimpleNamespace(weight=name, block=[name]) for name in ("w1", "w2")]
    return before, after, layers


def test_zero_gradient_has_no_direction():
    before, after, layers = pair(0.0, 3.0)
    reading = internal_covariate_shift(
        lambda p: (p["w1"] * p["w2"]).square() / 2, before, after, layers, [2], 2
    )
    assert reading.l2.tolist() == [[0.0, 9.0]]
    assert math.isnan(reading.cosine[0, 0]) and math.isnan(reading.relative[0, 0])
    assert reading.cosine[0, 1] == 1.0 and reading.relative[0, 1] == 3.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30], ids=["nan", "inf", "overflow"])
def test_a_diverged_member_leaves_the_others(conv_case, bad):
    case = conv_case(3)
    loss = case.loss_fn()
    clean = internal_covariate_shift(loss, case.params, case.after, case.layers, [2, 3], 3)
    params, after = (
        {n: torch.where(torch.arange(len(t)).view(-1, *[1] * (t.dim() - 1)) // (len(t) // 3) == 1, bad, t)
         for n, t in tensors.items()}
        for tensors in (case.params, case.after)
    )  # fmt: skip
    dirty = internal_covariate_shift(loss, params, after, case.layers, [2, 3], 3)
    for name in ("l2", "cosine", "relative"):
        assert torch.equal(getattr(clean, name)[:, ::2], getattr(dirty, name)[:, ::2])
    assert not torch.equal(clean.l2[:, 1], dirty.l2[:, 1])


def test_three_members_are_three_networks(conv_case):
    together = conv_case(3)
    all_three = internal_covariate_shift(
        together.loss_fn(), together.params, together.after, together.layers, [2, 3], 3
    )
    for k in range(3):
        alone = conv_case(1, first_seed=k)
        one = internal_covariate_shift(alone.loss_fn(), alone.params, alone.after, alone.layers, [2, 3], 1)
        torch.testing.assert_close(all_three.l2[:, k : k + 1], one.l2, **CLOSE)
        torch.testing.assert_close(all_three.cosine[:, k : k + 1], one.cosine, **CLOSE)


def test_float32_is_measured_in_float32_and_reported_in_float64(conv_case):
    case = conv_case(2)
    exact = internal_covariate_shift(case.loss_fn(), case.params, case.after, case.layers, [3], 2)
    case.x = case.x.float()
    case.buffers = {n: b.float() for n, b in case.buffers.items()}
    params, after = ({n: t.float() for n, t in d.items()} for d in (case.params, case.after))
    single = internal_covariate_shift(case.loss_fn(), params, after, case.layers, [3], 2)
    assert member_gradients(case.loss_fn(), params)[1]["8.weight"].dtype == torch.float32
    assert single.l2.dtype == torch.float64
    torch.testing.assert_close(single.l2, exact.l2, rtol=1e-4, atol=0)


def test_misuse_is_refused():
    before, after, layers = pair(1.0)

    def loss(p):
        return p["w1"] * p["w2"]

    with pytest.raises(ValueError, match="layers from 1 to 2"):
        internal_covariate_shift(loss, before, after, layers, [0], 1)
    with pytest.raises(ValueError, match="layers from 1 to 2"):
        internal_covariate_shift(loss, before, after, layers, [], 1)
    with pytest.raises(ValueError, match="same parameters"):
        internal_covariate_shift(loss, before, {"w1": after["w1"]}, layers, [1], 1)
    with pytest.raises(ValueError, match="exactly one layer"):
        internal_covariate_shift(loss, before, after, layers[:1], [1], 1)
