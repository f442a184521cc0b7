"""What a report needs of a sweep, read from its ledger in one pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.claims.frozen import FrozenClaims
from bnsweep.analysis.ranges import FacetRanges, facet_ranges
from bnsweep.analysis.scores import class_count
from bnsweep.analysis.searches import Found
from bnsweep.analysis.tables import build_table, condition_table, facet_label, varying_parameters
from bnsweep.errors import LedgerError
from bnsweep.sweep.records import PlannedTrial, Record

if TYPE_CHECKING:
    import pandas as pd

    from bnsweep.analysis.aggregates import Aggregate
    from bnsweep.analysis.claims.verdicts import Verdict
    from bnsweep.sweep.ledger import Ledger

__all__ = ["Results"]


@dataclass(frozen=True)
class Results:
    """A sweep's plan, finished trials and circumstances; build it with :meth:`read`.

    Attributes:
        ledger: Where they come from, and where curves are read when they are needed.
        name: The sweep's name.
        description: What the user wrote about it.
        sweep_text: The sweep file as submitted.
        plan: Planned trials, in order; empty where no plan was stored.
        records: Outcomes of planned trials, in the plan's order.
        outside: Records in the ledger that are not part of the plan; they are in no table.
        failed: Failed attempts of planned trials without a record, by trial id.
        environment: What the driver ran on.
        ledger_warnings: What the ledger found wrong with its files.
        search: Sampler, budget and goal of a search; ``None`` for a grid.
    """

    ledger: Ledger
    name: str
    description: str
    sweep_text: str
    plan: tuple[PlannedTrial, ...]
    records: tuple[Record, ...]
    outside: int
    failed: Mapping[str, int]
    environment: Mapping[str, Any]
    ledger_warnings: tuple[str, ...]
    search: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, ledger: Ledger) -> Results:
        """Read everything but the curves.

        Raises:
            LedgerError: If the stored plan is damaged.
        """
        stored, plan = ledger.plan(), ledger.planned()
        order = {trial.trial_id: index for index, trial in enumerate(plan)}
        with ledger.one_look():
            found, failed = list(ledger.records()), ledger.failed()
        inside = [record for record in found if not order or record.trial_id in order]
        inside.sort(key=lambda record: (order.get(record.trial_id, 0), record.trial_id))
        return cls(
            ledger=ledger,
            name=str(stored.get("name") or ledger.name),
            description=str(stored.get("description") or ""),
            sweep_text=ledger.sweep_text() or "",
            plan=tuple(plan),
            records=tuple(inside),
            outside=len(found) - len(inside),
            failed={key: n for key, n in failed.items() if not order or key in order},
            environment=ledger.environment(),
            ledger_warnings=tuple(ledger.warnings),
            search=_search(stored, ledger),
        )

    @property
    def planned(self) -> int:
        """Number of trials that the sweep consists of."""
        return len(self.plan) or len(self.records)

    @property
    def missing(self) -> int:
        """Number of planned trials without a record, failed ones included."""
        return self.planned - len(self.records)

    @cached_property
    def plan_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the planned trials' ids, in order."""
        ids = [trial.trial_id for trial in self.plan] or [one.trial_id for one in self.records]
        return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """Parameters that take two values or more in the sweep."""
        return varying_parameters(one.config for one in (self.plan or self.records))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a finished trial; see :func:`bnsweep.analysis.tables.build_table`."""
        return build_table(self.records, self.plan, self._initial_losses())

    @cached_property
    def conditions(self) -> pd.DataFrame:
        """One row a condition; see :func:`bnsweep.analysis.tables.condition_table`."""
        return condition_table(self.trials, self.plan)

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Arms in the plan's order."""
        return tuple(dict.fromkeys(self.conditions["arm"])) if len(self.conditions) else ()

    @cached_property
    def ranges(self) -> tuple[FacetRanges, ...]:
        """The arms of every facet compared, facets in the plan's order; none for a search."""
        if self.search is not None:
            return ()
        found = []
        for facet in dict.fromkeys(self.trials["facet"]):
            ranges = facet_ranges(self.trials[self.trials["facet"] == facet], self.arms)
            if ranges is not None:
                found.append(ranges)
        return tuple(found)

    @cached_property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """The arms of every facet over their whole grid."""
        from bnsweep.analysis.aggregates import aggregates

        return aggregates(self)

    @cached_property
    def frozen(self) -> FrozenClaims:
        """The claims that the sweep began with."""
        return FrozenClaims.of_plan(self.ledger.plan())

    @cached_property
    def looks(self) -> tuple[Mapping[str, Any], ...]:
        """The looks that a sequential sweep has taken at its claims, oldest first."""
        if self.frozen.schedule is None:
            return ()
        return tuple(event for event in self.ledger.search_log if event["event"] == "look")

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the sweep says about its claims."""
        from bnsweep.analysis.claims.verdicts import judge

        return judge(self)

    @cached_property
    def found(self) -> Found | None:
        """What the sweep's search found; ``None`` for a grid."""
        return Found.of(self)

    def facet_parameters(self, facet: str) -> Mapping[str, Any]:
        """Return the parameters of one finished trial of a facet."""
        for record in self.records:
            if facet_label(record.parameters, self.varying) == facet:
                return record.parameters
        raise LedgerError(f"The sweep must have a finished trial with {facet}, but has none.")

    def curves(self, trial_ids: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
        """Return network-wide readings of some trials.

        Args:
            trial_ids: The trials.
            names: The readings.

        Returns:
            Columns ``trial_id``, ``name``, ``step``, ``value``.
        """
        if not set(names) <= self._judged_by:
            return self._curves(trial_ids, names, False).drop(columns="layer")
        frame = self._judged
        keep = frame["trial_id"].isin(list(trial_ids)) & frame["name"].isin(list(names))
        return frame[keep].reset_index(drop=True)

    @cached_property
    def _judged_by(self) -> frozenset[str]:
        """Readings that the sweep's claims go by."""
        from bnsweep.analysis.claims.catalogue import find

        return frozenset(name for claim in self.frozen.claims for name in find(claim.name).readings)

    @cached_property
    def _judged(self) -> pd.DataFrame:
        """What the sweep's claims go by, of all trials: claims share trials, whose files are read once."""
        trials = [record.trial_id for record in self.records]
        return self._curves(trials, sorted(self._judged_by), False).drop(columns="layer")

    def layer_curves(self, trial_ids: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
        """Return readings of some trials, those of single layers among them.

        Args:
            trial_ids: The trials.
            names: The readings.

        Returns:
            Columns ``trial_id``, ``name``, ``step``, ``layer`` (0: the network), ``value``.
        """
        return self._curves(trial_ids, names, True)

    def _curves(self, trial_ids: Sequence[str], names: Sequence[str], layers: bool) -> pd.DataFrame:
        import pandas as pd

        table = self.ledger.read_all_curves(trial_ids, names, layers)
        columns = {
            "trial_id": table["trial_id"].to_pandas(),
            "name": table["name"].to_pandas(),
            "step": table["step"].to_numpy(),
            "layer": table["layer"].to_numpy(),
            "value": table["value"].to_numpy(),
        }
        return pd.DataFrame(columns)

    def _initial_losses(self) -> dict[str, float]:
        """Read the first training loss of every trial of a regression."""
        trials = [record.trial_id for record in self.records if class_count(record) == 0]
        if not trials:
            return {}
        curves = self.curves(trials, ("train_loss",)).sort_values("step", kind="stable")
        first = curves.dropna(subset=["value"]).groupby("trial_id", observed=True)["value"].first()
        finite = first[first.abs() < float("inf")]
        return {str(trial): float(value) for trial, value in finite.items()}


def _search(stored: Mapping[str, Any], ledger: Ledger) -> Mapping[str, Any] | None:
    """Return a stored search, with what it knew before it began."""
    if not stored.get("search"):
        return None
    begin = next(iter(ledger.search_log), {})
    return {**stored["search"], "known": begin.get("warm_start") or {}}
