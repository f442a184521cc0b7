"""What a data set holds before and after it is put on the device, and how its contents are named.

Images are kept as bytes until they are needed, and converted once. A fingerprint is the first 16
hex digits of a SHA-256, so that a trial's id changes when the data it trains on do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bnsweep.names import DataFacts
from bnsweep.parameters import Value
from bnsweep.trial import short_hash

__all__ = ["Dataset", "Images", "Regression", "content_fingerprint", "source_fingerprint"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set, whole, on one device.

    Attributes:
        name: Name in a sweep file, such as ``digits``.
        facts: Sizes and fingerprint of what was loaded.
        train_x: Inputs, ``[n, C, H, W]`` for images or ``[n, F]``, normalized as ``inputs`` says.
        train_y: Class indices ``[n]`` (``int64``), or targets ``[n, F]`` in the dtype of ``train_x``.
        test_x: As ``train_x``, of the test split.
        test_y: As ``train_y``, of the test split.
    """

    name: str
    facts: DataFacts
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled square images as bytes.

    Attributes:
        train_x: ``uint8`` ``[n, C, H, W]``, from 0 (black) to ``white``.
        train_y: ``int64`` ``[n]``, class indices from 0.
        test_x: As ``train_x``, of the test split.
        test_y: As ``train_y``, of the test split.
        classes: Number of classes.
        fingerprint: Hash of the contents, or of the files that they were read from.
        white: The byte that stands for 1.0.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    fingerprint: str
    white: int = 255

    @classmethod
    def of(
        cls, train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: int, white: int = 255
    ) -> Images:
        """Return images whose fingerprint is that of their contents."""
        fingerprint = content_fingerprint(train_x, train_y, test_x, test_y)
        return cls(train_x, train_y, test_x, test_y, classes, fingerprint, white)

    @property
    def facts(self) -> DataFacts:
        """Sizes and fingerprint of these images."""
        train, channels, size, _ = self.train_x.shape
        return DataFacts(channels, size, self.classes, train, len(self.test_x), self.fingerprint)

    def dataset(
        self, name: str, parameters: Mapping[str, Value], device: torch.device | str, dtype: torch.dtype
    ) -> Dataset:
        r"""Convert the images to numbers on ``device``.

        With bytes :math:`b` and white :math:`w`, an input is :math:`(b - c) / s` where ``inputs`` is

        - ``raw``: :math:`c = 0, s = w`, so that inputs lie in [0, 1];
        - ``half``: :math:`c = s = w / 2`, so that inputs lie in [-1, 1];
        - ``standardized``: :math:`c` and :math:`s` are the mean and the (population) standard
          deviation of each channel over the training split, counted exactly; a channel that never
          changes is only centred.

        One subtraction and one division, each correctly rounded: every device gives equal bits.

        Args:
            name: Name of the data set.
            parameters: Parameters of the trial; ``inputs`` is read, ``half`` where absent.
            device: Where the tensors shall live.
            dtype: Floating dtype of the inputs.

        Returns:
            The data set, resident on ``device``.

        Raises:
            ValueError: If ``inputs`` is none of the three.
        """
        center, spread = self._normalization(str(parameters.get("inputs", "half")))
        center = center.to(device, dtype)[:, None, None]
        spread = spread.to(device, dtype)[:, None, None]
        train_x, test_x = (
            images.to(device).to(dtype).sub_(center).div_(spread) for images in (self.train_x, self.test_x)
        )
        train_y, test_y = self.train_y.to(device), self.test_y.to(device)
        return Dataset(name, self.facts, train_x, train_y, test_x, test_y)

    def _normalization(self, inputs: str) -> tuple[Tensor, Tensor]:
        channels = self.train_x.shape[1]
        if inputs == "standardized":
            moments = [_moments(self.train_x[:, channel]) for channel in range(channels)]
            mean, deviation = torch.tensor(moments, dtype=torch.float64).T
            return mean, deviation.where(deviation > 0, torch.ones_like(deviation))
        constants = {"raw": (0.0, float(self.white)), "half": (self.white / 2, self.white / 2)}
        if inputs not in constants:
            raise ValueError(f"inputs must be raw, half or standardized, but found {inputs!r}")
        center, spread = torch.tensor(constants[inputs], dtype=torch.float64)[:, None].expand(2, channels)
        return center, spread


@dataclass(frozen=True, eq=False)
class Regression:
    """Vectors with vector targets, in float64, that need no normalization.

    Attributes:
        train_x: ``[n, F]``.
        train_y: ``[n, F]``.
        test_x: As ``train_x``, of the test split.
        test_y: As ``train_y``, of the test split.
        fingerprint: Hash of the recipe that made them.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    fingerprint: str

    @property
    def facts(self) -> DataFacts:
        """Sizes and fingerprint; a vector counts as one channel of one pixel."""
        return DataFacts(1, 1, 0, len(self.train_x), len(self.test_x), self.fingerprint)

    def dataset(
        self, name: str, parameters: Mapping[str, Value], device: torch.device | str, dtype: torch.dtype
    ) -> Dataset:
        """Put the vectors on ``device`` in ``dtype``.

        Args:
            name: Name of the data set.
            parameters: Parameters of the trial; none is read.
            device: Where the tensors shall live.
            dtype: Floating dtype of inputs and targets.

        Returns:
            The data set, resident on ``device``.
        """
        tensors = (self.train_x, self.train_y, self.test_x, self.test_y)
        return Dataset(name, self.facts, *(tensor.to(device, dtype) for tensor in tensors))


def content_fingerprint(*tensors: Tensor) -> str:
    """Return the first 16 hex digits of the SHA-256 of tensors: shapes and little-endian values.

    Images are given as ``uint8``, labels as ``int64``, in the order train images, train labels,
    test images, test labels.

    Example:
        >>> content_fingerprint(torch.tensor([1, 2])) == content_fingerprint(torch.tensor([2, 1]))
        False
        >>> content_fingerprint(torch.tensor([[1, 2]])) == content_fingerprint(torch.tensor([1, 2]))
        False
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        array = tensor.contiguous().cpu().numpy()
        digest.update(f"{tuple(array.shape)}".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()[:16]


def source_fingerprint(md5: Mapping[str, str]) -> str:
    """Return a fingerprint made of the published MD5 sums of a data set's source files.

    For data sets whose publisher fixes the files: whoever holds files with these sums holds these
    data, and the fingerprint is known without having them.

    Args:
        md5: MD5 sum in hex digits by file name.

    Example:
        >>> source_fingerprint({"a": "00", "b": "11"}) == source_fingerprint({"b": "11", "a": "00"})
        True
    """
    return short_hash({"md5": dict(md5)})


def _moments(values: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of bytes, from their exact histogram."""
    counts = torch.bincount(values.flatten(), minlength=256).double()
    levels = torch.arange(256, dtype=torch.float64)
    mean = (counts * levels).sum() / counts.sum()
    variance = (counts * (levels - mean).square()).sum() / counts.sum()
    return mean.item(), variance.sqrt().item()
