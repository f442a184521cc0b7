"""The multi-layer perceptron."""

from __future__ import annotations

from bnsweep.models.network import LayerSpec

__all__ = ["mlp_layers"]


def mlp_layers(inputs: int, depth: int, features: int, classes: int) -> tuple[LayerSpec, ...]:
    """Lay out ``depth`` hidden layers of ``features`` units, each normalized, and a classifier.

    Args:
        inputs: Values of a flattened image.
        depth: Hidden layers.
        features: Units of each.
        classes: Outputs.

    Returns:
        The ``depth + 1`` layers.

    Example:
        >>> [(layer.inputs, layer.outputs) for layer in mlp_layers(64, 2, 16, 10)]
        [(64, 16), (16, 16), (16, 10)]
    """
    widths = [inputs, *[features] * depth]
    hidden = [
        LayerSpec(f"linear{index}", "linear", widths[index - 1], widths[index])
        for index in range(1, depth + 1)
    ]
    last = LayerSpec(f"linear{depth + 1}", "linear", widths[-1], classes, site=False, activated=False)
    return (*hidden, last)
