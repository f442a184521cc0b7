"""The paper's claims: sentence, place, what a sweep must have, smallest effect that matters.

Every claim is judged in the same way: its *parts* are paired differences that must lie above a
threshold set before. *Supported* is a claim all of whose parts lie wholly above, *refuted* one that
has a part wholly below, at the claim's level after Holm's correction over the sweep; else it is
*undecided*, and the reason is said.
"""

# ruff: noqa: RUF001 (dashes, primes and signs as they are printed)

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bnsweep.analysis.claims import curves, final_scores, theory, training
from bnsweep.analysis.claims.curves import CurveTable
from bnsweep.analysis.claims.final_scores import ScoreTable
from bnsweep.analysis.claims.parts import Findings
from bnsweep.errors import BnsweepError

__all__ = ["CATALOGUE", "ClaimDefinition", "find"]


@dataclass(frozen=True)
class ClaimDefinition:
    """One claim of the paper.

    Attributes:
        name: As sweep files write it.
        sentence: The claim.
        where: Section and figures of the paper.
        arms: Norms that a sweep must have.
        any_of: Norms of which it must have one at least.
        probes: Probes that it must take.
        min_effect: Smallest effect that matters, for accuracies and for losses.
        effect: What the effect is, in words, with its unit.
        estimand: What is measured and tested.
        paper: The paper's own values, of the VGG and of the deep linear network, where it has them.
        scores: Judges final scores; ``None`` where curves are needed.
        curves: Judges curves; ``None`` where final scores suffice.
        readings: Network-wide readings along training that it goes by.
        learning_rates: Least number of learning rates.
    """

    name: str
    sentence: str
    where: str
    arms: tuple[str, ...]
    min_effect: Mapping[str, float]
    effect: str
    estimand: str
    any_of: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    paper: Mapping[str, str] = field(default_factory=dict)
    scores: Callable[[ScoreTable, float], Findings] | None = None
    curves: Callable[[CurveTable, float], Findings] | None = None
    readings: tuple[str, ...] = ()
    learning_rates: int = 1

    @property
    def norms(self) -> tuple[str, ...]:
        """Every norm that it looks at."""
        return self.arms + self.any_of

    def needs(self) -> str:
        """Say what a sweep must have."""
        parts = [f"norm {', '.join(self.arms)}"]
        if self.any_of:
            parts.append(f"one of {', '.join(self.any_of)}")
        parts += [f"the probe {probe}" for probe in self.probes]
        if self.learning_rates > 1:
            parts.append(f"{self.learning_rates} learning rates or more")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return what people are told of it as plain data."""
        return {
            "name": self.name, "sentence": self.sentence, "where": self.where, "arms": list(self.arms),
            "any_of": list(self.any_of), "probes": list(self.probes), "min_effect": dict(self.min_effect),
            "effect": self.effect, "estimand": self.estimand, "paper": dict(self.paper),
        }  # fmt: skip

    def least(self, kind: str) -> float:
        """Return the smallest effect that matters for a metric of that kind."""
        return self.min_effect.get(kind, next(iter(self.min_effect.values())))


_LP = ("l1", "l2", "linf")
_TRAINING = ("train_accuracy", "train_loss")
_EARLY = "over the first third of training (the first step and the last third are shown beside it)"
_BOTH_TRAIN = "mean over the learning rates at which both arms train and no seed diverges"
_MEDIAN = f"medians {_EARLY}; {_BOTH_TRAIN}"
_AT_BATCH = "over the learning rates at which batch trains, a diverged seed counting as untrained"
_WITHIN = "within rounding in double precision, a relative error of 2⁻²⁶"
_SHARE = (
    "share of the measured layers and steps of the networks with BatchNorm, over the learning rates at which "
    "no seed diverges, at which"
)
_MISSES = "share of layers and steps that may miss it"
_RATIO = "decimal logarithm of the ratio"

_CLAIMS = (
    ClaimDefinition(
        "lr_robustness",
        "With BatchNorm, larger learning rates train.",
        "Sections 1 and 3.1, Figure 1 (a, b)",
        ("none", "batch"),
        {"any": 0.3},
        "decades of learning rate",
        "batch − none: decades between the largest learning rates whose final score is above the level that "
        "counts as training (half way from an untrained network to the best arm), seed by seed. Beside "
        "it: mean "
        "score over the grid, learning-rate sensitivity (Wortsman et al. 2023), width of the range as "
        "good as "
        "an arm's own best",
        paper={
            "vgg": "lr 0.1: 82.9 and 80.0 % test accuracy with and without; lr 0.5: 80.2 and 10.0 %",
        },
        scores=final_scores.lr_robustness,
        learning_rates=2,
    ),
    ClaimDefinition(
        "noise_harmless",
        "Noise behind BatchNorm, which shifts its outputs at every step, hardly harms: both train better "
        "than "
        "no normalization.",
        "Section 2.1, Figure 2",
        ("none", "batch", "noisy_batch"),
        {"accuracy": 0.02, "loss": 0.1},
        "points of accuracy (a fraction) that noise may cost; decades of loss in a regression",
        f"mean training score, as the figure shows it, {_AT_BATCH}: noisy_batch − batch above −min_effect "
        "over the last third of training; batch − none and noisy_batch − none above 0 over the first third, "
        "since at the end all three are alike in the figure. Beside it: the final score, of which the paper "
        "says nothing. Where several noise levels are swept, the one next to 1",
        paper={"vgg": "last 1 000 steps, training accuracy: 97.9 % noisy, 98.7 % BatchNorm, 99.6 % none; "
        "at step "
               "1 000: 76, 80 and 52 %"},
        readings=_TRAINING,
        curves=training.noise_harmless,
    ),
    ClaimDefinition(
        "noise_kills_unnormalized",
        "The same noise keeps a network without normalization from training.",
        "Section 2.1 (text)",
        ("none", "noisy_none"),
        {"accuracy": 0.1, "loss": 0.3},
        "points of accuracy (a fraction) above chance that still count as not training; decades of loss",
        "mean training score of noisy_none over the last third of training, at the learning rates at which "
        "none trains, less than min_effect above an untrained network; a diverged seed counts as untrained. "
        "Beside it: the final score",
        paper={"vgg": "no curve given"},
        readings=_TRAINING,
        curves=training.noise_kills,
    ),
    ClaimDefinition(
        "ics_not_reduced",
        "BatchNorm does not reduce internal covariate shift.",
        "Section 2.2, Definition 2.1, Figure 3",
        ("none", "batch"),
        {"any": 0.1},
        f"{_RATIO} of the shifts, and the cosine, by which BatchNorm may reduce it",
        f"batch / none of ‖G − G′‖ above −min_effect in decimal logarithms, and none − batch of cos(G, "
        f"G′) above "
        f"−min_effect: {_MEDIAN}",
        probes=("ics",),
        paper={
            "vgg": "lr 0.1, layer 5, steps 500 to 2 000: ‖G − G′‖ 0.92 with and 0.82 without, cosine 0.73 "
            "and 0.68",
            "dln": "lr 1e-7: cosine above 0.996 without, −0.97 to 0.99 with; ‖G − G′‖ 100 to 10 000 times "
            "larger "
            "with",
        },
        readings=("ics/l2", "ics/cosine", "ics/relative"),
        curves=curves.ics_not_reduced,
    ),
    ClaimDefinition(
        "loss_variation",
        "With BatchNorm the loss varies less along the gradient.",
        "Section 3.2, Figures 4 (a) and 10",
        ("none", "batch"),
        {"any": math.log10(1.5)},
        f"{_RATIO} of the widths",
        f"none / batch of the width of the loss band: {_MEDIAN}",
        probes=("landscape",),
        paper={
            "vgg": "median width, steps 1 000 to 3 000: 2.51 without, 0.44 with: ×5.7",
            "dln": "median upper edge, steps 0 to 500: 2.3e11 without, 8.3e4 with",
        },
        readings=("landscape/loss_width",),
        curves=partial(
            curves.log_ratio, reading="landscape/loss_width", above="none", below="batch",
            name="width of the loss band",
        ),
    ),
    ClaimDefinition(
        "gradient_predictiveness",
        "With BatchNorm the gradient predicts itself better: it changes less along its own direction.",
        "Section 3.2, Figures 4 (b), 10 and 11",
        ("none", "batch"),
        {"any": math.log10(1.5)},
        f"{_RATIO} of the changes",
        f"none / batch of the largest ‖g′ − g‖ over the step lengths: {_MEDIAN}",
        probes=("landscape",),
        paper={
            "vgg": "median upper edge, steps 1 000 to 3 000: 86 without, 27 with: ×3.2; at step 0 the "
            "reverse, 2.4 "
            "without and 145 with",
            "dln": "upper edge, steps 0 to 500: 8.3e12 without, 2.1e6 with",
        },
        readings=("landscape/gradient_change_max",),
        curves=partial(
            curves.log_ratio, reading="landscape/gradient_change_max", above="none", below="batch",
            name="change of the gradient",
        ),
    ),
    ClaimDefinition(
        "effective_beta",
        "With BatchNorm the loss is smoother: its effective β along the gradient is smaller.",
        "Section 3.2, Figures 4 (c) and 10",
        ("none", "batch"),
        {"any": 0.1},
        f"{_RATIO} of the smoothnesses",
        f"none / batch of β · lr: {_MEDIAN}",
        probes=("landscape",),
        paper={
            "vgg": "median β, steps 1 000 to 3 000: 20.9 without, 19.4 with: ×1.08 (both near the largest "
            "value that "
            "the shortest step can show, 20)",
            "dln": "β 3.4e5 without and 8.1e6 with at step 0; 2.0e6 for both late",
        },
        readings=("landscape/beta_lr",),
        curves=partial(
            curves.log_ratio, reading="landscape/beta_lr", above="none", below="batch",
            name="effective β · lr",
        ),
    ),
    ClaimDefinition(
        "trains_faster",
        "With BatchNorm a network trains faster at the same learning rate.",
        "Section 1, Figure 1 (a)",
        ("none", "batch"),
        {"accuracy": 0.05, "loss": 0.1},
        "points of accuracy (a fraction); decades of loss in a regression",
        "batch − none of the mean training score over the first third of training (the last third and the "
        f"final score are shown beside it); {_BOTH_TRAIN}",
        paper={
            "vgg": "lr 0.1, training accuracy at step 1 000 and 2 000: 82 and 92 % with, 52 and 75 % without",
            "dln": "lr 1e-6, loss at step 1 000: 1 469 with, 4 218 without",
        },
        readings=_TRAINING,
        curves=training.trains_faster,
    ),
    ClaimDefinition(
        "lp_train_as_well",
        "Normalizing by an Lp magnitude trains as well as BatchNorm.",
        "Section 3.3, Figures 5 and 13",
        ("batch",),
        {"accuracy": 0.02, "loss": 0.1},
        "points of accuracy (a fraction) that may be lost; decades of loss in a regression",
        f"mean training score over the last third of training, as the figures show it, {_AT_BATCH}: each of "
        "l1, l2, linf that is swept − batch above −min_effect. Beside it: the first third, and the final "
        "score",
        any_of=_LP,
        paper={
            "vgg": "training accuracy at step 1 000: 81 % BatchNorm, 82 % each of L1, L2, L∞; all above "
            "98.6 % at the "
            "end",
            "dln": "final loss: BatchNorm 479, L1 97, L2 481, L∞ 986",
        },
        readings=_TRAINING,
        curves=training.as_good,
    ),
    ClaimDefinition(
        "lp_shift_more",
        "Lp normalizations shift the distributions of activations more than no normalization does.",
        "Section 3.3, Figure 6",
        ("none",),
        {"any": 0.1},
        f"{_RATIO} of the changes",
        f"each of l1, l2, linf / none of the step-to-step change of the mean and of the variance of "
        f"activations: "
        f"{_MEDIAN}",
        any_of=_LP,
        probes=("moments",),
        paper={"vgg": "histograms at layer 11; no number given"},
        readings=("moments/mean_change", "moments/variance_change"),
        curves=curves.lp_shift,
    ),
    ClaimDefinition(
        "lp_loss_variation",
        "With Lp normalizations, too, the loss varies less along the gradient.",
        "Section 3.3, Figure 12",
        ("none",),
        {"any": math.log10(1.5)},
        f"{_RATIO} of the widths",
        f"none / each of l1, l2, linf of the width of the loss band: {_MEDIAN}",
        any_of=_LP,
        probes=("landscape",),
        paper={"vgg": "median width, steps 1 000 to 3 000: none 2.51, L1 0.50, L2 0.34, L∞ 0.29"},
        readings=("landscape/loss_width",),
        curves=curves.lp_landscape,
    ),
    ClaimDefinition(
        "theorem_4_1",
        "BatchNorm hands down the gradient without its mean and its part along the activations, rescaled: "
        "‖∂L/∂y‖² = γ²/s² · (‖g‖² − ⟨1, g⟩²/m − (1 + ε/s²) ⟨g, ŷ⟩²/m) for every unit, with g = ∂L/∂z.",
        "Section 4, Theorem 4.1, with 1/m where 1/√m is printed",
        ("batch",),
        {"any": 0.05},
        _MISSES,
        f"{_SHARE} every unit's two sides agree {_WITHIN} (of γ²/s² · ‖g‖²). Beside it: units that break the "
        "inequality as it is printed",
        probes=("theory",),
        paper={
            one: "an inequality with 1/√m before the last term, of which the right side can be negative"
            for one in ("vgg", "dln")
        },
        curves=partial(
            theory.holds, errors={"theory/gradient_error": theory.ROUNDING},
            beside={
                "theory/printed_violated": "units that break the printed inequality",
                "theory/gradient_removed": "part of ‖g‖² that the two subtracted terms take away",
            },
        ),
    ),
    ClaimDefinition(
        "theorem_4_2",
        "The second derivative of the loss along a layer's gradient is the one behind the norm, rescaled, "
        "less γ/(m s²) · ⟨g, ŷ⟩ ‖∂L/∂y‖².",
        "Section 4, Theorem 4.2, as an equality",
        ("batch",),
        {"any": 0.05},
        _MISSES,
        f"{_SHARE} both sides, for ε > 0 and summed over units, agree {_WITHIN} (of the sum of their terms). "
        "Beside it: units with γ ⟨g, ŷ⟩ ≥ 0, which a smaller second derivative needs",
        probes=("theory",),
        curves=partial(
            theory.holds, errors={"theory/curvature_error": theory.ROUNDING},
            beside={"theory/curvature_condition": "units with γ ⟨g, ŷ⟩ ≥ 0"},
        ),
    ),
    ClaimDefinition(
        "observation_4_3",
        "BatchNorm can be undone: with γ = s and β = μ a layer returns what it takes, so that no network is "
        "lost.",
        "Section 4, Observation 4.3",
        ("batch",),
        {"any": 0.05},
        _MISSES,
        f"{_SHARE} what the layer returns with γ = s and β = μ differs from what it takes by at most 1e-12 "
        "of the largest activation",
        probes=("theory",),
        curves=partial(theory.holds, errors={"theory/undone_error": 1e-12}),
    ),
    ClaimDefinition(
        "lemma_4_5",
        "With BatchNorm, weights as good as those found lie nearer to the initial ones, since the loss does "
        "not see their scale.",
        "Section 4, Lemma 4.5",
        ("batch",),
        {"any": 0.05},
        _MISSES,
        f"{_SHARE}, after the first step, ⟨W₀, W⟩ > 0, which the lemma needs, and ⟨W, ∂L/∂W⟩ is the value "
        f"that ε leaves it (0 for ε = 0) {_WITHIN} (of ‖W‖ ‖∂L/∂W‖). Beside it: how much nearer in squared "
        "distance",
        probes=("theory",),
        curves=partial(
            theory.holds, errors={"theory/scale_error": theory.ROUNDING}, positive=("theory/start_cosine",),
            beside={"theory/distance_saved": "part of ‖W₀ − W‖² that the nearer weights save"},
            first_step=False,
        ),
    ),
)  # fmt: skip

CATALOGUE: Mapping[str, ClaimDefinition] = {claim.name: claim for claim in _CLAIMS}
"""Every claim that can be judged, by name."""


def find(name: str) -> ClaimDefinition:
    """Return a claim by name.

    Raises:
        BnsweepError: If there is none of that name.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    close = difflib.get_close_matches(name, CATALOGUE, 1)
    hint = f"did you mean {close[0]}?" if close else "bnsweep claims lists them."
    raise BnsweepError(f"A claim must be one of the catalogue's, but found {name}; {hint}")
