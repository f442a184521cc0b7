"""VGG networks for small images."""

from __future__ import annotations

from bnsweep.errors import Mistake, SpecError
from bnsweep.models.network import LayerSpec

__all__ = ["VGG_STAGES", "vgg_layers"]

VGG_STAGES: dict[str, tuple[int, ...]] = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions in each of the five stages."""

_CHANNELS = (64, 128, 256, 512, 512)
_HEAD = 512
SMALLEST = 8
"""Height and width of the smallest image, in pixels."""


def vgg_layers(
    name: str, channels: int, size: int, classes: int, width: float = 1.0
) -> tuple[tuple[LayerSpec, ...], tuple[str, ...]]:
    """Lay out a VGG [1] for images of ``size`` pixels.

    Five stages of padded 3 x 3 convolutions of 64, 128, 256, 512 and 512 channels, each followed by a
    2 x 2 pooling, then two hidden linear layers of 512 units and the classifier. Every channel and
    unit count is multiplied by ``width`` and rounded, to 1 at least. There is a norm after every
    convolution and hidden linear layer, and no dropout. The linear layers are 512 wide and not 4096
    as in [1]: at 32 x 32 pixels one pixel is left, and not 49.

    A pooling that would leave less than one pixel is left out, and a note says so. What the last
    stage leaves is flattened, ``C * H * W`` units: one pixel up to 63 x 63, 7 x 7 at 224 x 224.

    Args:
        name: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``.
        channels: Image channels.
        size: Height and width of the images in pixels, 8 or more.
        classes: Outputs.
        width: Multiplier of channel and unit counts.

    Returns:
        The layers, and notes on the poolings that were left out.

    Raises:
        SpecError: If the images are smaller than 8 pixels.

    Example:
        >>> layers, notes = vgg_layers("vgg11", 3, 32, 10)
        >>> len(layers), layers[8].inputs, notes
        (11, 512, ())
        >>> vgg_layers("vgg11", 1, 8, 10)[1]
        ('vgg11 on 8 x 8 pixels leaves out pooling 4 and 5: one pixel is left before them',)

    References:
        [1] Simonyan, Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition.
        ICLR 2015. https://arxiv.org/abs/1409.1556
    """
    if size < SMALLEST:
        raise SpecError(
            [
                Mistake(
                    "parameters.model",
                    f"{name} needs images of {SMALLEST} x {SMALLEST} pixels or more",
                    f"{size} x {size}",
                    "use model mlp, or larger images",
                )
            ]
        )
    layers: list[LayerSpec] = []
    left_out: list[str] = []
    pixels, inputs = size, channels
    for stage, (count, base) in enumerate(zip(VGG_STAGES[name], _CHANNELS, strict=True), 1):
        outputs = _scaled(base, width)
        for position in range(1, count + 1):
            pooled = position == count and pixels > 1
            layers.append(LayerSpec(f"conv{len(layers) + 1}", "conv", inputs, outputs, pixels, pooled=pooled))
            inputs = outputs
        if pixels == 1:
            left_out.append(str(stage))
        pixels = max(1, pixels // 2)
    hidden = _scaled(_HEAD, width)
    layers += [
        LayerSpec("linear1", "linear", inputs * pixels**2, hidden),
        LayerSpec("linear2", "linear", hidden, hidden),
        LayerSpec("linear3", "linear", hidden, classes, site=False, activated=False),
    ]
    note = f"{name} on {size} x {size} pixels leaves out pooling {' and '.join(left_out)}: "
    notes = (note + "one pixel is left before " + ("them" if len(left_out) > 1 else "it"),)
    return tuple(layers), notes if left_out else ()


def _scaled(base: int, width: float) -> int:
    return max(1, round(base * width))
