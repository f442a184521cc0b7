"""What suggests conditions while a sweep runs: Optuna's samplers, rebuilt from the ledger at any time.

The only package that imports Optuna; it knows neither Ray nor torch. Importing it costs nothing.
"""

from bnsweep.sweep.spec import SweepSpec

from .search import Search, Suggestion

__all__ = ["Search", "Suggestion", "check"]


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
