"""Reading idx files, and Fashion-MNIST from Debian's package."""

import gzip
import os
import struct

import numpy as np
import pytest
import torch

from bnsweep.data import load_dataset
from bnsweep.data.idx import read_idx
from bnsweep.data.torchvision_sets import DEBIAN_FASHION_MNIST, IDX_FILES
from bnsweep.errors import DataError
from bnsweep.names import DATASETS

SHAPE = (5, 4, 3)
ARRAY = np.arange(60, dtype=np.uint8).reshape(SHAPE)


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_round_trip(tmp_path, pack):
    path = tmp_path / ("images.gz" if pack is gzip.compress else "images")
    path.write_bytes(pack(idx_bytes(ARRAY)))
    got = read_idx(path, SHAPE)
    assert got.dtype == torch.uint8
    np.testing.assert_array_equal(got, ARRAY)


PLAIN = idx_bytes(ARRAY)
PACKED = gzip.compress(PLAIN)
DAMAGED = {
    "truncated": ("images", PLAIN[:-1], "hold 76 bytes.*only 75"),
    "too long": ("images", PLAIN + b"x", "hold 76 bytes.*more"),
    "header alone": ("images", PLAIN[:16], "hold 76 bytes.*only 16"),
    "half a header": ("images", PLAIN[:7], "header of 16 bytes.*only 7"),
    "empty": ("images", b"", "header of 16 bytes.*only 0"),
    "another format": ("images", b"PK\x03\x04" + PLAIN, "begin with 00000803.*504b0304"),
    "floats": ("images", b"\0\0\x0d\x03" + PLAIN[4:], "begin with 00000803.*00000d03"),
    "labels for images": ("images", idx_bytes(ARRAY[:, 0, 0]) + bytes(20), "begin with 00000803"),
    "another shape": ("images", idx_bytes(ARRAY.reshape(5, 3, 4)), r"shape \(5, 4, 3\).*\(5, 3, 4\)"),
    "packed and truncated": ("images.gz", PACKED[: len(PACKED) // 2], "readable and whole"),
    "packed, end missing": ("images.gz", PACKED[:-4], "readable and whole"),
    "packed, one bit flipped": (
        "images.gz",
        PACKED[:-20] + bytes([PACKED[-20] ^ 4]) + PACKED[-19:],
        "readable and whole|begin with|shape|bytes",
    ),
    "not packed": ("images.gz", PLAIN, "readable and whole"),
    "packed, expands without end": (
        "images.gz",
        gzip.compress(PLAIN + bytes(10_000_000)),
        "hold 76 bytes.*more",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, SHAPE)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_instead_of_a_file_is_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path} must be readable"):
        read_idx(tmp_path, SHAPE)


needs_debian = pytest.mark.skipif(
    not all((DEBIAN_FASHION_MNIST / f"{name}.gz").is_file() for name in IDX_FILES),
    reason=f"needs Debian's package dataset-fashion-mnist in {DEBIAN_FASHION_MNIST}",
)


@needs_debian
def test_fashion_mnist_of_debian_is_the_published_one(tmp_path):
    dataset = load_dataset("fashion_mnist", {"inputs": "raw"}, root=tmp_path)
    assert dataset.facts == DATASETS["fashion_mnist"]
    assert dataset.train_y.bincount().tolist() == [6000] * 10
    assert dataset.test_y.bincount().tolist() == [1000] * 10
    # mean and standard deviation as commonly published for this data set
    assert abs(dataset.train_x.mean().item() - 0.2860) < 1e-4
    assert abs(dataset.train_x.std().item() - 0.3530) < 1e-4
    assert not list(tmp_path.iterdir())


@needs_debian
def test_files_under_the_root_come_first_and_damage_in_them_is_named(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX_FILES:
        os.symlink(DEBIAN_FASHION_MNIST / f"{name}.gz", raw / f"{name}.gz")
    damaged = raw / "t10k-images-idx3-ubyte.gz"
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[:100_000])
    with pytest.raises(DataError, match=str(damaged)):
        load_dataset("fashion_mnist", {}, root=tmp_path)
    damaged.unlink()
    (raw / "t10k-images-idx3-ubyte").write_bytes(gzip.decompress(content))  # unpacked beside packed ones
    assert load_dataset("fashion_mnist", {}, root=tmp_path).facts == DATASETS["fashion_mnist"]
