"""Random and quasi-random conditions: drawn by index, so that raising ``num_trials`` only adds.

Condition ``i`` depends on the search's seed and on ``i`` alone. Settings without a choice are copied;
every other one takes a coordinate of the point, also where its ``when`` does not hold, so that the
conditions of one setting do not shift another. A condition that was drawn before is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bnsweep.parameters import Value
from bnsweep.sweep.expansion import Condition, in_order
from bnsweep.sweep.settings import Setting
from bnsweep.sweep.spec import SweepSpec
from bnsweep.trial import derive_seed

__all__ = ["RANDOM_SAMPLERS", "DrawnOutError", "condition_at", "draw_conditions", "free_settings", "points"]

RANDOM_SAMPLERS = ("independent", "sobol", "halton", "latin_hypercube")
"""Ways to draw points; the first is the default."""

PATIENCE = 200
"""Draws in a row without a new condition, and 20 more for each one found, before the search gives up."""


class DrawnOutError(ValueError):
    """There are fewer conditions than were asked for."""


def free_settings(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings that leave a choice, in file order."""
    return [setting for setting in settings if setting.continuous or len(setting.values) > 1]


def draw_conditions(spec: SweepSpec) -> list[Condition]:
    """Return the conditions of a random search, without defaults, each once, in the order drawn.

    Args:
        spec: A spec with ``search.num_trials``.

    Raises:
        DrawnOutError: If there are fewer different conditions.
    """
    options: Mapping[str, Any] = spec.search
    wanted = int(options["num_trials"])
    free = free_settings(spec.parameters)
    stream = points(
        str(options.get("sampler", RANDOM_SAMPLERS[0])), [s.name for s in free], int(options.get("seed", 0))
    )
    found: dict[tuple[tuple[str, Value], ...], Condition] = {}
    idle = 0
    while len(found) < wanted:
        condition = condition_at(spec.parameters, free, next(stream))
        key = tuple(condition.items())
        idle = idle + 1 if key in found else 0
        found.setdefault(key, condition)
        if idle > PATIENCE + 20 * len(found):
            raise DrawnOutError(f"{len(found)} different conditions")
    return list(found.values())


def condition_at(settings: Sequence[Setting], free: Sequence[Setting], point: Sequence[float]) -> Condition:
    """Return the condition at a point of the unit cube.

    Args:
        settings: All settings.
        free: Those that leave a choice, one for each coordinate.
        point: Coordinates in ``[0, 1)``.

    Example:
        >>> norm = Setting("norm", ("none", "batch"))
        >>> condition_at([norm], [norm], [0.7])
        {'norm': 'batch'}
    """
    coordinate = {setting.name: u for setting, u in zip(free, point, strict=True)}
    condition: Condition = {}
    for setting in in_order(settings):
        if setting.holds(condition):
            u = coordinate.get(setting.name)
            condition[setting.name] = setting.values[0] if u is None else setting.at(u)
    return condition


def points(sampler: str, names: Sequence[str], seed: int) -> Iterator[tuple[float, ...]]:
    """Yield points of the unit cube without end, the same ones for the same arguments.

    Args:
        sampler: One of :data:`RANDOM_SAMPLERS`. Of ``latin_hypercube``, the first 1, 2, 4, 8, ...
            points are Latin hypercubes.
        names: A name for each coordinate. Independent draws of one do not depend on the others.
        seed: The search's seed.
    """
    if sampler == "independent" or not names:
        return _independent(names, seed)
    return _SEQUENCES[sampler](len(names), seed)


def _independent(names: Sequence[str], seed: int) -> Iterator[tuple[float, ...]]:
    index = 0
    while True:
        yield tuple((derive_seed(seed, "search", name, index) >> 10) / 2.0**53 for name in names)
        index += 1


def _sobol(dimensions: int, seed: int) -> Iterator[tuple[float, ...]]:
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, scramble=True, rng=seed)
    while True:
        yield from map(tuple, engine.random(1024).tolist())


def _halton(dimensions: int, seed: int) -> Iterator[tuple[float, ...]]:
    from scipy.stats import qmc

    engine = qmc.Halton(dimensions, scramble=True, rng=seed)
    while True:
        yield from map(tuple, engine.random(1024).tolist())


def _latin_hypercube(dimensions: int, seed: int) -> Iterator[tuple[float, ...]]:
    """Double a Latin hypercube again and again: the new points go where no old one is."""
    import numpy as np

    done = np.random.default_rng([seed, 0]).random((1, dimensions))
    yield from map(tuple, done.tolist())
    while True:
        n = len(done)
        draw = np.random.default_rng([seed, n])
        taken = np.minimum((done * 2 * n).astype(int), 2 * n - 1)
        fresh = np.empty_like(done)
        for column in range(dimensions):
            empty = np.setdiff1d(np.arange(2 * n), taken[:, column])
            fresh[:, column] = (draw.permutation(empty) + draw.random(n)) / (2 * n)
        yield from map(tuple, fresh.tolist())
        done = np.concatenate([done, fresh])


_SEQUENCES: Mapping[str, Callable[[int, int], Iterator[tuple[float, ...]]]] = {
    "sobol": _sobol,
    "halton": _halton,
    "latin_hypercube": _latin_hypercube,
}
