"""Checks of a sweep file that concern searches: budget, sampler, objectives, early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bnsweep.parameters import Value
from bnsweep.sweep.expansion import count_conditions
from bnsweep.sweep.nodes import Mistakes, Table, nearest
from bnsweep.sweep.samplers import OPTUNA_SAMPLERS, SamplerFacts, samplers_of
from bnsweep.sweep.settings import Setting
from bnsweep.sweep.spec import MAX_TRIALS
from bnsweep.sweep.values import Settings

__all__ = ["check_early_stop", "check_search"]

ONLINE_KEYS = ("lag", "storage", "timeout", "warm_start", "quantile", "options")
"""Keys of ``search`` that concern suggestions made while the sweep runs."""


def check_search(root: Table, values: Mapping[str, Any], settings: Settings, mistakes: Mistakes) -> None:
    """Note what is wrong with the search that a file asks for, and what needs one.

    Args:
        root: The file.
        values: What was read, by top-level key.
        settings: What ``parameters`` held.
        mistakes: Receives what is wrong.
    """
    method = str(values.get("method", "grid"))
    _Check(root, values, settings, mistakes, method).run()


class _Check:
    """The checks of one file."""

    def __init__(
        self,
        root: Table,
        values: Mapping[str, Any],
        settings: Settings,
        mistakes: Mistakes,
        method: str,
    ) -> None:
        self.root, self.values, self.settings = root, values, settings
        self.mistakes, self.method = mistakes, method
        node = root.entries.get("search")
        self.node = node if isinstance(node, Table) else None
        self.search: Mapping[str, Any] = values.get("search") or {}

    def run(self) -> None:
        if self.method == "grid":
            self._only("metric", "random or optuna", isinstance(self.values.get("metric"), tuple))
        if self.method != "optuna":
            self._only("constraints", "optuna", bool(self.values.get("constraints")))
            self._only("deterministic", "optuna", self.values.get("deterministic") is True)
        if self.method == "grid":
            return
        if "search" not in self.root.entries:
            hint = "for example search: {num_trials: 64}"
            self.mistakes.add(self.root.entries["method"], "search", "must be given", "nothing", hint)
        sampler = self._sampler()
        self._size()
        if self.method == "random":
            for name in ONLINE_KEYS:
                if self.node and name in self.node.entries:
                    must = "must stand only with method optuna"
                    self.mistakes.add(self.node.keys[name], f"search.{name}", must, "method random")
        elif sampler:
            self._options(sampler, OPTUNA_SAMPLERS[sampler])
            self._abilities(sampler, OPTUNA_SAMPLERS[sampler])
        self._reproducible()

    def _only(self, name: str, methods: str, found: bool) -> None:
        if found:
            must = f"must stand only with method {methods}"
            self.mistakes.add(self.root.keys[name], name, must, f"method {self.method}")

    def _sampler(self) -> str:
        """Return the sampler, or nothing after noting why it is not legal."""
        legal = samplers_of(self.method)
        sampler = str(self.search.get("sampler", legal[0]))
        if sampler in legal:
            return sampler
        if self.node and "sampler" in self.node.entries:
            other = "random" if self.method == "optuna" else "optuna"
            hint = f"it belongs to method: {other}" if sampler in samplers_of(other) else ""
            must = f"must be one of {', '.join(legal)} for method {self.method}"
            self.mistakes.add(
                self.node.entries["sampler"], "search.sampler", must, hint=hint or nearest(sampler, legal)
            )
        return ""

    def _size(self) -> None:
        """Check the number of trials against what there is to draw."""
        wanted = self.search.get("num_trials")
        if wanted is None or self.node is None or self.settings.wrong:
            return
        node, path = self.node.entries["num_trials"], "search.num_trials"
        seeds = len(self.values.get("seeds") or (0,))
        if wanted * seeds > MAX_TRIALS:
            found = f"{wanted:,} x {seeds:,} seeds"
            self.mistakes.add(node, path, f"must give at most {MAX_TRIALS:,} trials", found)
        size = _space_size(self.settings.legal, wanted)
        if wanted > size:
            must = f"must be <= {size:,}, the number of different conditions"
            hint = "a single condition needs no search" if size == 1 else "method grid tries every one"
            self.mistakes.add(node, path, must, hint=hint)

    def _options(self, sampler: str, facts: SamplerFacts) -> None:
        if self.node is None or not isinstance(options := self.node.entries.get("options"), Table):
            return
        for name, key in options.keys.items():
            path = f"search.options.{name[:64]}"
            if name not in facts.options:
                hint = nearest(name, facts.options) or f"legal here: {', '.join(facts.options)}"
                must = f"must be an option of sampler {sampler}"
                self.mistakes.add(key, path, must, "an unknown option", hint)
            else:
                facts.options[name].read(options.entries[name], path, self.mistakes)

    def _abilities(self, sampler: str, facts: SamplerFacts) -> None:
        """Refuse what the sampler cannot do."""
        for setting in self.settings.legal:
            free = setting.continuous or len(setting.values) > 1
            if setting.when and free and not facts.conditions:
                node = self.settings.nodes[setting.name]
                hint = f"it draws {setting.name} at random: use sampler tpe, or method random"
                must = f"must be without when: for sampler {sampler}"
                self.mistakes.add(node, f"parameters.{setting.name}", must, "a conditional choice", hint)
        ranges = sum(setting.range is not None for setting in self.settings.legal)
        if ranges < facts.ranges and not self.settings.wrong:
            assert self.node is not None
            must = f"must have {facts.ranges} range of numbers or more to search"
            hint = "it draws everything else at random: use tpe"
            self.mistakes.add(self.node.entries["sampler"], "search.sampler", must, f"{ranges}", hint)
        if isinstance(self.values.get("metric"), tuple) and not facts.objectives:
            must = f"must be one metric for sampler {sampler}"
            self.mistakes.add(self.root.entries["metric"], "metric", must, hint="use tpe, gp or nsga2")
        if self.values.get("constraints") and not facts.constraints:
            must = f"must be absent for sampler {sampler}"
            found = f"{sampler}, which cannot heed them"
            self.mistakes.add(
                self.root.keys["constraints"], "constraints", must, found, "use tpe, gp or nsga2"
            )

        if self.search.get("warm_start") and not facts.warm:
            assert self.node is not None
            must = f"must be absent for sampler {sampler}"
            hint = "it learns from its own conditions alone, or from none: use tpe, gp or cmaes"
            self.mistakes.add(self.node.keys["warm_start"], "search.warm_start", must, "a source", hint)
        if self.values.get("early_stop") and not facts.stopped:
            must = f"must be absent for sampler {sampler}"
            hint = "it learns from conditions that ran to their end alone: use tpe, or method random"
            self.mistakes.add(self.root.keys["early_stop"], "early_stop", must, "a rule", hint)

    def _reproducible(self) -> None:
        deterministic = self.values.get("deterministic") is True
        lag = self.node.keys.get("lag") if self.node else None
        if self.method != "optuna":
            return
        if deterministic and lag is None:
            hint = "search.lag: 4 keeps up to four conditions under way"
            node = self.root.entries["deterministic"]
            self.mistakes.add(
                node, "search.lag", "must be given where deterministic is true", "nothing", hint
            )
        if lag is not None and not deterministic:
            must = "must stand only with deterministic: true"
            self.mistakes.add(lag, "search.lag", must, "deterministic: false")
        if deterministic and "early_stop" in self.root.entries:
            hint = "what is stopped depends on the order in which trials report: remove one of the two"
            must = "must be false where trials are stopped early"
            self.mistakes.add(self.root.entries["deterministic"], "deterministic", must, "true", hint)
        if deterministic and self.node and "timeout" in self.node.keys:
            must = "must be absent where deterministic is true"
            self.mistakes.add(self.node.keys["timeout"], "search.timeout", must, "wall time decides nothing")


def _space_size(settings: Sequence[Setting], enough: int) -> float:
    """Return the number of different conditions; infinite where a setting is a range of numbers."""
    if any(setting.size == math.inf or setting.size > enough for setting in settings if not setting.when):
        return math.inf
    if any(setting.continuous and setting.size == math.inf for setting in settings):
        return math.inf
    listed = []
    for setting in settings:
        values: tuple[Value, ...] = setting.values
        if setting.continuous:
            values = tuple(range(int(setting.size)))
        listed.append(Setting(setting.name, values, setting.when, None, setting.line))
    try:
        return count_conditions(listed)
    except ValueError:
        return math.inf


def check_early_stop(
    root: Table, values: Mapping[str, Any], trials: Sequence[Mapping[str, Value]], mistakes: Mistakes
) -> None:
    """Note where a rule that ends trials could never speak, or has nothing to compare."""
    rule = values.get("early_stop")
    node = root.entries.get("early_stop")
    if not rule or not isinstance(node, Table):
        return
    steps = min((int(trial["steps"]) for trial in trials), default=None)
    first = rule.get("min_steps", 100)
    if steps is not None and first >= steps:
        where = node.entries.get("min_steps", node)
        hint = f"trials have {steps} steps: lower min_steps, or train longer"
        mistakes.add(where, "early_stop.min_steps", f"must be < {steps}", str(first), hint)
    if isinstance(values.get("metric"), tuple):
        mistakes.add(root.entries["metric"], "metric", "must be one metric where trials are stopped early")
