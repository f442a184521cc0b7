"""What a sweep file must have for its claims: arms, readings, learning rates, seeds."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnsweep.analysis.claims.catalogue import CATALOGUE, ClaimDefinition
from bnsweep.errors import Mistake, SpecError
from bnsweep.parameters import PARAMETERS, complete_probes

if TYPE_CHECKING:
    from bnsweep.sweep.spec import Claim, SweepSpec

__all__ = ["check"]


def check(spec: SweepSpec) -> None:
    """Check that every claim of a sweep can be judged by it.

    Raises:
        SpecError: With everything that is missing, claim by claim.
    """
    mistakes = [mistake for claim in spec.claims for mistake in _mistakes(spec, claim)]
    if mistakes:
        raise SpecError(mistakes, spec.source)


def _mistakes(spec: SweepSpec, claim: Claim) -> Iterator[Mistake]:
    path = f"claims.{claim.name}"

    def mistake(must: str, found: str, hint: str = "") -> Mistake:
        return Mistake(path, must, found, hint, claim.line)

    definition = CATALOGUE.get(claim.name)
    if definition is None:
        close = difflib.get_close_matches(claim.name, CATALOGUE, 1)
        hint = f"did you mean {close[0]}?" if close else "bnsweep claims lists them"
        yield mistake("must be a claim that can be judged", claim.name, hint)
        return
    if spec.method != "grid":
        hint = "a search draws other learning rates for every arm, so that arms do not pair"
        yield mistake("must stand with method grid", f"method {spec.method}", hint)
    norms = _values(spec, "norm")
    lacking = [norm for norm in definition.arms if norm not in norms]
    if lacking:
        must = f"must have the arms {', '.join(definition.arms)}"
        yield mistake(must, f"norm {', '.join(norms)}", f"add {', '.join(lacking)} to parameters.norm")
    if definition.any_of and not set(definition.any_of) & set(norms):
        must = f"must have one of the arms {', '.join(definition.any_of)}"
        yield mistake(must, f"norm {', '.join(norms)}", "add one to parameters.norm")
    for probe in definition.probes:
        if probe not in spec.probes:
            yield mistake(f"must have the probe {probe}", "none", f"add {probe} to probes")
    yield from _early(spec, definition, mistake)
    lrs = len(_values(spec, "lr"))
    if lrs < definition.learning_rates:
        must = f"must have {definition.learning_rates} learning rates or more"
        yield mistake(must, str(lrs), "list several under parameters.lr")
    if len(spec.seeds) < 2:
        yield mistake("must have 2 seeds or more", str(len(spec.seeds)), "5 or more are sensible")


def _early(spec: SweepSpec, definition: ClaimDefinition, mistake: object) -> Iterator[Mistake]:
    """Find readings that none is taken of in the first third of training, after the first step."""
    assert callable(mistake)
    steps = [int(value) for value in _values(spec, "steps")]
    if definition.curves is None or spec.setting("epochs") is not None or not steps:
        return
    complete = complete_probes(spec.probes)
    every = {name: int(complete[name]["every"]) for name in definition.probes if name in complete}
    for name, count in every.items():
        if 3 * count > min(steps):
            must = f"must have a reading of {name} in the first third of the steps, after the first one"
            yield mistake(must, f"every {count} of {min(steps)} steps", f"lower probes.{name}.every")
    logged = max(int(value) for value in _values(spec, "log_every"))
    if not definition.probes and 3 * logged > min(steps):
        must = (
            "must have a reading of the training batches in the first third of the steps, after the first one"
        )
        yield mistake(must, f"every {logged} of {min(steps)} steps", "lower parameters.log_every")


def _values(spec: SweepSpec, name: str) -> list[str]:
    setting = spec.setting(name)
    if setting is not None:
        return [str(value) for value in setting.values]
    models = _values(spec, "model") if name != "model" else ["vgg11"]
    return [str(PARAMETERS[name].default_for({"model": models[0]}))]
