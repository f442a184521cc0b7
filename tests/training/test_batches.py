"""What the members see at a step."""

import pytest
import torch

from bnsweep.data import batch_indices, draw_flip_crop, flip_crop
from bnsweep.errors import SpecError
from bnsweep.training.batches import MemberBatches


def batches_of(packs, network="mlp", sites=(), members=3, **parameters):
    trials = packs.make_trials(network, members, **parameters)
    dataset = packs.small_dataset(trials[0])
    return MemberBatches(trials, dataset, sites), dataset


def test_each_member_sees_the_batch_of_its_seed(packs):
    batches, dataset = batches_of(packs, seed=[4, 1, 4])
    x, y = batches.inputs(7)
    for k, seed in enumerate([4, 1, 4]):
        index = batch_indices(seed, 7, 40, 8)
        assert torch.equal(x[k], dataset.train_x[index])
        assert torch.equal(y[k], dataset.train_y[index])
    assert not torch.equal(x[0], x[1])


def test_the_full_batch_is_the_training_split(packs):
    batches, dataset = batches_of(packs, "dln", members=2)
    x, y = batches.inputs(3)
    assert torch.equal(x, dataset.train_x.expand(2, -1, -1))
    assert torch.equal(y, dataset.train_y.expand(2, -1, -1))


def test_augmentation_is_that_of_the_member_and_the_step(packs):
    plain, _ = batches_of(packs)
    augmented, _ = batches_of(packs, augment="flip_crop")
    for step in (0, 1):
        x, y = augmented.inputs(step)
        unchanged, targets = plain.inputs(step)
        assert torch.equal(y, targets)
        for k in range(3):
            assert torch.equal(x[k], flip_crop(unchanged[k], draw_flip_crop(k, step, 8, 8)))


def test_noise_follows_seed_step_and_purpose(packs):
    batches, _ = batches_of(packs, "vgg", [(2, 3, 3), (4,)], norm="noisy_batch", noise=[0.0, 1.0, 2.0])
    first = batches.noise(5)
    assert [site.shift.shape for site in first] == [(8, 6, 3, 3), (8, 12)]
    assert batches.levels.tolist() == [0.0, 1.0, 2.0]
    assert torch.equal(first[0].scale, batches.noise(5)[0].scale)
    for other in (batches.noise(6), batches.noise(5, "probe 0")):
        assert not torch.equal(first[0].scale, other[0].scale)
    assert batches.noise(5, batch=2)[1].shift.shape == (2, 12)


def test_without_noisy_sites_there_is_no_noise(packs):
    assert batches_of(packs)[0].noise(0) is None


def test_a_batch_larger_than_the_split_is_refused(packs):
    with pytest.raises(SpecError, match=r"batch_size must be <= 40, .* of digits, but found 64"):
        batches_of(packs, batch_size=64)
