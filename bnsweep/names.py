"""The vocabulary of a trial: names of networks, norms and data sets, kernels, and what is known of the data.

Needs the standard library alone, as :mod:`bnsweep.trial` does.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DATASETS", "DEFAULT_KERNEL", "KERNELS", "LAYER_CHOICES", "NAMES", "DataFacts"]

NAMES: dict[str, tuple[str, ...]] = {
    "model": ("vgg11", "vgg13", "vgg16", "vgg19", "dln", "mlp"),
    "norm": (
        "none", "batch", "noisy_batch", "noisy_none", "l1", "l2", "linf",
        "layer", "group", "instance", "rms",
    ),
    "dataset": ("digits", "gaussian", "mnist", "fashion_mnist", "cifar10", "cifar100", "image_folder"),
    "optimizer": ("sgd", "adam", "adamw"),
    "init": ("glorot_normal", "glorot_uniform", "he_normal", "he_uniform"),
    "activation": ("relu", "gelu"),
    "pool": ("max", "avg"),
    "augment": ("none", "flip_crop"),
    "inputs": ("raw", "half", "standardized"),
    "precision": ("float32", "float64", "bfloat16"),
    "weight_decay_as": ("optimizer", "loss"),
    "weight_decay_on": ("weights", "all"),
    "noise_sigma": ("std", "variance"),
}  # fmt: skip
"""Legal names of every parameter that is a choice."""

LAYER_CHOICES = ("all",)

KERNELS: dict[str, str] = {
    "grouped": "one grouped convolution, or one batched matrix product, for all members",
    "channels_last": "as grouped, with the convolutions in channels-last memory",
    "fused": "dense networks without autograd, both passes written out; others as grouped",
    "moments": "full-batch deep linear networks on a few points of equal moments; others as fused",
    "loop": "one member after another, each as a network of its own: the reference",
    "loop_channels_last": "one member after another, with the convolutions in channels-last memory",
}
"""How a pack can be computed. All mean the same numbers, and differ in rounding and in speed."""

DEFAULT_KERNEL = "moments"
"""How a pack is computed where nobody chose: as the signature allows, ``moments``, ``fused`` or ``grouped``.

Dense networks are computed so after a calibration too, so that two runs of a sweep have the same bits."""


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set before it is read.

    Attributes:
        channels: Image channels ``C`` (for ``gaussian``, 1).
        size: Height and width in pixels (for ``gaussian``, 1).
        classes: Number of classes; 0 for a regression problem.
        train: Number of training samples.
        test: Number of test samples.
        fingerprint: Hash of the data's contents; empty where it is not known yet.
    """

    channels: int
    size: int
    classes: int
    train: int
    test: int
    fingerprint: str = ""


DATASETS: dict[str, DataFacts] = {
    "digits": DataFacts(1, 8, 10, 1437, 360, "489bbe9cbb7c00ed"),
    "gaussian": DataFacts(1, 1, 0, 1000, 1000, "291b6b9ea869142b"),
    "mnist": DataFacts(1, 28, 10, 60_000, 10_000, "c4bed6c2284c9513"),
    "fashion_mnist": DataFacts(1, 28, 10, 60_000, 10_000, "c2df23e9d135ade7"),
    "cifar10": DataFacts(3, 32, 10, 50_000, 10_000, "e985f830890e4a53"),
    "cifar100": DataFacts(3, 32, 100, 50_000, 10_000, "ec71ec4845486738"),
}
"""Facts of every named data set; ``image_folder`` brings its own (``bnsweep data prepare``)."""
