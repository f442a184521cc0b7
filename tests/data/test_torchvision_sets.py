"""Data sets that torchvision fetches: from a server of the test's own, absent, or damaged."""

import gzip
import hashlib
import io
import pickle
import shutil
import socket
import struct
import tarfile
import threading
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torchvision import datasets

from bnsweep.data import default_root, fetching, load_dataset
from bnsweep.data.contents import source_fingerprint
from bnsweep.data.torchvision_sets import (
    CIFAR10,
    CIFAR100,
    FASHION_MNIST,
    IDX_FILES,
    MNIST,
    CifarSource,
    IdxSource,
    load_cifar,
    load_idx,
)
from bnsweep.errors import DataError
from bnsweep.names import DATASETS, DataFacts

FACTS = DataFacts(1, 28, 10, 30, 12)


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def publisher(tmp_path):
    """A folder, and the address at which its files are served."""
    folder = tmp_path / "publisher"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def offline(monkeypatch):
    """Every download is refused at once, as by a proxy that is not there."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mnist(publisher):
    """A small data set in MNIST's format, published on the server: its source and its four arrays."""
    folder, url = publisher
    random = np.random.default_rng(0)
    arrays = []
    for n in (FACTS.train, FACTS.test):
        arrays += [random.integers(0, 256, (n, 28, 28)), random.integers(0, 10, n)]
    unpacked = {
        name: bytes((0, 0, 8, array.ndim))
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
        for name, array in zip(IDX_FILES, arrays, strict=True)
    }
    packed = {f"{name}.gz": gzip.compress(content) for name, content in unpacked.items()}
    for name, content in packed.items():
        (folder / name).write_bytes(content)

    class Published(datasets.MNIST):
        mirrors = (url,)
        resources = tuple((name, md5(content)) for name, content in packed.items())

    Published.__name__ = "MNIST"
    source = IdxSource(
        "MNIST",
        FACTS,
        md5={name: md5(content) for name, content in packed.items()},
        unpacked_md5={name: md5(content) for name, content in unpacked.items()},
        download=lambda root: Published(root, train=False, download=True),
    )
    return source, arrays


