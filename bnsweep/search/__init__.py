"""What suggests conditions while a sweep runs: Optuna's samplers, rebuilt from the ledger at any time.

The only package that imports Optuna; it knows neither Ray nor torch. Importing it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from bnsweep.sweep.spec import SweepSpec

from .process import Shown, StudyMirrorProcess, show_study
from .search import Search, Suggestion

if TYPE_CHECKING:
    from bnsweep.parameters import Value
    from bnsweep.sweep.ledger import Ledger
    from bnsweep.sweep.objectives import Share

    from .warm_start import Known

__all__ = ["Search", "Shown", "StudyMirrorProcess", "Suggestion", "check", "knowledge", "show_study", "weigh"]


def check(spec: SweepSpec) -> None:
    """Check what only Optuna knows of a sweep file: that its sampler can be made.

    Args:
        spec: A spec that was read and found right; other methods pass.

    Raises:
        SpecError: If the sampler's package is absent, or refuses its options.
    """
    if spec.method == "optuna":
        from .samplers import check_sampler

        check_sampler(spec)


def knowledge(spec: SweepSpec, find: Callable[[str], Ledger]) -> Known:
    """Read what a search shall know before it begins, as its key ``search.warm_start`` says.

    Args:
        spec: A spec with that key.
        find: Returns the ledger of a sweep's name or path.

    Raises:
        BnsweepError: If the source cannot be read, or nothing of it fits.
    """
    from .warm_start import know_ledger, know_study

    source = str(spec.search["warm_start"])
    if "://" in source:
        uri, _, name = source.rpartition("#")
        return know_study(spec, uri, name)
    return know_ledger(spec, find(source))


def weigh(
    conditions: Sequence[Mapping[str, Value]], values: Sequence[float], logarithmic: Sequence[str] = ()
) -> list[Share]:
    """Return how much of what conditions are worth each setting explains.

    See :func:`bnsweep.search.importance.importances`.
    """
    from .importance import importances

    return importances(conditions, values, logarithmic)
