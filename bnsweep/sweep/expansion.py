"""From settings to conditions: every combination of values once, in a stable order.

Order is that of the file: the first key changes slowest, the last fastest. A conditional setting
stands after the settings that its ``when`` names; where the condition does not hold it is absent, so
that no combination appears twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnsweep.errors import DataError
from bnsweep.names import DataFacts
from bnsweep.parameters import PARAMETERS, Value, complete_parameters
from bnsweep.sweep.settings import Setting

__all__ = [
    "DECIDING",
    "Completer",
    "Condition",
    "FactsOf",
    "conditions",
    "count_conditions",
    "in_order",
    "read_facts",
    "representatives",
    "steps_of",
]

DECIDING = frozenset(
    {"model", "norm", "dataset", "optimizer", "momentum", "nesterov", "batch_size", "depth", "epochs"}
)
"""Settings whose value decides which others apply, what they default to, or what goes together."""

MAX_STATES = 5_000

_STEPS = PARAMETERS["steps"]

FactsOf = Callable[[str], DataFacts | None]
"""Facts of a data set by name; ``None`` where they are not known yet."""

Condition = dict[str, Value]


def in_order(settings: Sequence[Setting]) -> list[Setting]:
    """Return settings in file order, each conditional one after those it depends on.

    Example:
        >>> noise = Setting("noise", (0.5, 1.0), {"norm": ("noisy_batch",)})
        >>> [setting.name for setting in in_order([noise, Setting("norm", ("batch", "noisy_batch"))])]
        ['norm', 'noise']
    """
    names = {setting.name for setting in settings}
    left, done, ordered = list(settings), set[str](), []
    while left:
        ready = next((s for s in left if all(n in done or n not in names for n in s.when)), left[0])
        left.remove(ready)
        ordered.append(ready)
        done.add(ready.name)
    return ordered


def conditions(settings: Sequence[Setting]) -> Iterator[Condition]:
    """Yield the settings of every condition, without defaults.

    Example:
        >>> norm = Setting("norm", ("batch", "noisy_batch"))
        >>> noise = Setting("noise", (0.5, 1.0), {"norm": ("noisy_batch",)})
        >>> for condition in conditions([norm, noise]):
        ...     print(condition)
        {'norm': 'batch'}
        {'norm': 'noisy_batch', 'noise': 0.5}
        {'norm': 'noisy_batch', 'noise': 1.0}
    """
    found: list[Condition] = [{}]
    for setting in in_order(settings):
        grown: list[Condition] = []
        for condition in found:
            if setting.holds(condition):
                grown.extend({**condition, setting.name: value} for value in setting.values)
            else:
                grown.append(condition)
        found = grown
    yield from found


def count_conditions(settings: Sequence[Setting]) -> int:
    """Return how many conditions there are, without enumerating them.

    Values that no ``when`` tells apart are counted together, and a setting is forgotten as soon as
    no later one asks for it.

    Raises:
        ValueError: If the conditions depend on each other in more than 5,000 ways.

    Example:
        >>> count_conditions([Setting("lr", tuple(range(1000))), Setting("noise", tuple(range(1000)))])
        1000000
    """
    ordered = in_order(settings)
    states: dict[tuple[tuple[str, Value], ...], int] = {(): 1}
    for i, setting in enumerate(ordered):
        classes = _classes(setting, ordered)
        needed = {name for later in ordered[i + 1 :] for name in later.when}
        grown: dict[tuple[tuple[str, Value], ...], int] = {}
        for state, count in states.items():
            before = dict(state)
            options = classes if setting.holds(before) else [()]
            for group in options:
                after = {**before, setting.name: group[0]} if group else before
                key = tuple((name, value) for name, value in after.items() if name in needed)
                grown[key] = grown.get(key, 0) + count * max(1, len(group))
            if len(grown) > MAX_STATES:
                raise ValueError(f"more than {MAX_STATES:,} ways in which when: depends on other settings")
        states = grown
    return sum(states.values())


def _classes(
    setting: Setting, settings: Sequence[Setting], kind: Callable[[Value], object] = lambda _: None
) -> list[tuple[Value, ...]]:
    """Return the setting's values in groups that no ``when``, and not ``kind``, tells apart."""
    clauses = [set(other.when[setting.name]) for other in settings if setting.name in other.when]
    groups: dict[object, list[Value]] = {}
    for value in setting.values:
        key = (kind(value), *(value in clause for clause in clauses))
        groups.setdefault(key, []).append(value)
    return [tuple(group) for group in groups.values()]


