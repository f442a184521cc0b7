"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100: found on this machine, or fetched by torchvision.

Files lie where torchvision puts them, under a root: ``MNIST/raw``, ``FashionMNIST/raw``,
``cifar-10-batches-py``, ``cifar-100-python``. Fashion-MNIST is also found where Debian's package
``dataset-fashion-mnist`` puts it. What torchvision publishes of them is repeated here, since
importing it takes longer than reading the data; it is imported to download, and for nothing else.

References:
    - Y. LeCun et al., *Gradient-based learning applied to document recognition*, 1998 (MNIST).
    - H. Xiao, K. Rasul and R. Vollgraf, *Fashion-MNIST*, 2017, https://arxiv.org/abs/1708.07747.
    - A. Krizhevsky, *Learning multiple layers of features from tiny images*, 2009 (CIFAR).
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnsweep.data.contents import Images, source_fingerprint
from bnsweep.data.fetching import check_md5, fetch, file_md5, unpack
from bnsweep.data.idx import read_idx
from bnsweep.errors import DataError
from bnsweep.names import DATASETS, DataFacts

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "FASHION_MNIST",
    "MNIST",
    "CifarSource",
    "IdxSource",
    "load_cifar",
    "load_idx",
]

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The four files, unpacked, of MNIST and its relatives."""


@dataclass(frozen=True)
class IdxSource:
    """A data set of four idx files.

    Attributes:
        name: Torchvision's class.
        facts: Sizes that the files must have.
        md5: MD5 sum of each packed file, where the publisher's files are the identity of the data
            set; empty where the contents are.
        unpacked_md5: MD5 sum of each file once unpacked.
        elsewhere: Another folder where the files may be.
        package: The Debian package that puts them there.
        download: Downloads the data set under a folder; torchvision's class where absent.
    """

    name: str
    facts: DataFacts
    md5: Mapping[str, str] = field(default_factory=dict)
    unpacked_md5: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Path | None = None
    package: str = ""
    download: Callable[[Path], object] | None = None


@dataclass(frozen=True)
class CifarSource:
    """A data set in the pickled batches of CIFAR.

    Attributes:
        name: Torchvision's class.
        facts: Sizes of the data set.
        folder: The folder of the batches.
        train: MD5 sum of each training batch.
        test: MD5 sum of each test batch.
        labels: Key of the labels in a batch.
        url: Address of the archive.
        archive_md5: MD5 sum of the archive.
        download: Downloads the data set under a folder; torchvision's class where absent.
    """

    name: str
    facts: DataFacts
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    labels: str
    url: str
    archive_md5: str
    download: Callable[[Path], object] | None = None


MNIST = IdxSource(
    "MNIST",
    DATASETS["mnist"],
    md5={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    unpacked_md5={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
)

FASHION_MNIST = IdxSource(
    "FashionMNIST",
    DATASETS["fashion_mnist"],
    elsewhere=DEBIAN_FASHION_MNIST,
    package="dataset-fashion-mnist",
)

CIFAR10 = CifarSource(
    "CIFAR10",
    DATASETS["cifar10"],
    folder="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    labels="labels",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
)

CIFAR100 = CifarSource(
    "CIFAR100",
    DATASETS["cifar100"],
    folder="cifar-100-python",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    labels="fine_labels",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
)


def load_idx(root: Path, source: IdxSource) -> Images:
    """Read MNIST or Fashion-MNIST, packed or unpacked, after fetching it where it is absent.

    The fingerprint of MNIST is made of its publisher's MD5 sums, and each file must have its sum, or
    unpack to what has the sum of the unpacked one. Fashion-MNIST's is that of its contents.

    Args:
        root: Folder that holds, or will hold, ``MNIST/raw`` or ``FashionMNIST/raw``.
        source: Which data set.

    Returns:
        The images, ``[n, 1, 28, 28]``.

    Raises:
        DataError: If a file is absent and cannot be fetched, or is damaged or another one.
    """
    paths = _idx_paths(root, source)
    facts = source.facts
    shapes = [(n, *rest) for n in (facts.train, facts.test) for rest in ((facts.size, facts.size), ())]
    parts = [read_idx(path, shape) for path, shape in zip(paths, shapes, strict=True)]
    for path, labels in zip(paths[1::2], parts[1::2], strict=True):
        if labels.max() >= facts.classes:
            raise DataError(
                f"the labels in {path} must be below {facts.classes}, but found {labels.max().item()}; "
                "delete the file and get it again"
            )
    train_x, train_y, test_x, test_y = parts
    images = (train_x[:, None], train_y.long(), test_x[:, None], test_y.long())
    if not source.md5:
        return Images.of(*images, classes=facts.classes)
    for path, part in zip(paths, parts, strict=True):
        _check_idx(path, part, source)
    return Images(*images, classes=facts.classes, fingerprint=source_fingerprint(source.md5))


def load_cifar(root: Path, source: CifarSource) -> Images:
    """Read CIFAR-10 or CIFAR-100, after unpacking or fetching it where it is absent.

    The fingerprint is made of the publisher's MD5 sums of the batches, and each batch must have its
    sum before it is opened: the format is Python's pickle.

    Args:
        root: Folder that holds, or will hold, ``cifar-10-batches-py`` or ``cifar-100-python``; the
            publisher's ``.tar.gz`` in it will do.
        source: Which data set.

    Returns:
        The images, ``[n, 3, 32, 32]``.

    Raises:
        DataError: If it is absent and cannot be fetched, or a file is not the published one.
    """
    folder = root / source.folder
    archive = root / source.url.rpartition("/")[2]
    if not folder.is_dir() and archive.is_file():
        unpack(archive, source.archive_md5, source.folder)
    elif not folder.is_dir():
        how = f"put {archive.name} (from {source.url}) into {root}, packed or unpacked"
        fetch(source.name, source.download or _torchvision(source.name), root, source.folder, how)
    train_x, train_y = _read_batches(folder, source.train, source)
    test_x, test_y = _read_batches(folder, source.test, source)
    fingerprint = source_fingerprint({**source.train, **source.test})
    return Images(train_x, train_y, test_x, test_y, source.facts.classes, fingerprint)


def _torchvision(name: str) -> Callable[[Path], object]:
    """Return a function that lets torchvision download one of its data sets."""

    def download(folder: Path) -> object:
        from torchvision import datasets  # type: ignore[import-untyped]

        return getattr(datasets, name)(folder, train=False, download=True)

    return download


def _idx_paths(root: Path, source: IdxSource) -> list[Path]:
    """Return the four files of the first folder that holds all, fetching them where none does."""
    home = root / source.name / "raw"
    for folder in (home, source.elsewhere):
        if folder is not None and all(path.is_file() for path in _in_folder(folder, source)):
            return _in_folder(folder, source)
    how = f"put {', '.join(f'{name}.gz' for name in IDX_FILES)}, packed or unpacked, into {home}"
    if source.elsewhere is not None:
        how += f", or install Debian's package {source.package}, which puts them into {source.elsewhere}"
    fetch(source.name, source.download or _torchvision(source.name), root, f"{source.name}/raw", how)
    return _in_folder(home, source)


def _in_folder(folder: Path, source: IdxSource) -> list[Path]:
    """Return the packed files where they exist, else the unpacked ones."""
    packed = [folder / f"{name}.gz" for name in IDX_FILES]
    return [path if path.is_file() else path.with_suffix("") for path in packed]


def _check_idx(path: Path, part: Tensor, source: IdxSource) -> None:
    """Refuse a file that is neither published nor unpacks to what was published."""
    if path.suffix == ".gz" and file_md5(path) == source.md5[path.name]:
        return
    name = path.name.removesuffix(".gz")
    header = np.array([0x800 + part.ndim, *part.shape], ">u4").tobytes()
    found = hashlib.md5(header + part.numpy().tobytes(), usedforsecurity=False).hexdigest()
    check_md5(path, source.unpacked_md5[name], found)


def _read_batches(folder: Path, md5: Mapping[str, str], source: CifarSource) -> tuple[Tensor, Tensor]:
    images: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    labels: list[Sequence[int]] = []
    for name, published in md5.items():
        path = folder / name
        if not path.is_file():
            raise DataError(
                f"the folder {folder} must hold {', '.join([*source.train, *source.test])}, but {name} is "
                "not there; delete the folder and get it again"
            )
        check_md5(path, published, file_md5(path))
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, about how arrays were pickled in 2009
            batch = pickle.load(file, encoding="latin1")
        images.append(batch["data"])
        labels.append(batch[source.labels])
    x = torch.from_numpy(np.concatenate(images)).reshape(-1, 3, source.facts.size, source.facts.size)
    return x, torch.from_numpy(np.concatenate(labels)).to(torch.int64)
