"""What is said below the figures: what to see in them, and how they were computed."""

# ruff: noqa: RUF001 (dashes, primes and signs as they are printed)

from __future__ import annotations

from bnsweep.analysis.intervals import LEVEL
from bnsweep.analysis.ranges import FacetRanges
from bnsweep.analysis.tables import lr_text

__all__ = [
    "BAND",
    "DRIFT",
    "FAN",
    "ICS",
    "ICS_LAYERS",
    "LANDSCAPE",
    "MOMENTS",
    "STEPS",
    "TRAINING",
    "against_lr",
    "common_lr",
    "seed_lines",
]

ICS = (
    "G is the gradient of a layer's weights on a batch; G′ is the same after the layers before it have "
    "taken their step. No shift means a difference of 0 and a cosine of 1. The size of gradients differs "
    "between normalizations, so the relative size is shown too. Means over the measured layers."
)
LANDSCAPE = (
    "From the present weights, steps of several lengths are tried along the gradient g; g′ is the "
    "gradient where a step ends. Smaller is smoother: a narrow band of losses, a gradient that changes "
    "little, a small effective β = max ‖g′ − g‖ / step length, shown in units of 1/lr. β cannot exceed "
    "what the shortest step can show and ends there for every normalization once a step uses up the "
    "gradient: compare it early. Values that overflowed or exceed 1e30 leave gaps."
)
BAND = (
    "Between the smallest and the largest value over the step lengths tried, on the same batch; geometric "
    "means over seeds, with each seed's edges as thin lines."
)
ICS_LAYERS = (
    "As above, layer by layer (1-based over weight layers), at the smallest learning rate that all arms have "
    "and at the one that arms are compared at: the paper's Figure 3."
)
FAN = (
    "Quantiles of the first unit of a layer over the batch, after the norm and any noise and before the "
    "non-linearity, in one trial an arm: median, middle half and middle nine tenths. It stands for the "
    "histograms of the paper's Figures 1 (c), 2 and 6."
)
DRIFT = (
    "Above: absolute change of the mean of a layer's activations in one step, mean over units. Below: how "
    "far the mean of its first unit has come since step 0: the paper's Figure 8."
)
STEPS = (
    "Change of the gradient after a step of that length along it: a thin line for every time measured after "
    "the first step (median over seeds), their median bold: the paper's Figure 11. Where lines are flat, the "
    "shortest step has used up the gradient."
)
MOMENTS = (
    "How far the mean and the variance of hidden activations over the batch move from one step to the next: "
    "absolute change, mean over units and layers. Larger is less stable."
)
TRAINING = (
    "Training readings are those of the current minibatch. Curves with many readings are averaged within "
    "equal stretches of steps."
)


def seed_lines(log: bool, fill: bool) -> str:
    """Say what the lines are.

    Args:
        log: Whether means on logarithmic axes are geometric.
        fill: Whether a diverged seed goes on at chance level.
    """
    kind = " (geometric on logarithmic axes)" if log else ""
    after = "and counts at chance from there" if fill else "after which the mean is over the others"
    return (
        f"Thin lines are seeds, thick lines their means{kind}; a cross marks the last reading of a seed that "
        f"diverged, {after}."
    )


def common_lr(ranges: FacetRanges) -> str:
    """Say at which learning rate all arms are shown, and why at that one."""
    lr = lr_text(ranges.common_lr)
    if not any(arm.trains for arm in ranges.arms):
        return f"All arms at learning rate {lr}, the smallest: none trains at any."
    return (
        f"All arms at learning rate {lr}: of those that most arms have, the largest at which most arms train "
        "and fewest diverge with every seed."
    )


def against_lr(ranges: FacetRanges) -> str:
    """Say how final readings against the learning rate are drawn."""
    accuracy = ranges.metric.kind == "accuracy"
    if len(ranges.lrs) == 1:
        said = "Every dot is a seed; the large marker is their mean"
    else:
        said = "Above: every dot is a seed, set beside its learning rate; lines are their means"
    said += " (geometric)" if not accuracy else ""
    said += f", with {100 * LEVEL:.0f} % t intervals. Crosses are seeds that diverged, counted at "
    said += "chance." if accuracy else "the initial loss."
    if len(ranges.lrs) > 1:
        near = "2 points" if accuracy else "a factor of 2"
        said += (
            f" Below: the learning rates that train ({ranges.said_threshold()}). The wide band joins those "
            f"within {near} of the arm's best mean, ticks are learning rates that do not train, and an arrow "
            "says that the range reaches the end of the grid and may reach further."
        )
    if ranges.metric.name == "train_accuracy":
        said += " Training accuracy is that of the last minibatch read."
    return said
