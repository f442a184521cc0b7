"""The regression problem of the deep linear network: Gaussian inputs, Gaussian linear targets.

References:
    S. Santurkar, D. Tsipras, A. Ilyas and A. Madry, *How Does Batch Normalization Help
    Optimization?*, NeurIPS 2018, https://arxiv.org/abs/1805.11604, Appendix A.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bnsweep.data.contents import Regression, content_fingerprint
from bnsweep.trial import derive_seed

__all__ = ["load_gaussian"]

RECIPE = 1
"""Version of the rule by which the numbers are drawn; the seed depends on it."""

SAMPLES = 1000
FINGERPRINT_FEATURES = 10
GRID = 2.0**-20


def load_gaussian(features: int = FINGERPRINT_FEATURES) -> Regression:
    r"""Draw :math:`x \sim N(0, I)` and targets :math:`y = A x`, always the same ones.

    :math:`A` is ``[features, features]`` with independent N(0, 1) entries; 1 000 samples are for
    training and 1 000 for testing. The draw does not depend on any trial's seed: seeds differ in
    initial weights, not in the problem.

    Every number is rounded to a multiple of :math:`2^{-20}`. That changes no statistic, absorbs the
    last bit in which the logarithms of two machines differ, and makes each product and sum of
    ``A x`` exact in float64 for up to a hundred features, so that every machine has the same data.

    The fingerprint stands for the recipe: it is the content fingerprint of ``A``, train and test
    inputs (as integers, in units of the grid) drawn for 10 features, whatever ``features`` is,
    since ``features`` is a parameter of the trial already.

    Args:
        features: Length of a sample.

    Returns:
        The problem in float64.
    """
    matrix, train_x, test_x = _draw(features)
    reference = _draw(FINGERPRINT_FEATURES) if features != FINGERPRINT_FEATURES else (matrix, train_x, test_x)
    fingerprint = content_fingerprint(*((part / GRID).to(torch.int64) for part in reference))
    return Regression(train_x, train_x @ matrix.T, test_x, test_x @ matrix.T, fingerprint)


def _draw(features: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw A, train and test inputs from NumPy's legacy generator, whose stream is frozen."""
    random = np.random.RandomState(derive_seed(RECIPE, "gaussian", features) % 2**32)
    shapes = ((features, features), (SAMPLES, features), (SAMPLES, features))
    drawn = [torch.from_numpy(np.rint(random.standard_normal(shape) / GRID) * GRID) for shape in shapes]
    return drawn[0], drawn[1], drawn[2]
