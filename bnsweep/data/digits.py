"""The 1 797 handwritten digits that ship with scikit-learn: 8 x 8 pixels, 17 grey levels, no download.

References:
    E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from bnsweep.data.contents import Images

__all__ = ["load_digits"]

TEST_EVERY = 5
"""Every fifth sample, the first among them, is a test sample."""


def load_digits() -> Images:
    """Read the digits and split them: 1 437 for training, 360 for testing.

    Sample ``i`` of scikit-learn's order is a test sample where ``i % 5 == 0``. Grey levels are 0 to
    16, so 16 counts as white.

    Returns:
        The images, ``[n, 1, 8, 8]``, with their contents' fingerprint.
    """
    rows = torch.from_numpy(_read())
    x = rows[:, :-1].reshape(-1, 1, 8, 8).to(torch.uint8)
    y = rows[:, -1].to(torch.int64)
    test = torch.arange(len(y)) % TEST_EVERY == 0
    return Images.of(x[~test], y[~test], x[test], y[test], classes=10, white=16)


def _read() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return rows of 64 pixels and a label.

    Scikit-learn's own file is read where it is, which spares every worker seconds of imports; its
    public function is asked where the file is not.
    """
    spec = find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt") as file:
                return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits as sklearn_digits  # type: ignore[import-untyped]

    pixels, labels = sklearn_digits(return_X_y=True)
    return np.column_stack([pixels, labels])
