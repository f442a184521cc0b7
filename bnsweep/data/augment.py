"""Random crops and flips of whole batches, on the device the images are on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from bnsweep.data.transfer import sent
from bnsweep.trial import derive_seed

__all__ = ["crop_padding", "draw_flip_crop", "flip_crop"]


def crop_padding(size: int) -> int:
    """Return how many pixels are padded at each edge: an eighth of the size, at least 1.

    Halves are rounded up.

    Example:
        >>> [crop_padding(size) for size in (8, 28, 32, 64)]
        [1, 4, 4, 8]
    """
    return max(1, (size + 4) // 8)


def draw_flip_crop(seed: int, step: int, n: int, size: int) -> Tensor:
    """Draw the crops and flips of one step, on the CPU, so that every device gets the same ones.

    Args:
        seed: The trial's seed.
        step: Updates done so far.
        n: Samples in the batch.
        size: Height and width of the images in pixels.

    Returns:
        ``int64`` ``[n, 3]``: top and left edge of the crop within the padded image, uniform in
        0 ... ``2 * crop_padding(size)``, and 1 where the image is mirrored (probability 1/2).
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "augment", step))
    corner = torch.randint(2 * crop_padding(size) + 1, (n, 2), generator=generator)
    flip = torch.randint(2, (n, 1), generator=generator)
    return torch.cat([corner, flip], dim=1)


def flip_crop(x: Tensor, draws: Tensor) -> Tensor:
    """Crop each image at its own place after zero padding, then mirror it where drawn.

    Zero is the zero of the normalized inputs: black for ``raw``, mid-grey for ``half``, the
    training split's mean for ``standardized``. For 32 pixels the padding is the usual 4.

    Args:
        x: Images ``[N, C, H, W]`` with ``H == W``. Members of a pack go along ``N``, one after the
            other, with their draws concatenated in the same order.
        draws: ``[N, 3]`` as :func:`draw_flip_crop` returns them, on any device.

    Returns:
        A new tensor like ``x``.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> x = torch.arange(1.0, 5.0).reshape(1, 1, 2, 2)
        >>> flip_crop(x, torch.tensor([[1, 1, 1]])).flatten()  # the middle, mirrored
        tensor([2., 1., 4., 3.])
        >>> flip_crop(x, torch.tensor([[2, 1, 0]])).flatten()  # one pixel further down
        tensor([3., 4., 0., 0.])
    """
    n, channels, size, width = x.shape
    if size != width or draws.shape != (n, 3):
        raise ValueError(
            "must hold H == W and draws.shape == (N, 3), "
            f"but got (x.shape={tuple(x.shape)}, draws.shape={tuple(draws.shape)})"
        )
    top, left, flip = sent(draws, x.device)[:, :, None].unbind(1)
    line = torch.arange(size, device=x.device)
    rows = top + line
    columns = left + torch.where(flip > 0, size - 1 - line, line)
    sample = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[:, None, None]
    padded = pad(x, [crop_padding(size)] * 4)
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
