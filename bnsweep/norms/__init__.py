"""What is swept: normalizations, each written for a stack of K members.

A norm takes ``[N, K*C]`` (linear layers) or ``[N, K*C, H, W]`` (convolutions), member-major, and every
parameter and buffer has a leading axis of ``K*C``. One file a family.
"""

from bnsweep.norms.batch import BatchNorm
from bnsweep.norms.custom import check_factory, load_factory
from bnsweep.norms.lp import LpNorm
from bnsweep.norms.noise import SiteNoise, apply_noise, draw_noise
from bnsweep.norms.table import CENTRING, NOISY, NORMS, NormOptions, make_norm
from bnsweep.norms.torch_norms import GroupNorm, InstanceNorm, LayerNorm, RMSNorm

__all__ = [
    "CENTRING",
    "NOISY",
    "NORMS",
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LpNorm",
    "NormOptions",
    "RMSNorm",
    "SiteNoise",
    "apply_noise",
    "check_factory",
    "draw_noise",
    "load_factory",
    "make_norm",
]
