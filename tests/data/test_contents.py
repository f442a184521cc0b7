"""Input normalization, residence and fingerprints."""

import numpy as np
import pytest
import torch

from bnsweep.data import load_dataset
from bnsweep.data.contents import Images, Regression, content_fingerprint
from bnsweep.names import DataFacts

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def colour_images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([256, 100, 10])[:, None, None]
    train_x, test_x = (
        (torch.rand(n, 3, 6, 6, generator=generator) * scale).to(torch.uint8) for n in (40, 10)
    )
    train_y, test_y = (torch.arange(n) % 4 for n in (40, 10))
    return Images.of(train_x, train_y, test_x, test_y, classes=4)


def reference(train, split, inputs):
    train, split = (images.numpy().astype(np.float64) / 255 for images in (train, split))
    if inputs == "raw":
        return split
    if inputs == "half":
        return (split - 0.5) / 0.5
    mean, deviation = (f(train, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return (split - mean) / deviation


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("inputs", ["raw", "half", "standardized"])
def test_inputs_are_normalized_as_named(inputs, dtype, device):
    images = colour_images()
    dataset = images.dataset("colour", {"inputs": inputs}, device, dtype)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-13}[dtype]
    for got, split in ((dataset.train_x, images.train_x), (dataset.test_x, images.test_x)):
        assert got.dtype == dtype
        assert got.device.type == device
        np.testing.assert_allclose(got.cpu(), reference(images.train_x, split, inputs), tolerance, tolerance)
    assert dataset.train_y.dtype == torch.int64
    assert {t.device.type for t in (dataset.train_y, dataset.test_y)} == {device}
    assert dataset.facts == DataFacts(3, 6, 4, 40, 10, images.fingerprint)


@pytest.mark.skipif("cuda" not in DEVICES, reason="needs a CUDA device")
@pytest.mark.parametrize("inputs", ["raw", "half", "standardized"])
def test_devices_agree_to_the_bit(inputs):
    images = colour_images()
    cpu, cuda = (images.dataset("colour", {"inputs": inputs}, d, torch.float32) for d in ("cpu", "cuda"))
    assert torch.equal(cpu.train_x, cuda.train_x.cpu())


def test_standardized_digits_have_mean_0_and_variance_1_over_train():
    x = load_dataset("digits", {"inputs": "standardized"}, dtype=torch.float64).train_x
    assert abs(x.mean().item()) < 1e-14
    assert abs(x.var(correction=0).item() - 1) < 1e-12


@pytest.mark.parametrize(("inputs", "low"), [("raw", 0.0), ("half", -1.0)])
def test_digits_span_the_whole_range(inputs, low):
    x = load_dataset("digits", {"inputs": inputs}).train_x
    assert x.aminmax() == (torch.tensor(low), torch.tensor(1.0))


def test_channel_that_never_changes_is_only_centred():
    images = colour_images()
    images.train_x[:, 1] = 7
    x = images.dataset("colour", {"inputs": "standardized"}, "cpu", torch.float64).train_x
    assert torch.equal(x[:, 1], torch.zeros_like(x[:, 1]))
    assert x.isfinite().all()


def test_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match="but found 'whitened'"):
        colour_images().dataset("colour", {"inputs": "whitened"}, "cpu", torch.float32)


def test_the_bytes_are_not_changed_by_converting():
    images = colour_images()
    images.dataset("colour", {"inputs": "half"}, "cpu", torch.float32)
    assert images.fingerprint == colour_images().fingerprint
    parts = (images.train_x, images.train_y, images.test_x, images.test_y)
    assert images.fingerprint == content_fingerprint(*parts)


@pytest.mark.parametrize("part", range(4), ids=["train_x", "train_y", "test_x", "test_y"])
def test_fingerprint_changes_with_one_element(part):
    images = colour_images()
    parts = [images.train_x, images.train_y, images.test_x, images.test_y]
    parts[part] = parts[part].clone()
    parts[part].view(-1)[-1] += 1
    assert content_fingerprint(*parts) != images.fingerprint


def test_fingerprint_ignores_memory_layout():
    x = colour_images().train_x
    assert content_fingerprint(x.to(memory_format=torch.channels_last)) == content_fingerprint(x)


def test_regression_takes_the_dtype_for_inputs_and_targets():
    x = torch.ones(3, 2, dtype=torch.float64)
    dataset = Regression(x, x, x, x, "f").dataset("line", {}, "cpu", torch.float32)
    assert {t.dtype for t in (dataset.train_x, dataset.train_y, dataset.test_y)} == {torch.float32}
    assert dataset.facts == DataFacts(1, 1, 0, 3, 3, "f")