@pytest.fixture
def cifar(publisher):
    """A small data set in CIFAR's format, published on the server: its source and its batches."""
    folder, url = publisher
    random = np.random.default_rng(1)
    batches, pickled = {}, {}
    for name, n in (("data_batch_1", 7), ("data_batch_2", 5), ("test_batch", 4)):
        data = random.integers(0, 256, (n, 3 * 32 * 32)).astype(np.uint8)
        batches[name] = {"data": data, "labels": random.integers(0, 10, n).tolist()}
        pickled[name] = pickle.dumps(batches[name], protocol=2)
    pickled["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")}, protocol=2)
    with tarfile.open(folder / "small.tar.gz", "w:gz") as tar:
        for name, content in pickled.items():
            member = tarfile.TarInfo(f"small/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    sums = {name: md5(content) for name, content in pickled.items()}
    archive_md5 = md5((folder / "small.tar.gz").read_bytes())
    train = {name: sums[name] for name in ("data_batch_1", "data_batch_2")}
    test = {"test_batch": sums["test_batch"]}
    address = f"{url}small.tar.gz"

    class Published(datasets.CIFAR10):
        base_folder, url, filename, tgz_md5 = "small", address, "small.tar.gz", archive_md5
        train_list, test_list = list(train.items()), list(test.items())
        meta = MappingProxyType(
            {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
        )

    source = CifarSource(
        "CIFAR10",
        DataFacts(3, 32, 10, 12, 4),
        folder="small",
        train=train,
        test=test,
        labels="labels",
        url=address,
        archive_md5=archive_md5,
        download=lambda root: Published(root, train=False, download=True),
    )
    return source, batches


# --- what is repeated from torchvision


@pytest.mark.parametrize(
    ("source", "vision"),
    [(MNIST, datasets.MNIST), (FASHION_MNIST, datasets.FashionMNIST)],
    ids=["mnist", "fashion_mnist"],
)
def test_idx_files_are_those_of_torchvision(source, vision):
    assert source.name == vision.__name__
    assert [f"{name}.gz" for name in IDX_FILES] == [name for name, _ in vision.resources]
    assert source.md5 in ({}, dict(vision.resources))


@pytest.mark.parametrize(
    ("source", "vision"),
    [(CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)],
    ids=["cifar10", "cifar100"],
)
def test_cifar_files_are_those_of_torchvision(source, vision):
    assert (source.name, source.folder, source.url) == (vision.__name__, vision.base_folder, vision.url)
    assert (source.train, source.test) == (dict(vision.train_list), dict(vision.test_list))
    assert source.archive_md5 == vision.tgz_md5


def test_fingerprints_of_published_files_are_made_of_their_sums():
    assert DATASETS["mnist"].fingerprint == source_fingerprint(MNIST.md5)
    for source in (CIFAR10, CIFAR100):
        assert source.facts.fingerprint == source_fingerprint({**source.train, **source.test})


# --- downloads


def check_mnist(images, arrays, source):
    got = (images.train_x[:, 0], images.train_y, images.test_x[:, 0], images.test_y)
    for tensor, array in zip(got, arrays, strict=True):
        np.testing.assert_array_equal(tensor, array)
    assert images.facts == replace(FACTS, fingerprint=source_fingerprint(source.md5))


def test_mnist_is_downloaded_once_and_kept(tmp_path, mnist, publisher):
    source, arrays = mnist
    root = tmp_path / "new" / "data"
    check_mnist(load_idx(root, source), arrays, source)
    shutil.rmtree(publisher[0])
    check_mnist(load_idx(root, source), arrays, source)
    assert [path.name for path in root.iterdir()] == ["MNIST"]
    for file in (root / "MNIST" / "raw").glob("*.gz"):
        file.unlink()
    check_mnist(load_idx(root, source), arrays, source)  # unpacked files alone
    assert socket.getdefaulttimeout() is None


def test_cifar_is_downloaded_once_and_kept(tmp_path, cifar, publisher):
    source, batches = cifar
    root = tmp_path / "data"
    images = load_cifar(root, source)
    shutil.rmtree(publisher[0])
    again = load_cifar(root, source)
    assert [path.name for path in root.iterdir()] == ["small"]
    data = np.concatenate([batches["data_batch_1"]["data"], batches["data_batch_2"]["data"]])
    np.testing.assert_array_equal(images.train_x, data.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(images.test_x, batches["test_batch"]["data"].reshape(-1, 3, 32, 32))
    labels = batches["data_batch_1"]["labels"] + batches["data_batch_2"]["labels"]
    assert images.train_y.tolist() == labels
    assert images.train_y.dtype == torch.int64
    assert torch.equal(again.train_x, images.train_x)
    assert images.fingerprint == source_fingerprint({**source.train, **source.test})


def test_archive_put_under_the_root_is_unpacked(tmp_path, cifar, publisher):
    source, _ = cifar
    root = tmp_path / "data"
    root.mkdir()
    shutil.move(publisher[0] / "small.tar.gz", root)
    assert len(load_cifar(root, source).train_x) == 12
    assert sorted(path.name for path in root.iterdir()) == ["small", "small.tar.gz"]


def test_incomplete_folder_is_completed(tmp_path, mnist):
    source, arrays = mnist
    root = tmp_path / "data"
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(b"half of it")
    check_mnist(load_idx(root, source), arrays, source)


def test_damaged_download_leaves_nothing(tmp_path, mnist, publisher):
    source, _ = mnist
    file = publisher[0] / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="could not be downloaded"):
        load_idx(tmp_path / "data", source)
    assert not list((tmp_path / "data").iterdir())


# --- absent


ABSENT = {
    "mnist": ("MNIST/raw", "train-images-idx3-ubyte.gz"),
    "fashion_mnist": ("FashionMNIST/raw", "t10k-labels-idx1-ubyte.gz"),
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("name", "place", "file"), [(k, *v) for k, v in ABSENT.items()], ids=ABSENT)
def test_absent_data_say_what_to_put_where(tmp_path, monkeypatch, name, place, file):
    gone = replace(FASHION_MNIST, elsewhere=tmp_path / "debian")
    monkeypatch.setattr("bnsweep.data.loading.FASHION_MNIST", gone)
    root = tmp_path / "data"
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_dataset(name, {}, root=root)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(root / place), file, "BNSWEEP_DATA", "could not be downloaded"):
        assert part in message
    assert ("dataset-fashion-mnist" in message) == (name == "fashion_mnist")
    assert not list(root.iterdir())


def test_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "DOWNLOAD_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"

        class Silent(datasets.MNIST):
            mirrors = (address,)

        source = replace(MNIST, download=lambda root: Silent(root, download=True))
        start = time.monotonic()
        with pytest.raises(DataError, match="timed out"):
            load_idx(tmp_path, source)
    assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() is None


def test_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/data must be writable.*BNSWEEP_DATA"):
        load_idx(tmp_path / "file" / "data", MNIST)


def test_default_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BNSWEEP_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("BNSWEEP_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "bnsweep" / "data"


# --- damaged or not the published ones


def test_other_digits_under_mnists_names_are_refused(tmp_path, mnist):
    source, _ = mnist
    load_idx(tmp_path, source)
    file = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[-1] = (content[-1] + 1) % 10
    file.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError) as caught:
        load_idx(tmp_path, source)
    sums = (source.unpacked_md5["train-labels-idx1-ubyte"], md5(bytes(content)))
    assert all(part in str(caught.value) for part in (str(file), *sums))


def test_mnist_packed_anew_is_accepted(tmp_path, mnist):
    source, arrays = mnist
    load_idx(tmp_path, source)
    file = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), compresslevel=1, mtime=1))
    assert md5(file.read_bytes()) != source.md5[file.name]
    check_mnist(load_idx(tmp_path, source), arrays, source)


def test_label_out_of_range_is_refused(tmp_path, mnist):
    source, _ = mnist
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.gz must be below 3, but found 9"):
        load_idx(tmp_path, replace(source, facts=replace(FACTS, classes=3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "data_batch_2 must be the published one"),
        (lambda file: file.unlink(), "but data_batch_2 is not there"),
    ],
    ids=["truncated", "missing"],
)
def test_damaged_batch_is_named_before_it_is_opened(tmp_path, cifar, change, message):
    source, _ = cifar
    load_cifar(tmp_path / "data", source)
    change(tmp_path / "data" / "small" / "data_batch_2")
    with pytest.raises(DataError, match=message):
        load_cifar(tmp_path / "data", source)


def test_truncated_archive_is_named(tmp_path, cifar, publisher):
    source, _ = cifar
    root = tmp_path / "data"
    root.mkdir()
    content = (publisher[0] / "small.tar.gz").read_bytes()
    (root / "small.tar.gz").write_bytes(content[:-10])
    with pytest.raises(DataError, match=r"small.tar.gz must be the published one"):
        load_cifar(root, source)
    assert [path.name for path in root.iterdir()] == ["small.tar.gz"]
