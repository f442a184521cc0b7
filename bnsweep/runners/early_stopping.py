"""Who is stopped early: Ray Tune's own rules, with a memory that survives the driver.

Ray keeps the state of a scheduler in the driver alone. Here every report and its decision is an event
of the search, and the rule is rebuilt by reporting them again in their order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from bnsweep.errors import BnsweepError
from bnsweep.sweep.search_log import SearchLog
from bnsweep.sweep.spec import SweepSpec

__all__ = ["Stopper", "rung_steps"]


def rung_steps(rule: Mapping[str, Any], steps: int) -> tuple[int, ...]:
    """Return the steps at which conditions are compared, all before the last.

    ``asha`` compares at ``min_steps``, ``eta`` times that, and so on; ``median`` at every multiple of
    ``min_steps``.

    Example:
        >>> rung_steps({"type": "asha", "min_steps": 100, "eta": 3}, 1000)
        (100, 300, 900)
        >>> rung_steps({"type": "median", "min_steps": 100}, 400)
        (100, 200, 300)
    """
    first = int(rule.get("min_steps", 100))
    if rule["type"] == "median":
        return tuple(range(first, steps, first))
    found, power = [], 0
    while (step := math.ceil(first * float(rule.get("eta", 3)) ** power)) < steps:
        found.append(step)
        power += 1
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class _Condition:
    """Stands for a Tune trial: Ray's rules ask for its id alone."""

    trial_id: str


class Stopper:
    """Decides, at each rung, whether a condition goes on.

    Args:
        spec: A spec with ``early_stop``.
        log: The ledger's events, which are replayed now.
        steps: Steps of a trial.
    """

    def __init__(self, spec: SweepSpec, log: SearchLog, steps: int) -> None:
        self.log = log
        self._agree(spec)
        self.rungs = rung_steps(spec.early_stop, steps)
        self._rule = _make_rule(spec, steps)
        self._decided: dict[str, dict[int, bool]] = {}
        self._complete: set[str] = set()
        for event in log:
            if event["event"] == "rung":
                self._ask(event["condition"], int(event["step"]), float(event["value"]))
                self._decided[event["condition"]][int(event["step"])] = bool(event["stop"])
            elif event["event"] == "ran":
                self._close(event["condition"], int(event["step"]), float(event["value"]))

    def _agree(self, spec: SweepSpec) -> None:
        """Refuse to go on by another rule than before: what was stopped would not compare."""
        rule = {**spec.early_stop, "metric": spec.metric.name}
        stored = [event["rule"] for event in self.log if event["event"] == "rule"]
        if not stored:
            self.log.append("rule", rule=rule)
        elif stored[0] != rule:
            raise BnsweepError(
                f"early_stop of sweep {spec.name} must be what it was when it began, {stored[0]}, but found "
                f"{rule}. Restore it, or give the sweep another name."
            )

    def decide(self, condition: str, step: int, value: float) -> bool:
        """Return whether a condition is stopped; the answer is written down first.

        Args:
            condition: Its id.
            step: The rung.
            value: Its metric over seeds; finite, the worst where seeds have diverged.
        """
        known = self._decided.get(condition, {})
        if step in known:
            return known[step]
        stop = self._ask(condition, step, value)
        self.log.append("rung", condition=condition, step=step, value=value, stop=stop)
        return stop

    def ended(self, condition: str, steps: int, value: float, diverged: bool) -> None:
        """Learn how a condition ended that was not stopped.

        One whose seeds have all diverged reports to the rungs that it will not reach, so that
        others are compared with it.
        """
        if condition in self._complete or any(self.known(condition).values()):
            return
        if diverged:
            for step in self.rungs:
                if self.decide(condition, step, value):
                    break
        self.log.append("ran", condition=condition, step=steps, value=value)
        self._close(condition, steps, value)

    def known(self, condition: str) -> Mapping[int, bool]:
        """Return what was decided of a condition, by step."""
        return dict(self._decided.get(condition, {}))

    def _ask(self, condition: str, step: int, value: float) -> bool:
        trial = _Condition(condition)
        if condition not in self._decided:
            self._decided[condition] = {}
            self._rule.on_trial_add(None, trial)
        answer = self._rule.on_trial_result(None, trial, {"step": step, "value": value})
        stop = bool(answer == TrialScheduler.STOP)
        self._decided[condition][step] = stop
        return stop

    def _close(self, condition: str, steps: int, value: float) -> None:
        self._complete.add(condition)
        trial = _Condition(condition)
        if condition not in self._decided:
            self._decided[condition] = {}
            self._rule.on_trial_add(None, trial)
        self._rule.on_trial_complete(None, trial, {"step": steps, "value": value})


def _make_rule(spec: SweepSpec, steps: int) -> Any:
    rule = spec.early_stop
    first = int(rule.get("min_steps", 100))
    common = {
        "time_attr": "step",
        "metric": "value",
        "mode": "max" if spec.metric.goal == "maximize" else "min",
        "grace_period": first,
    }
    if rule["type"] == "median":
        return MedianStoppingRule(**common, min_samples_required=3, hard_stop=True, min_time_slice=math.inf)
    eta = float(rule.get("eta", 3))
    return ASHAScheduler(**common, max_t=steps, reduction_factor=eta, brackets=1)
