"""Crops and flips against a slow reference that handles one sample at a time."""

import numpy as np
import pytest
import torch

from bnsweep.data import crop_padding, draw_flip_crop, flip_crop

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def reference(x, draws, padding):
    result = np.zeros_like(x)
    size = x.shape[-1]
    for i, (top, left, flip) in enumerate(draws.tolist()):
        padded = np.pad(x[i], [(0, 0), (padding, padding), (padding, padding)])
        crop = padded[:, top : top + size, left : left + size]
        result[i] = crop[:, :, ::-1] if flip else crop
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("size", "channels", "padding"),
    [(8, 1, 1), (28, 1, 4), (32, 3, 4), (5, 2, 1)],
)
def test_batch_equals_one_sample_at_a_time(size, channels, padding, dtype, device):
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(50, channels, size, size, generator=generator, dtype=dtype)
    draws = draw_flip_crop(seed=1, step=2, n=50, size=size)
    got = flip_crop(x.to(device), draws)
    assert got.dtype == dtype
    assert got.device.type == device
    assert got.is_contiguous()
    np.testing.assert_array_equal(got.cpu().numpy(), reference(x.numpy(), draws, padding))


def test_members_along_the_batch_axis_equal_members_alone():
    x = torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    draws = [draw_flip_crop(seed, 5, 6, 32) for seed in (0, 1)]
    together = flip_crop(x.flatten(0, 1), torch.cat(draws)).unflatten(0, (2, 6))
    for member in (0, 1):
        assert torch.equal(together[member], flip_crop(x[member], draws[member]))


@pytest.mark.parametrize("size", [8, 32])
def test_draws_are_uniform_and_independent(size):
    draws = torch.cat([draw_flip_crop(0, step, 200, size) for step in range(50)]).numpy()
    places = 2 * crop_padding(size) + 1
    expected = len(draws) / (places * places * 2)
    counts = np.zeros((places, places, 2))
    np.add.at(counts, tuple(draws.T), 1)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_draws_depend_on_seed_and_step_alone():
    state = torch.get_rng_state()
    first = draw_flip_crop(1, 2, 30, 32)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(draw_flip_crop(1, 2, 30, 32), first)
    assert not torch.equal(draw_flip_crop(2, 2, 30, 32), first)
    assert not torch.equal(draw_flip_crop(1, 3, 30, 32), first)


def test_middle_crop_without_flip_changes_nothing_and_shares_nothing():
    x = torch.rand(4, 3, 32, 32)
    original = x.clone()
    middle = torch.tensor([[4, 4, 0]]).repeat(4, 1)
    result = flip_crop(x, middle)
    assert torch.equal(result, x)
    result.zero_()
    assert torch.equal(x, original)


@pytest.mark.parametrize(
    ("shape", "draws"),
    [((2, 1, 8, 9), (2, 3)), ((2, 1, 8, 8), (3, 3)), ((2, 1, 8, 8), (2, 2))],
    ids=["not square", "other batch", "no flip"],
)
def test_shapes_that_do_not_fit_are_refused(shape, draws):
    with pytest.raises(ValueError, match="H == W"):
        flip_crop(torch.zeros(shape), torch.zeros(draws, dtype=torch.int64))
