"""The deep linear network."""

from __future__ import annotations

from bnsweep.models.network import LayerSpec

__all__ = ["dln_layers"]


def dln_layers(depth: int, features: int) -> tuple[LayerSpec, ...]:
    """Lay out the deep linear network of the paper: x -> W_depth ... W_1 x.

    Square layers without bias or activation. The paper does not say whether the last layer is
    normalized: here there is a norm after every layer, the last one included.

    Args:
        depth: Number of layers; 25 in the paper.
        features: Units of every layer; 10 in the paper.

    Returns:
        The layers.

    Example:
        >>> [layer.name for layer in dln_layers(2, 10)]
        ['linear1', 'linear2']
    """
    return tuple(
        LayerSpec(f"linear{index}", "linear", features, features, activated=False, bias=False)
        for index in range(1, depth + 1)
    )
