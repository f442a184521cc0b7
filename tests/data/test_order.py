"""Batch order from the seed and the step alone."""

import pytest
import torch

from bnsweep.data import batch_indices
from bnsweep.data.order import _permutation


@pytest.mark.parametrize(("n", "batch_size"), [(20, 5), (23, 5), (7, 1), (1437, 128)])
def test_an_epoch_is_a_permutation_without_what_is_left_over(n, batch_size):
    steps = n // batch_size
    for epoch in (0, 1):
        batches = [batch_indices(3, epoch * steps + i, n, batch_size) for i in range(steps)]
        assert all(batch.shape == (batch_size,) and batch.dtype == torch.int64 for batch in batches)
        seen = torch.cat(batches).tolist()
        assert len(set(seen)) == len(seen) == steps * batch_size
        assert set(seen) <= set(range(n))


def test_other_samples_are_left_over_in_other_epochs():
    left_over = {
        frozenset(range(23))
        - frozenset(torch.cat([batch_indices(0, 4 * e + i, 23, 5) for i in range(4)]).tolist())
        for e in range(10)
    }
    assert len(left_over) > 5


def test_full_batch_keeps_the_order():
    assert torch.equal(batch_indices(5, 12, 30, 30), torch.arange(30))


def test_equal_seeds_pair_and_other_seeds_do_not():
    first, again, other = (batch_indices(seed, 4, 1000, 100) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_any_step_can_be_asked_for_first():
    in_order = [batch_indices(9, step, 100, 30) for step in range(12)]
    _permutation.cache_clear()
    torch.manual_seed(1)  # a global generator that stands elsewhere changes nothing
    backwards = [batch_indices(9, step, 100, 30) for step in reversed(range(12))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(in_order, backwards, strict=True))


def test_global_generator_is_left_alone():
    state = torch.get_rng_state()
    batch_indices(123, 0, 500, 10)
    assert torch.equal(torch.get_rng_state(), state)


def test_writing_into_a_batch_does_not_change_the_next_one():
    batch = batch_indices(2, 0, 50, 10)
    expected = batch.clone()
    batch.zero_()
    assert torch.equal(batch_indices(2, 0, 50, 10), expected)


def test_every_sample_is_equally_likely_in_the_first_batch():
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[batch_indices(seed, 0, 10, 3)] += 1
    # 600 expected, standard deviation about 20
    assert (counts - 600).abs().max() < 110


def test_order_is_part_of_the_results_version():
    # a change here changes every trial's numbers: raise RESULTS_VERSION with it
    assert batch_indices(0, 0, 1437, 8).tolist() == [1072, 1147, 1203, 823, 256, 349, 1232, 1086]


@pytest.mark.parametrize(("step", "n", "batch_size"), [(0, 10, 0), (0, 10, 11), (-1, 10, 5)])
def test_impossible_sizes_are_refused(step, n, batch_size):
    with pytest.raises(ValueError, match="1 <= batch_size <= n"):
        batch_indices(0, step, n, batch_size)
