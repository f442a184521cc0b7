"""Networks, each written for a stack of K members; ``K = 1`` is the ordinary network."""

from bnsweep.models.layers import StackedConv, StackedLinear
from bnsweep.models.network import LayerInfo, LayerSpec, NetworkPlan, StackedNet, parameter_decay
from bnsweep.models.table import MODELS, make_model

__all__ = [
    "MODELS",
    "LayerInfo",
    "LayerSpec",
    "NetworkPlan",
    "StackedConv",
    "StackedLinear",
    "StackedNet",
    "make_model",
    "parameter_decay",
]
