"""Measurements of training that change nothing: pure functions of stacked parameters."""

from bnsweep.probes.gradients import LayeredLoss, LossFn, Params, member_gradients, member_shift
from bnsweep.probes.ics import ICSReading, LayerBlock, internal_covariate_shift, linear_covariate_shift
from bnsweep.probes.landscape import LandscapeReading, gradient_landscape
from bnsweep.probes.moments import (
    ActivationMoments,
    MomentsReading,
    activation_moments,
    moment_change,
)
from bnsweep.probes.readings import Row, ics_rows, landscape_rows, moments_rows
from bnsweep.probes.reductions import (
    MemberDifference,
    member_difference,
    member_distance,
    member_norm,
    pairwise_sum,
)

__all__ = [
    "ActivationMoments",
    "ICSReading",
    "LandscapeReading",
    "LayerBlock",
    "LayeredLoss",
    "LossFn",
    "MemberDifference",
    "MomentsReading",
    "Params",
    "Row",
    "activation_moments",
    "gradient_landscape",
    "ics_rows",
    "internal_covariate_shift",
    "landscape_rows",
    "linear_covariate_shift",
    "member_difference",
    "member_distance",
    "member_gradients",
    "member_norm",
    "member_shift",
    "moment_change",
    "moments_rows",
    "pairwise_sum",
]
