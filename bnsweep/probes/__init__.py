"""Measurements of training that change nothing: pure functions of stacked parameters."""

from bnsweep.probes.activations import ActivationsReading, sampled_activations
from bnsweep.probes.gradients import LayeredLoss, LossFn, Params, member_gradients, member_shift
from bnsweep.probes.ics import ICSReading, LayerBlock, internal_covariate_shift, linear_covariate_shift
from bnsweep.probes.landscape import LandscapeReading, gradient_landscape
from bnsweep.probes.moments import (
    ActivationMoments,
    MomentsReading,
    activation_moments,
    moment_change,
)
from bnsweep.probes.readings import (
    Row,
    activations_rows,
    ics_rows,
    landscape_rows,
    moments_rows,
    theory_rows,
)
from bnsweep.probes.reductions import (
    MemberDifference,
    member_difference,
    member_distance,
    member_norm,
    pairwise_sum,
)
from bnsweep.probes.theory import TheoryReading, layer_theory

__all__ = [
    "ActivationMoments",
    "ActivationsReading",
    "ICSReading",
    "LandscapeReading",
    "LayerBlock",
    "LayeredLoss",
    "LossFn",
    "MemberDifference",
    "MomentsReading",
    "Params",
    "Row",
    "TheoryReading",
    "activation_moments",
    "activations_rows",
    "gradient_landscape",
    "ics_rows",
    "internal_covariate_shift",
    "landscape_rows",
    "layer_theory",
    "linear_covariate_shift",
    "member_difference",
    "member_distance",
    "member_gradients",
    "member_norm",
    "member_shift",
    "moment_change",
    "moments_rows",
    "pairwise_sum",
    "sampled_activations",
    "theory_rows",
]
