"""The samplers of a search: what each can do, and the options that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bnsweep.sweep.draws import RANDOM_SAMPLERS
from bnsweep.sweep.keys import Key

__all__ = ["OPTUNA_SAMPLERS", "SamplerFacts", "samplers_of"]


@dataclass(frozen=True)
class SamplerFacts:
    """What is known of a sampler before Optuna is imported.

    Attributes:
        options: Options by name; they are passed on to Optuna's class.
        conditions: Whether it learns about settings that stand in some conditions only.
        objectives: Whether it can serve several metrics.
        constraints: Whether it keeps away from conditions that break a constraint.
        warm: Whether it learns from conditions that it did not suggest.
        stopped: Whether it makes use of conditions that were stopped early, or needs none.
        ranges: Ranges of numbers without which it learns nothing: lists are drawn at random.
        needs: Package that it needs beyond bnsweep's own.
    """

    options: Mapping[str, Key] = field(default_factory=dict)
    conditions: bool = False
    objectives: bool = False
    constraints: bool = False
    stopped: bool = False
    warm: bool = False
    ranges: int = 0
    needs: str = ""


def _startup(default: int) -> Key:
    return Key("integer", "Random conditions before the sampler speaks.", default, 0, 1_000_000)


def _probability(text: str, default: float | None) -> Key:
    return Key("number", text, default, 0, 1)


OPTUNA_SAMPLERS: dict[str, SamplerFacts] = {
    "tpe": SamplerFacts(
        {
            "n_startup_trials": _startup(10),
            "n_ei_candidates": Key("integer", "Candidates of which the best is taken.", 24, 1, 100_000),
            "multivariate": Key("flag", "Model settings together.", default=True),
            "group": Key("flag", "Model the settings of each branch of when: together.", default=False),
            "constant_liar": Key("flag", "Keep away from conditions under way.", default=True),
        },
        conditions=True,
        objectives=True,
        constraints=True,
        stopped=True,
        warm=True,
    ),
    "gp": SamplerFacts(
        {
            "n_startup_trials": _startup(10),
            "deterministic_objective": Key("flag", "The objective has no noise.", default=False),
        },
        objectives=True,
        constraints=True,
        warm=True,
    ),
    "cmaes": SamplerFacts(
        {
            "n_startup_trials": _startup(1),
            "sigma0": Key("number", "First step length.", "a sixth of the range", 0, 1e6, open_low=True),
            "popsize": Key("integer", "Conditions of a generation.", "by dimension", 2, 100_000),
            "use_separable_cma": Key("flag", "Use a diagonal covariance.", default=False),
        },
        warm=True,
        ranges=1,
        needs="cmaes",
    ),
    "nsga2": SamplerFacts(
        {
            "population_size": Key("integer", "Conditions of a generation.", 50, 2, 100_000),
            "mutation_prob": _probability("Share of settings drawn anew.", None),
            "crossover_prob": _probability("Share of children with two parents.", 0.9),
            "swapping_prob": _probability("Share of settings from the second parent.", 0.5),
        },
        objectives=True,
        constraints=True,
    ),
    "qmc": SamplerFacts(
        {
            "qmc_type": Key(
                "choice", "Sequence of points.", "sobol", choices=("sobol", "halton", "latin_hypercube")
            )
        },
        conditions=True,
        objectives=True,
        stopped=True,
    ),
}  # fmt: skip
"""Samplers of ``method: optuna``; the first is the default."""


def samplers_of(method: str) -> tuple[str, ...]:
    """Return the legal samplers of a method, the default first."""
    return {"random": RANDOM_SAMPLERS, "optuna": tuple(OPTUNA_SAMPLERS)}.get(method, ())
