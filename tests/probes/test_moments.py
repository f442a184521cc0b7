"""Activation moments against NumPy, and the paper's noise as a known answer."""

import numpy as np
import pytest
import torch

from bnsweep.probes import activation_moments, moment_change


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    "shape", [(16, 6), (5, 12, 3, 4), (7, 6, 5)], ids=["linear", "convolution", "one space axis"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_moments_are_those_of_numpy(shape, dtype):
    values = 3 + 2 * normal(*shape, dtype=dtype)
    moments = activation_moments([values], members=3)
    columns = values.double().numpy().swapaxes(0, 1).reshape(shape[1], -1)
    np.testing.assert_allclose(moments.mean[0].numpy().ravel(), columns.mean(1), rtol=1e-13)
    np.testing.assert_allclose(moments.variance[0].numpy().ravel(), columns.var(1), rtol=1e-13)
    assert moments.mean[0].shape == (3, shape[1] // 3)
    assert moments.mean[0].dtype == torch.float64


def test_variance_of_a_large_mean_is_not_cancelled():
    values = 1e6 + normal(64, 4, dtype=torch.float32).round()
    expected = values.double().numpy().var(0)
    moments = activation_moments([values], members=1)
    np.testing.assert_allclose(moments.variance[0].numpy().ravel(), expected, rtol=1e-12)


def test_many_values_are_taken_in_parts_with_the_same_bits():
    values = normal(1025, 6, 32, 32, dtype=torch.float32)
    whole = activation_moments([values], members=2)
    for k in range(2):
        alone = activation_moments([values[:, 3 * k : 3 * k + 3].clone()], members=1)
        assert torch.equal(whole.mean[0][k], alone.mean[0][0])
        assert torch.equal(whole.variance[0][k], alone.variance[0][0])


def test_change_is_the_mean_over_the_units_of_each_member():
    before = [normal(8, 6, 2, 2, seed=1), normal(8, 4, seed=2)]
    after = [normal(8, 6, 2, 2, seed=3), normal(8, 4, seed=4)]
    reading = moment_change(activation_moments(before, 2), activation_moments(after, 2))
    assert reading.mean_change.shape == (2, 2)
    for site, (old, new) in enumerate(zip(before, after, strict=True)):
        axes = tuple(axis for axis in range(old.dim()) if axis != 1)
        for name, function in (("mean_change", np.mean), ("variance_change", np.var)):
            change = np.abs(function(new.numpy(), axis=axes) - function(old.numpy(), axis=axes))
            expected = change.reshape(2, -1).mean(1)
            np.testing.assert_allclose(getattr(reading, name)[site].numpy(), expected, rtol=1e-12)


def test_uniform_shifts_change_the_mean_by_a_third():
    # Algorithm 1 shifts every unit by mu ~ U(-1/2, 1/2) at each step: E|mu - mu'| = 1/3, at most 1
    generator = torch.Generator().manual_seed(0)
    units = 5000
    record = []
    for _ in range(2):
        mu = torch.rand(1, units, generator=generator, dtype=torch.float64) - 0.5
        record.append(mu + 0.2 * torch.rand(32, units, generator=generator, dtype=torch.float64) - 0.1)
    before, after = (activation_moments([values], 1) for values in record)
    assert moment_change(before, after).mean_change.item() == pytest.approx(1 / 3, abs=0.015)
    assert (after.mean[0] - before.mean[0]).abs().max() < 1.1


def test_a_diverged_member_leaves_the_others():
    clean = [normal(8, 6, 2, 2)]
    dirty = [clean[0].clone()]
    dirty[0][:, 2:4] = torch.nan
    one, two = activation_moments(clean, 3), activation_moments(dirty, 3)
    assert torch.equal(one.mean[0][::2], two.mean[0][::2])
    assert two.mean[0][1].isnan().all()
    change = moment_change(one, two)
    assert change.mean_change[0, ::2].tolist() == [0.0, 0.0]


def test_misuse_is_refused():
    with pytest.raises(ValueError, match=r"site 1 must have the shape \[N, 2 \* C"):
        activation_moments([torch.ones(4, 2), torch.ones(4, 3)], members=2)
    with pytest.raises(ValueError, match="hold values"):
        activation_moments([torch.ones(0, 2)], members=2)
    one = activation_moments([torch.ones(4, 2)], members=2)
    with pytest.raises(ValueError, match="same sites"):
        moment_change(one, activation_moments([torch.ones(4, 2)] * 2, members=2))
    with pytest.raises(ValueError, match="at least one"):
        moment_change(activation_moments([], 2), activation_moments([], 2))
