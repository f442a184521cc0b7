"""The keys of a sweep file outside ``parameters``: kind, legal values, default and meaning of each.

These tables are the grammar. The loader reads by them, the JSON Schema and the documentation are
generated from them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnsweep.names import KERNELS
from bnsweep.sweep.nodes import Mistakes, Node, Scalar, Table, nearest, number_hint
from bnsweep.sweep.spec import GOALS, MAX_SEEDS, METHODS, SWEEP_NAME

__all__ = [
    "CLAIM_KEYS",
    "EARLY_STOP_KEYS",
    "METRIC_KEYS",
    "RESOURCE_KEYS",
    "SEARCH_KEYS",
    "SECTIONS",
    "SEEDS_KEYS",
    "TOP_KEYS",
    "TRACKING_KEYS",
    "Key",
    "read_keys",
    "unknown_keys",
]


@dataclass(frozen=True)
class Key:
    """One key that takes a single value.

    Attributes:
        kind: ``text``, ``number``, ``integer``, ``flag`` or ``choice``.
        help: What it means, in one sentence.
        default: What holds where it is absent, in words or as the value.
        low: Smallest legal number.
        high: Largest legal number.
        open_low: Whether ``low`` itself is illegal.
        choices: Legal words of a choice.
        refused: Words that somebody may expect to be legal, with the reason why they are not.
        pattern: What text must match as a whole.
        what: The pattern in words.
        empty: Whether text may be empty.
    """

    kind: str
    help: str
    default: str | int | float | bool | None = None
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    choices: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    pattern: str = ""
    what: str = ""
    empty: bool = False

    def must(self) -> str:
        """Say what a legal value is."""
        if self.kind == "flag":
            return "must be true or false"
        if self.kind == "choice":
            return f"must be one of {', '.join(self.choices)}"
        if self.kind == "text":
            return f"must be {self.what or 'text'}"
        noun = "an integer" if self.kind == "integer" else "a number"
        ends = f"{'>' if self.open_low else '>='} {self.low:,} and <= {self.high:,}"
        return f"must be {noun} {ends}"

    def read(self, node: Node, path: str, mistakes: Mistakes) -> Any:
        """Return the value of ``node``, or ``None`` after noting why it is not legal."""
        value = node.value if isinstance(node, Scalar) else None
        if value is not None and self._legal(value):
            return int(value) if self.kind == "integer" else value  # type: ignore[call-overload]
        mistakes.add(node, path, self.must(), hint=self._hint(node))
        return None

    def _legal(self, value: object) -> bool:
        if self.kind == "flag":
            return isinstance(value, bool)
        if self.kind == "choice":
            return value in self.choices
        if self.kind == "text":
            return self._legal_text(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.kind == "integer" and value != int(value):
            return False
        return self.low <= value <= self.high and not (self.open_low and value == self.low)

    def _legal_text(self, value: object) -> bool:
        if not isinstance(value, str) or "\0" in value or not (value.strip() or self.empty):
            return False
        return not self.pattern or re.fullmatch(self.pattern, value) is not None

    def _hint(self, node: Node) -> str:
        if not isinstance(node, Scalar):
            return ""
        if self.kind == "choice":
            return self.refused.get(node.text.lower()) or nearest(node.text, self.choices)
        if self.kind == "text":
            bare = node.plain and node.value is not None and not isinstance(node.value, str)
            return f'quote it: "{node.text}"' if bare and len(node.text) <= 64 else ""
        return number_hint(node)


_DATABASE = r"(?:sqlite:///|postgresql(?:\+\w+)?://)[^#]+"

TOP_KEYS: dict[str, Key] = {
    "name": Key(
        "text", "Name of the sweep: of its folder, its MLflow experiment and its cluster job.", "(required)",
        pattern=SWEEP_NAME.pattern,
        what="a name of 1 to 64 lower-case letters, digits and hyphens that begins with a letter or digit",
    ),
    "description": Key("text", "One sentence for people.", "(empty)", empty=True),
    "method": Key("choice", "How conditions are chosen; a grid is enumerated.", "grid", choices=METHODS),
    "storage": Key(
        "text",
        "Folder of the results, relative to the current directory, or s3://bucket/prefix.",
        "results",
    ),
    "data_root": Key(
        "text", "Folder of the data sets, or the image folder itself. Not part of a trial's identity.",
        "(bnsweep's cache)",
    ),
    "deterministic": Key("flag", "Suggestions of a search must not depend on timing.", default=False),
    "exploratory": Key("flag", "Mark the findings exploratory.", default=False),
    "keep_checkpoints": Key(
        "flag", "Keep what a trial ended with, so that one with more steps goes on from there.", default=False
    ),
    "save_weights": Key(
        "choice", "Store the final weights of each trial, and log them to MLflow.", "none",
        choices=("none", "final"),
    ),
}  # fmt: skip
"""Top-level keys that take a single value."""

METRIC_KEYS: dict[str, Key] = {
    "name": Key("choice", "Reading that the sweep is judged by.", "test_accuracy", choices=tuple(GOALS)),
    "goal": Key("choice", "Which way is better.", "by the name", choices=("maximize", "minimize")),
}
RESOURCE_KEYS: dict[str, Key] = {
    "cpus": Key("number", "CPU cores of one pack.", 1, 0, 10_000, open_low=True),
    "gpus": Key("number", "GPUs of one pack; 0.5 lets two packs share one.", 0, 0, 1000),
    "max_concurrent": Key("integer", "Packs at once.", "as many as fit", 1, 100_000),
    "device": Key("choice", "Where packs train.", "auto", choices=("auto", "cpu", "cuda")),
    "pack_size": Key(
        "integer", "Trials that one worker trains at once, at most.", "what a calibration finds fastest",
        1, 100_000,
    ),
    "kernel": Key(
        "choice", "How a pack is computed; loop is the plain reference.", "what a calibration finds fastest",
        choices=tuple(KERNELS),
    ),
    "step_limit": Key(
        "number", "Seconds that one step of a pack may take before it counts as hanging.",
        "600, or 20 times the slowest before", 0, 1e9, open_low=True,
    ),
}  # fmt: skip
TRACKING_KEYS: dict[str, Key] = {
    "uri": Key(
        "text", "Where MLflow keeps its runs; none for no tracking.", "SQLite beside the results",
        what="sqlite:///PATH, http://HOST, https://HOST or none",
        pattern=r"none|sqlite:///.+|https?://[^/\s]+.*",
    )
}  # fmt: skip
SEARCH_KEYS: dict[str, Key] = {
    "sampler": Key(
        "text",
        "How conditions are drawn. Method random: independent, sobol, halton, latin_hypercube. "
        "Method optuna: tpe, gp, cmaes, nsga2, qmc.",
        "independent; tpe",
        pattern="[a-z0-9_]+",
        what="a name",
    ),
    "num_trials": Key("integer", "Conditions to try; raising it adds some.", "(required)", 1, 1_000_000),
    "seed": Key("integer", "Seed of the draws; not the trials' seeds.", 0, 0, 2**31 - 1),
    "quantile": Key(
        "number", "Quantile over seeds that is the objective of a condition.", "the mean", 0, 1, open_low=True
    ),
    "lag": Key(
        "integer",
        "How many of the newest results a suggestion does not know; twice the workers keep busy.",
        None,
        1,
        100_000,
    ),
    "storage": Key(
        "text",
        "Database that shows the study to Optuna's tools while it runs; never read.",
        "(none)",
        what="sqlite:///FILE or postgresql://HOST/NAME",
        pattern=_DATABASE,
    ),
    "warm_start": Key(
        "text",
        "Another sweep, by name or folder, or DATABASE#STUDY of Optuna, whose results the sampler knows.",
        "(none)",
        what="a sweep's name or folder, or DATABASE#STUDY with a database as for search.storage",
        pattern=rf"(?!.*://).+|{_DATABASE}#[^#]+",
    ),
    "timeout": Key(
        "number", "Seconds of a run after which nothing is suggested.", None, 0, 1_000_000_000, open_low=True
    ),
}
EARLY_STOP_KEYS: dict[str, Key] = {
    "type": Key(
        "choice",
        "Rule; hyperband, bohb and pbt pause trials and need checkpoints of Ray's.",
        "(required)",
        choices=("asha", "median"),
        refused=dict.fromkeys(
            ("hyperband", "bohb", "pbt"),
            "it pauses trials and needs Ray Tune's checkpoints, which do not survive the driver: use asha",
        ),
    ),
    "min_steps": Key("integer", "Steps before the rule speaks.", 100, 1, 10_000_000),
    "eta": Key("number", "One in eta goes on at each rung.", 3, 1, 1000, open_low=True),
}
SEEDS_KEYS: dict[str, Key] = {
    "start": Key("integer", "Seeds before the first look at the claims.", "(required)", 2, MAX_SEEDS),
    "step": Key("integer", "Seeds added after a look that leaves a claim open.", "(required)", 1, MAX_SEEDS),
    "max": Key("integer", "Most seeds.", "(required)", 3, MAX_SEEDS),
}
CLAIM_KEYS: dict[str, Key] = {
    "min_effect": Key("number", "Smallest effect that counts.", "the claim's own", 0, 1_000_000),
    "alpha": Key("number", "Level of the test.", 0.05, 0, 0.5, open_low=True),
}

SECTIONS: dict[str, str] = {
    "metric": "The reading that the sweep is judged by.",
    "parameters": "Scientific settings of a trial: a value, a list of values to try, or a range.",
    "seeds": "Replicates of every condition: how many, a list, or a schedule by which they are added until "
    "the claims are clear. Default 1.",
    "probes": "Measurements taken during training; they never change it.",
    "claims": "Claims of the paper that the report judges.",
    "search": "Budget and sampler of methods random and optuna.",
    "early_stop": "Rule by which methods random and optuna end trials early.",
    "resources": "What one pack takes of a machine.",
    "tracking": "Where MLflow keeps its runs.",
    "constraints": "What a condition of an Optuna search must keep, such as diverged_fraction <= 0.2.",
}
"""Top-level keys that hold more than a single value."""


def unknown_keys(node: Table, path: str, legal: Sequence[str], mistakes: Mistakes) -> None:
    """Note every key of ``node`` that is not legal there, with the nearest one that is."""
    for name, key in node.keys.items():
        if name not in legal:
            where = f"{path}.{name[:64]}" if path else name[:64]
            hint = nearest(name, legal) or f"legal here: {', '.join(legal)}"
            mistakes.add(key, where, "must be a key of the grammar", "an unknown key", hint)


def read_keys(
    node: Node, path: str, keys: Mapping[str, Key], mistakes: Mistakes, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the legal values of a section's keys; those absent or wrong are left out.

    Args:
        node: The section.
        path: Its key path.
        keys: Its keys.
        mistakes: Receives what is wrong.
        more: Further legal keys, which the caller reads.
    """
    if not isinstance(node, Table):
        mistakes.add(node, path, f"must be a mapping with the keys {', '.join(keys)}")
        return {}
    unknown_keys(node, path, (*keys, *more), mistakes)
    values = {
        name: key.read(node.entries[name], f"{path}.{name}", mistakes)
        for name, key in keys.items()
        if name in node.entries
    }
    return {name: value for name, value in values.items() if value is not None}
