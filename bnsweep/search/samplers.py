"""Optuna's samplers: made anew for every suggestion, with a seed of its own, and rounded."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from bnsweep.errors import Mistake, SpecError
from bnsweep.sweep.draws import condition_at, points
from bnsweep.sweep.samplers import OPTUNA_SAMPLERS
from bnsweep.sweep.spec import SweepSpec
from bnsweep.trial import derive_seed

from .databases import driver_mistake
from .spaces import Space, settle

__all__ = ["PointSampler", "SettledSampler", "check_sampler", "name_of", "quiet", "sampler_for"]

_CLASSES = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "nsga2": "NSGAIISampler",
}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Optuna says to users of Optuna: experimental options, independent sampling."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def name_of(spec: SweepSpec) -> str:
    """Return the sampler of a search; the first of the table by default."""
    return str(spec.search.get("sampler", next(iter(OPTUNA_SAMPLERS))))


def check_sampler(spec: SweepSpec) -> None:
    """Make the sampler once.

    Raises:
        SpecError: If its package is absent, or it refuses its options.
    """
    name = name_of(spec)
    needs = OPTUNA_SAMPLERS[name].needs
    if needs and importlib.util.find_spec(needs) is None:
        hint = f"pip install {needs}"
        mistake = Mistake("search.sampler", "must be installed", f"{name} without package {needs}", hint)
        raise SpecError([mistake], spec.source)
    if missing := driver_mistake("search.storage", str(spec.search.get("storage", ""))):
        raise SpecError([missing], spec.source)
    try:
        space = Space(spec.parameters)
        warm = [create_trial(value=0.0)] if spec.search.get("warm_start") else []
        sampler_for(spec, space, 0, warm)
    except (ValueError, TypeError) as error:
        mistake = Mistake("search.options", "must be options that Optuna takes", str(error))
        raise SpecError([mistake], spec.source) from None


def sampler_for(spec: SweepSpec, space: Space, number: int, known: Sequence[FrozenTrial] = ()) -> BaseSampler:
    """Return the sampler that suggests one condition.

    No random state outlives a suggestion: the sampler of suggestion ``number`` has a seed of its
    own, so that a search which is rebuilt goes on as it would have.

    Args:
        spec: The sweep.
        space: Its settings.
        number: The number of the suggestion.
        known: What a warm start knew, for a sampler that learns from its own conditions alone.
    """
    name, seed = name_of(spec), int(spec.search.get("seed", 0))
    options: dict[str, Any] = dict(spec.search.get("options", {}))
    if name == "qmc":
        return PointSampler(space, str(options.get("qmc_type", "sobol")), seed)
    if name == "tpe":
        options.setdefault("multivariate", True)
        options.setdefault("group", space.branches and options["multivariate"])
    else:
        options |= {} if name == "nsga2" else {"warn_independent_sampling": False}
        options |= {"source_trials": list(known)} if name == "cmaes" and known else {}
    with quiet():
        made = getattr(optuna.samplers, _CLASSES[name])(
            seed=derive_seed(seed, "suggestion", number) % 2**32, **options
        )
    return SettledSampler(made, space)


class SettledSampler(BaseSampler):
    """A sampler whose values are settled before Optuna stores them.

    What the sampler learns from is then what was trained: numbers of 6 significant digits.

    Args:
        inner: The sampler.
        space: The settings.
    """

    def __init__(self, inner: BaseSampler, space: Space) -> None:
        self.inner, self.space = inner, space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Ask the sampler."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the sampler, and settle what it says."""
        found = self.inner.sample_relative(study, trial, search_space)
        return {name: settle(self.space.free[name], value) for name, value in found.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the sampler, and settle what it says."""
        value = self.inner.sample_independent(study, trial, param_name, param_distribution)
        return settle(self.space.free[param_name], value)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the sampler."""
        self.inner.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tell the sampler."""
        self.inner.after_trial(study, trial, state, values)


class PointSampler(BaseSampler):
    """Quasi-random points by the number of the trial, the same as those of ``method: random``.

    Optuna's own sampler of such points takes its search space from the first trial, and counts
    points in the study: what it suggests then depends on what has finished.
    """

    def __init__(self, space: Space, sequence: str, seed: int) -> None:
        self.space = space
        self._points = points(sequence, list(space.free), seed)
        self._seen: list[Sequence[float]] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every setting that leaves a choice."""
        return dict(self.space.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the settings at the trial's point, also those that will not apply."""
        while len(self._seen) <= trial.number:
            self._seen.append(next(self._points))
        free = list(self.space.free.values())
        unbound = [setting.always() for setting in free]
        return dict(condition_at(unbound, unbound, self._seen[trial.number]))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never called: every setting has its coordinate."""
        raise AssertionError(param_name)
