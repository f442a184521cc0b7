"""The two data sets that need nothing but the installed packages."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as sklearn_digits

import bnsweep.data.digits as digits_module
from bnsweep.data import DATASETS, load_dataset
from bnsweep.data.digits import load_digits
from bnsweep.data.gaussian import GRID, load_gaussian
from bnsweep.errors import DataError
from bnsweep.names import DATASETS as FACTS
from bnsweep.names import NAMES


def test_every_legal_name_can_be_loaded():
    assert set(DATASETS) == set(NAMES["dataset"])


@pytest.mark.parametrize("name", ["digits", "gaussian"])
def test_facts_and_fingerprint_are_the_published_ones(name):
    dataset = load_dataset(name, {})
    assert dataset.facts == FACTS[name]
    assert len(dataset.train_x) == len(dataset.train_y) == FACTS[name].train
    assert len(dataset.test_x) == len(dataset.test_y) == FACTS[name].test


def test_digits_are_those_of_scikit_learn_split_by_index():
    pixels, labels = sklearn_digits(return_X_y=True)
    dataset = load_dataset("digits", {"inputs": "raw"}, dtype=torch.float64)
    test = np.arange(len(labels)) % 5 == 0
    np.testing.assert_array_equal(dataset.train_x.flatten(1), pixels[~test] / 16)
    np.testing.assert_array_equal(dataset.test_x.flatten(1), pixels[test] / 16)
    np.testing.assert_array_equal(dataset.train_y, labels[~test])
    np.testing.assert_array_equal(dataset.test_y, labels[test])


def test_digits_split_shares_no_image():
    images = load_digits()
    train, test = ({row.numpy().tobytes() for row in x} for x in (images.train_x, images.test_x))
    assert len(train) == 1437
    assert len(test) == 360
    assert not train & test


def test_digits_come_from_the_public_function_where_the_file_is_not(monkeypatch, tmp_path):
    class Elsewhere:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(digits_module, "find_spec", lambda name: Elsewhere)
    assert load_digits().facts == FACTS["digits"]


def test_another_fingerprint_is_refused_with_both_shown():
    with pytest.raises(DataError, match=r"0123456789abcdef.*" + FACTS["digits"].fingerprint):
        load_dataset("digits", {}, fingerprint="0123456789abcdef")


def test_unknown_name_is_refused_with_the_legal_ones():
    with pytest.raises(DataError, match=r"digits, gaussian.*but found imagenet"):
        load_dataset("imagenet", {})


@pytest.mark.parametrize("features", [1, 3, 10])
def test_gaussian_targets_are_one_linear_map_of_the_inputs(features):
    problem = load_dataset("gaussian", {"features": features}, dtype=torch.float64)
    assert problem.train_x.shape == problem.train_y.shape == (1000, features)
    solution = torch.linalg.lstsq(problem.train_x, problem.train_y).solution
    torch.testing.assert_close(problem.test_x @ solution, problem.test_y, rtol=1e-10, atol=1e-10)
    assert problem.facts.fingerprint == FACTS["gaussian"].fingerprint


def test_gaussian_is_standard_normal_and_exact():
    problem = load_gaussian(100)
    matrix = torch.linalg.lstsq(problem.train_x, problem.train_y).solution.T
    for drawn in (problem.train_x, problem.test_x, matrix):
        n = drawn.numel()
        assert abs(drawn.mean().item()) < 5 / n**0.5
        assert abs(drawn.var().item() - 1) < 5 * (2 / n) ** 0.5
    # whatever the order of summation, the products add up to the same float64
    columns = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    matrix = (matrix / GRID).round() * GRID
    assert torch.equal(problem.train_x[:, columns] @ matrix[:, columns].T, problem.train_y)
    assert not torch.equal(problem.train_x, problem.test_x)


def test_gaussian_does_not_touch_or_read_the_global_generators():
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = load_gaussian(4)
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[0])
    torch.manual_seed(99)
    assert torch.equal(load_gaussian(4).train_x, first.train_x)
