"""Every data set by its name: read, checked against its fingerprint, put on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bnsweep.data.contents import Dataset, Images, Regression
from bnsweep.data.digits import load_digits
from bnsweep.data.fetching import default_root
from bnsweep.data.gaussian import load_gaussian
from bnsweep.data.image_folder import load_image_folder
from bnsweep.data.torchvision_sets import (
    CIFAR10,
    CIFAR100,
    FASHION_MNIST,
    MNIST,
    load_cifar,
    load_idx,
)
from bnsweep.errors import DataError
from bnsweep.names import DATASETS as NAMED_FACTS
from bnsweep.parameters import Value

__all__ = ["DATASETS", "load_dataset"]

Loader = Callable[[Mapping[str, Value], Path | None], Images | Regression]

DATASETS: dict[str, Loader] = {
    "digits": lambda parameters, root: load_digits(),
    "gaussian": lambda parameters, root: load_gaussian(int(parameters.get("features", 10))),
    "mnist": lambda parameters, root: load_idx(root or default_root(), MNIST),
    "fashion_mnist": lambda parameters, root: load_idx(root or default_root(), FASHION_MNIST),
    "cifar10": lambda parameters, root: load_cifar(root or default_root(), CIFAR10),
    "cifar100": lambda parameters, root: load_cifar(root or default_root(), CIFAR100),
    "image_folder": lambda parameters, root: load_image_folder(root),
}
"""How each data set is read, from a trial's parameters and the root folder."""


def load_dataset(
    name: str,
    parameters: Mapping[str, Value],
    *,
    root: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    fingerprint: str = "",
) -> Dataset:
    """Read a data set, make sure that it is the one a trial was planned on, and put it on a device.

    Args:
        name: Name in a sweep file, a key of :data:`DATASETS`.
        parameters: Parameters of the trial: ``inputs`` (``half`` where absent) and, for
            ``gaussian``, ``features`` (10 where absent) are read.
        root: Folder of the data sets, :func:`default_root` where absent; for ``image_folder``, the
            prepared folder itself.
        device: Where the tensors shall live.
        dtype: Floating dtype of the inputs.
        fingerprint: What the contents must hash to; where empty, the constant of the data set in
            :data:`bnsweep.names.DATASETS`.

    Returns:
        The data set, resident on ``device``.

    Raises:
        DataError: If the name is unknown, or the data are absent, damaged or not the expected ones.

    Example:
        >>> digits = load_dataset("digits", {"inputs": "half"})
        >>> digits.train_x.shape, digits.test_x.shape
        (torch.Size([1437, 1, 8, 8]), torch.Size([360, 1, 8, 8]))
    """
    if name not in DATASETS:
        raise DataError(f"dataset must be one of {', '.join(DATASETS)}, but found {name}")
    contents = DATASETS[name](parameters, root)
    expected = fingerprint or (NAMED_FACTS[name].fingerprint if name in NAMED_FACTS else "")
    if expected and contents.fingerprint != expected:
        raise DataError(
            f"dataset {name} must have the fingerprint {expected}, which its trials were planned with, "
            f"but what was read has {contents.fingerprint}: the data changed; restore them, or plan anew"
        )
    return contents.dataset(name, parameters, device, dtype)
