"""From a spec to its trials: the ordered list of everything that the sweep asks for."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnsweep.errors import Mistake, SpecError
from bnsweep.names import DATASETS, DataFacts
from bnsweep.parameters import Value, complete_probes
from bnsweep.sweep.draws import DrawnOutError, draw_conditions, free_settings
from bnsweep.sweep.expansion import (
    Completer,
    conditions,
    count_conditions,
    read_facts,
    representatives,
)
from bnsweep.sweep.packs import Pack
from bnsweep.sweep.spec import SweepSpec
from bnsweep.trial import TrialConfig, short_hash

if TYPE_CHECKING:
    from bnsweep.sweep.ledger import Ledger

__all__ = ["Plan", "expander", "kinds_of_trials", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Every trial of a sweep, in order: conditions in the order of the file, seeds innermost.

    Attributes:
        name: The sweep's name.
        trials: The trials; empty where :attr:`unprepared` is set.
        varying: Parameters that take several values over the trials, in file order.
        seeds: Replicates of every condition.
        count: Number of trials, known even where the trials are not.
        description: The sweep's sentence for people.
        unprepared: Folder of an ``image_folder`` without ``fingerprint.json``, whose trials can be
            counted but have no identity yet; ``None`` otherwise.
    """

    name: str
    trials: tuple[TrialConfig, ...]
    varying: tuple[str, ...]
    seeds: tuple[int, ...]
    count: int
    description: str = ""
    unprepared: str | None = None

    @cached_property
    def trial_ids(self) -> tuple[str, ...]:
        """The ids of :attr:`trials`, in order."""
        return tuple(trial.trial_id for trial in self.trials)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """A name for people of each trial: its norm, what varies, its seed."""
        return tuple(trial.label(self.varying) for trial in self.trials)

    @cached_property
    def by_id(self) -> Mapping[str, TrialConfig]:
        """Trials by id, in order."""
        return dict(zip(self.trial_ids, self.trials, strict=True))

    @cached_property
    def label_of(self) -> Mapping[str, str]:
        """Labels by trial id."""
        return dict(zip(self.trial_ids, self.labels, strict=True))

    @cached_property
    def plan_hash(self) -> str:
        """16 hex digits: equal for plans with the same trials in the same order."""
        return short_hash(list(self.trial_ids))

    @property
    def condition_count(self) -> int:
        """Number of conditions."""
        return self.count // len(self.seeds)

    @property
    def conditions(self) -> tuple[TrialConfig, ...]:
        """The first replicate of each condition, in order."""
        return self.trials[:: len(self.seeds)]

    def with_suggestions(self, ledger: Ledger) -> Plan:
        """Return the plan with the trials that an adaptive search has suggested so far."""
        found = {str(one["trial_id"]): TrialConfig.from_dict(one) for one in ledger.search_log.planned()}
        return replace(self, trials=tuple(found.values()))

    def pack_content(self, pack: Pack) -> dict[str, Any]:
        """Return what ``pack.json`` holds of a pack: its own content, and its trials with their labels."""
        return {
            **pack.to_dict(),
            "trials": [self.by_id[member].to_dict() for member in pack.members],
            "labels": [self.label_of[member] for member in pack.members],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; :meth:`from_dict` is the inverse."""
        return {
            "name": self.name,
            "description": self.description,
            "plan_hash": self.plan_hash,
            "varying": list(self.varying),
            "seeds": list(self.seeds),
            "count": self.count,
            "unprepared": self.unprepared,
            "trials": [
                {"trial_id": trial_id, "label": label, **trial.to_dict()}
                for trial_id, label, trial in zip(self.trial_ids, self.labels, self.trials, strict=True)
            ],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """Rebuild a plan written by :meth:`to_dict`."""
        return cls(
            name=content["name"],
            trials=tuple(TrialConfig.from_dict(trial) for trial in content["trials"]),
            varying=tuple(content["varying"]),
            seeds=tuple(content["seeds"]),
            count=content["count"],
            description=content.get("description", ""),
            unprepared=content.get("unprepared"),
        )


def make_plan(spec: SweepSpec) -> Plan:
    """Expand a spec into its trials: a pure function of the spec, the data and norms of the user's.

    Args:
        spec: A spec. The trials of method ``optuna`` become known while it runs; its plan has a
            number of them and none.

    Raises:
        SpecError: If the settings of some trial do not go together; loading has refused that
            already, unless the data set has changed since.

    Example:
        >>> from bnsweep.sweep.loading import load_spec
        >>> plan = make_plan(load_spec({"name": "tiny", "parameters": {"lr": [0.01, 0.1]}, "seeds": 2}))
        >>> plan.labels
        ('batch lr=0.01 seed=0', 'batch lr=0.01 seed=1', 'batch lr=0.1 seed=0', 'batch lr=0.1 seed=1')
    """
    facts, unprepared = _data(spec)
    searched = spec.method != "grid"
    size = int(spec.search["num_trials"]) if searched else count_conditions(spec.parameters)
    count = size * len(spec.seeds)
    varying = tuple(setting.name for setting in free_settings(spec.parameters))
    if unprepared is not None or spec.method == "optuna":
        return Plan(spec.name, (), varying, spec.seeds, count, spec.description, unprepared)
    norm_code.cache_clear()
    try:
        complete = list(
            map(
                Completer(facts.get).complete,
                draw_conditions(spec) if searched else conditions(spec.parameters),
            )
        )
    except DrawnOutError as error:
        hint = "lower num_trials, or use method grid"
        mistake = Mistake("search.num_trials", "must be fewer than there are", str(error), hint)
        raise SpecError([mistake], spec.source) from None
    except ValueError as error:
        mistake = Mistake("parameters", "must go together", str(error).replace("\n", "; "))
        raise SpecError([mistake], spec.source) from None
    trials = _trials(complete, spec, facts)
    return Plan(spec.name, trials, _varying(spec, complete), spec.seeds, count, spec.description)


def expander(spec: SweepSpec) -> Callable[[Mapping[str, Value]], tuple[TrialConfig, ...]]:
    """Return a function that turns a condition into its trials, one a seed.

    Args:
        spec: A spec whose data are prepared.
    """
    facts, _ = _data(spec)
    completer = Completer(facts.get)
    return lambda condition: _trials([completer.complete(condition)], spec, facts)


def kinds_of_trials(spec: SweepSpec) -> list[TrialConfig]:
    """Return one trial of every kind of network, norm and data that a search may suggest."""
    expand = expander(spec)
    return [expand(condition)[0] for condition in conditions(representatives(spec.parameters))]


def _data(spec: SweepSpec) -> tuple[dict[str, DataFacts], str | None]:
    """Return the facts of the data sets, and the image folder that is not prepared yet."""
    facts: dict[str, DataFacts] = dict(DATASETS)
    dataset = spec.setting("dataset")
    if dataset is None or "image_folder" not in dataset.values:
        return facts, None
    own = read_facts(spec.data_root)
    return facts | ({"image_folder": own} if own else {}), None if own else spec.data_root or "."


def _trials(
    complete: Sequence[Mapping[str, Value]], spec: SweepSpec, facts: Mapping[str, DataFacts]
) -> tuple[TrialConfig, ...]:
    probes = complete_probes(spec.probes)
    return tuple(
        TrialConfig(
            {**parameters, "seed": seed},
            probes,
            facts[str(parameters["dataset"])].fingerprint,
            norm_code(str(parameters["norm"])),
        )
        for parameters in complete
        for seed in spec.seeds
    )


@cache
def norm_code(norm: str) -> str:
    """Return 16 hex digits of the file that a norm of the user's comes from, without importing it.

    Its trials are other trials once that file has changed.

    Args:
        norm: ``module:function``, or one of bnsweep's norms.

    Returns:
        The start of the file's SHA-256; empty for bnsweep's norms, and where no file is found.
    """
    module, colon, _ = norm.partition(":")
    if not colon:
        return ""
    for folder in ["", *sys.path]:
        place = Path(folder or ".", *module.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return ""


def _varying(spec: SweepSpec, complete: Sequence[Mapping[str, Value]]) -> tuple[str, ...]:
    """Return the parameters with several values; ``steps`` where epochs vary."""
    names = dict.fromkeys(
        "steps" if setting.name == "epochs" else setting.name for setting in spec.parameters
    )
    return tuple(
        name for name in names if len({parameters[name] for parameters in complete if name in parameters}) > 1
    )