def representatives(settings: Sequence[Setting]) -> list[Setting]:
    """Return settings with only as many values as are needed to meet every combination of rules.

    Whether settings go together depends on a few of them (:data:`DECIDING`), and of those on a
    few kinds of value, so a grid of a million conditions is checked on a handful.
    """
    chosen = []
    for setting in settings:
        if setting.continuous and setting.range is not None:
            ends = (setting.range.low, setting.range.high)
            setting = Setting(setting.name, ends, setting.when, None, setting.line)
        groups = _classes(setting, settings, _KINDS.get(setting.name, lambda _: None))
        values = tuple(_EXTREMES.get(setting.name, _first)(group) for group in groups)
        chosen.append(Setting(setting.name, values, setting.when, None, setting.line))
    return chosen


def _first(values: Sequence[Any]) -> Any:
    return values[0]


def _itself(value: Value) -> object:
    return ("custom",) if isinstance(value, str) and ":" in value else value


_KINDS: Mapping[str, Callable[[Value], object]] = {
    **dict.fromkeys(("model", "norm", "dataset", "optimizer", "nesterov"), _itself),
    "momentum": bool,
    "batch_size": lambda value: value if value in ("full", 1) else "many",
}
_EXTREMES: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "depth": min,
    "epochs": max,
    "batch_size": lambda values: values[0] if values[0] == "full" else max(values),
}


def steps_of(epochs: int, batch_size: Value, train: int) -> int:
    """Return the optimizer steps of ``epochs`` passes; an incomplete last batch is dropped.

    Example:
        >>> steps_of(2, 128, 1437), steps_of(2, "full", 1437)
        (22, 2)
    """
    return epochs if batch_size == "full" else epochs * (train // int(batch_size))


@dataclass
class Completer:
    """Fills in the defaults of conditions and checks that their settings go together.

    Work is done once for all conditions that differ only in numbers on which nothing depends.

    Attributes:
        facts_of: Facts of the data sets.

    Example:
        >>> from bnsweep.names import DATASETS
        >>> Completer(DATASETS.get).complete({"epochs": 2})["steps"]
        22
    """

    facts_of: FactsOf
    _known: dict[object, dict[str, Value] | ValueError] = field(default_factory=dict, repr=False)

    def complete(self, condition: Mapping[str, Value]) -> dict[str, Value]:
        """Return all parameters of a condition but the seed; epochs become steps.

        Args:
            condition: Settings by name, with canonical values.

        Raises:
            ValueError: If the settings do not go together; one line for each reason.
        """
        key = tuple((name, value if name in DECIDING else None) for name, value in condition.items())
        known = self._known.get(key)
        if known is None:
            try:
                known = self._complete(condition)
            except ValueError as error:
                known = error
            self._known[key] = known
        if isinstance(known, ValueError):
            raise ValueError(str(known))
        return {name: condition.get(name, value) for name, value in known.items()}

    def _complete(self, condition: Mapping[str, Value]) -> dict[str, Value]:
        done = complete_parameters({name: value for name, value in condition.items() if name != "epochs"})
        del done["seed"]
        facts = self.facts_of(str(done["dataset"]))
        if facts is None:
            return done
        batch = done["batch_size"]
        if isinstance(batch, int) and batch > facts.train:
            raise ValueError(f"batch_size must be <= {facts.train}, the training split, but found {batch}")
        if "epochs" in condition:
            try:
                done["steps"] = _STEPS.canonical(steps_of(int(condition["epochs"]), batch, facts.train))
            except ValueError as error:
                raise ValueError(f"epochs gives steps that {error}") from None
        return done


def read_facts(data_root: str | None) -> DataFacts | None:
    """Return what ``fingerprint.json`` in an image folder says, or ``None`` where there is none.

    Args:
        data_root: The folder.

    Raises:
        DataError: If the file is there and is not one that ``bnsweep data prepare`` wrote.
    """
    if data_root is None:
        return None
    path = Path(data_root) / "fingerprint.json"
    try:
        path = path.expanduser()
        if not path.is_file():
            return None
        content = json.loads(path.read_bytes())
        names = ("channels", "size", "classes", "train", "test")
        channels, size, classes, train, test = numbers = [content[name] for name in names]
        fingerprint = content["fingerprint"]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise DataError(_damaged(path, f"{type(error).__name__} ({error})")) from None
    legal = all(isinstance(number, int) and number > 0 for number in numbers)
    if not legal or not isinstance(fingerprint, str) or not fingerprint:
        raise DataError(_damaged(path, f"{numbers} and fingerprint {fingerprint!r}"))
    return DataFacts(channels, size, classes, train, test, fingerprint)


def _damaged(path: Path, found: str) -> str:
    return (
        f"{path} must hold channels, size, classes, train, test and fingerprint of the image folder, but "
        f"found {found}; write it anew with: bnsweep data prepare {path.parent}"
    )
