"""The parameters and probes of a trial: kinds, defaults, legal values, and what goes with what.

Shared by both halves of the package (the engine and the sweep), so it needs the standard library alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bnsweep.names import DATASETS, NAMES

__all__ = [
    "MEMBER_PARAMETERS",
    "PARAMETERS",
    "PROBES",
    "Parameter",
    "Parameters",
    "ProbeOption",
    "Value",
    "complete_parameters",
    "complete_probes",
    "weight_layer_count",
]

Value = str | int | float | bool
"""The value of one parameter."""

CUSTOM_NORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A norm of the user's, named ``module:function``."""

Parameters = Mapping[str, Value]
_Condition = Callable[[Parameters], bool]


def _always(_: Parameters) -> bool:
    return True


def _only(key: str, *values: str) -> _Condition:
    return lambda parameters: parameters.get(key) in values


@dataclass(frozen=True)
class Parameter:
    """One scientific setting of a trial: kind, default, legal range, meaning.

    Attributes:
        name: The key in a sweep file.
        kind: ``float``, ``int``, ``bool``, ``choice`` (see :data:`NAMES`), or ``size`` (an
            integer or the word ``full``).
        help: One sentence with the unit.
        default: Default value, or a function of the parameters decided before it.
        low: Smallest legal number.
        high: Largest legal number.
        open_low: Whether ``low`` itself is illegal.
        open_high: Whether ``high`` itself is illegal.
        applies: Whether the parameter exists for a trial with these parameters.
        where: The same in words, for messages and the documentation.
        member: Whether members of one pack may differ in it.
    """

    name: str
    kind: str
    help: str
    default: Value | Callable[[Parameters], Value]
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    applies: _Condition = _always
    where: str = ""
    member: bool = False

    def must(self) -> str:
        """Say what a legal value is, as in *must be a number > 0*."""
        if self.kind == "bool":
            return "must be true or false"
        if self.kind == "choice":
            names = ", ".join(NAMES[self.name])
            extra = ", or a factory of yours as module:function" if self.name == "norm" else ""
            return f"must be one of {names}{extra}"
        noun = {"float": "a number", "int": "an integer", "size": "an integer"}[self.kind]
        parts = []
        if self.low > -math.inf:
            parts.append(f"{'>' if self.open_low else '>='} {_plain(self.low)}")
        if self.high < math.inf:
            parts.append(f"{'<' if self.open_high else '<='} {_plain(self.high)}")
        text = " ".join([f"must be {noun}", " and ".join(parts)]).strip()
        return f'{text}, or "full"' if self.kind == "size" else text

    def canonical(self, value: object) -> Value:
        """Return ``value`` as the type that identity is computed from.

        Args:
            value: What a user wrote, already read from YAML or given in Python.

        Returns:
            The value as ``float``, ``int``, ``bool`` or ``str``, whichever the kind asks for.

        Raises:
            ValueError: If the value is not legal; the message is :meth:`must`.

        Example:
            >>> PARAMETERS["lr"].canonical(1), PARAMETERS["lr"].canonical(1e-1)
            (1.0, 0.1)
        """
        legal: Value | None = None
        if self.kind == "bool":
            legal = value if isinstance(value, bool) else None
        elif self.kind == "choice":
            legal = self._choice(value)
        elif self.kind == "size" and value == "full":
            legal = "full"
        elif isinstance(value, int | float) and not isinstance(value, bool):
            legal = self._number(value)
        if legal is None:
            raise ValueError(self.must())
        return legal

    def _choice(self, value: object) -> str | None:
        if not isinstance(value, str):
            return None
        custom = self.name == "norm" and CUSTOM_NORM.fullmatch(value)
        return value if value in NAMES[self.name] or custom else None

    def _number(self, value: int | float) -> int | float | None:
        if not math.isfinite(value) or abs(value) > 1e300:
            return None
        if value < self.low or value > self.high:
            return None
        if (self.open_low and value == self.low) or (self.open_high and value == self.high):
            return None
        if self.kind == "float":
            return float(value) + 0.0  # so that -0.0 and 0.0 are one value
        return int(value) if value == int(value) else None

    def default_for(self, parameters: Parameters) -> Value:
        """Return the default for a trial whose earlier parameters are ``parameters``."""
        return self.default(parameters) if callable(self.default) else self.default


def _plain(number: float) -> str:
    """Write a limit without an exponent."""
    return f"{int(number):,}".replace(",", " ") if number == int(number) else f"{number:g}"


_VGG = _only("model", "vgg11", "vgg13", "vgg16", "vgg19")
_DLN = _only("model", "dln")
_NOISY = _only("norm", "noisy_batch", "noisy_none")
_LP = _only("norm", "l1", "l2", "linf")
_SGD = _only("optimizer", "sgd")
_ADAM = _only("optimizer", "adam", "adamw")


def _builtin_norm(parameters: Parameters) -> bool:
    norm = str(parameters.get("norm"))
    return norm in NAMES["norm"] and norm not in ("none", "noisy_none")


def _running_norm(parameters: Parameters) -> bool:
    return parameters.get("norm") in ("batch", "noisy_batch", "l1", "l2", "linf")


def _for_dln(dln: Value, other: Value) -> Callable[[Parameters], Value]:
    return lambda parameters: dln if _DLN(parameters) else other


PARAMETERS: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("model", "choice", "Network.", "vgg11"),
        Parameter(
            "width", "float", "Multiplier of every channel count.", 1.0, 0, 16, open_low=True,
            applies=_VGG, where="model is a VGG",
        ),
        Parameter(
            "depth", "int", "Weight layers of the deep linear network; hidden layers of the MLP.",
            _for_dln(25, 3), 1, 1000,
            applies=_only("model", "dln", "mlp"), where="model is dln or mlp",
        ),
        Parameter(
            "features", "int", "Units of a layer.", _for_dln(10, 128), 1, 65_536,
            applies=_only("model", "dln", "mlp"), where="model is dln or mlp",
        ),
        Parameter(
            "activation", "choice", "Non-linearity, after the normalization.", "relu",
            applies=lambda p: not _DLN(p), where="model is not dln",
        ),
        Parameter(
            "pool", "choice", "Pooling between the VGG's stages.", "max",
            applies=_VGG, where="model is a VGG",
        ),
        Parameter("init", "choice", "Distribution of the initial weights.", "glorot_normal"),
        Parameter("dataset", "choice", "Data set.", _for_dln("gaussian", "digits")),
        Parameter(
            "inputs", "choice",
            "Normalization of the images: raw in [0, 1]; half: (x - 0.5) / 0.5; standardized: mean 0 "
            "and variance 1 for each channel over the training split.",
            "half",
            applies=lambda p: p.get("dataset") != "gaussian", where="dataset holds images",
        ),
        Parameter(
            "augment", "choice", "flip_crop: random crop after zero padding, and horizontal flip.",
            "none",
            applies=lambda p: p.get("dataset") != "gaussian", where="dataset holds images",
        ),
        Parameter("norm", "choice", "Normalization before every non-linearity.", "batch"),
        Parameter(
            "noise", "float", "Noise level: 0 is the plain layer, 1 the paper's noise.", 1.0, 0, 1000,
            applies=_NOISY, where="norm is noisy_batch or noisy_none", member=True,
        ),
        Parameter(
            "noise_at_eval", "bool", "Inject the noise in evaluation too.", False,
            applies=_NOISY, where="norm is noisy_batch or noisy_none",
        ),
        Parameter(
            "noise_sigma", "choice", "Whether the paper's r_sigma is a standard deviation.", "std",
            applies=_NOISY, where="norm is noisy_batch or noisy_none",
        ),
        Parameter(
            "lp_centered", "bool", "Take the Lp magnitude after the mean is removed.", False,
            applies=_LP, where="norm is l1, l2 or linf",
        ),
        Parameter(
            "lp_gaussian", "bool",
            "Scale the Lp magnitude by its value for a standard normal, so that it estimates the "
            "standard deviation.",
            False, applies=_LP, where="norm is l1, l2 or linf",
        ),
        Parameter(
            "groups", "int",
            "Groups of group normalization; a layer of C channels uses gcd(groups, C).", 32, 1, 65_536,
            applies=_only("norm", "group"), where="norm is group",
        ),
        Parameter(
            "norm_eps", "float", "Added to the variance, or to the Lp magnitude.", 1e-5, 0, 1,
            applies=_builtin_norm, where="norm is one of bnsweep's normalizations",
        ),
        Parameter(
            "norm_momentum", "float", "Weight of the newest batch in the running statistics.", 0.1, 0, 1,
            applies=_running_norm, where="norm is batch, noisy_batch, l1, l2 or linf",
        ),
        Parameter(
            "affine", "bool", "Learn a scale (starts at 1) and a shift (starts at 0).", True,
            applies=_builtin_norm, where="norm is one of bnsweep's normalizations",
        ),
        Parameter("optimizer", "choice", "Optimizer.", "sgd"),
        Parameter(
            "lr", "float", "Learning rate, constant over training.", _for_dln(1e-6, 0.1), 0, 1e6,
            open_low=True, member=True,
        ),
        Parameter(
            "momentum", "float", "Momentum of SGD.", 0.0, 0, 1, open_high=True,
            applies=_SGD, where="optimizer is sgd", member=True,
        ),
        Parameter(
            "nesterov", "bool", "Nesterov's form of the momentum.", False,
            applies=_SGD, where="optimizer is sgd",
        ),
        Parameter(
            "beta1", "float", "Adam's decay of the first moment.", 0.9, 0, 1, open_high=True,
            applies=_ADAM, where="optimizer is adam or adamw", member=True,
        ),
        Parameter(
            "beta2", "float", "Adam's decay of the second moment.", 0.999, 0, 1, open_high=True,
            applies=_ADAM, where="optimizer is adam or adamw", member=True,
        ),
        Parameter(
            "adam_eps", "float", "Added to the root of Adam's second moment.", 1e-8, 0, 1, open_low=True,
            applies=_ADAM, where="optimizer is adam or adamw", member=True,
        ),
        Parameter(
            "weight_decay", "float", "Strength of the L2 penalty, or of the decay of AdamW.", 0.0, 0, 1e6,
            member=True,
        ),
        Parameter(
            "weight_decay_as", "choice",
            "optimizer: as torch's optimizers do it; loss: a term (weight_decay / 2) * |w|^2 of the "
            "loss, so that it is part of every plotted loss and probe.",
            "optimizer",
        ),
        Parameter(
            "weight_decay_on", "choice",
            "weights: the weights of convolutions and linear layers; all: biases and the "
            "normalization's scale and shift too.",
            "weights",
        ),
        Parameter(
            "batch_size", "size", "Samples of a step; full is the whole training split.",
            _for_dln("full", 128), 1, 10_000_000,
        ),
        Parameter("steps", "int", "Optimizer updates.", 1000, 1, 10_000_000),
        Parameter(
            "precision", "choice",
            "Arithmetic of training. bfloat16: products of weight layers alone, with weights, statistics and "
            "everything else in float32; probes and evaluations are in float32 throughout.",
            _for_dln("float64", "float32"),
        ),
        Parameter(
            "eval_every", "int", "Steps between evaluations; the last step is always evaluated.",
            100, 1, 10_000_000,
        ),
        Parameter(
            "log_every", "int", "Steps between readings of the training loss and accuracy.",
            10, 1, 10_000_000,
        ),
        Parameter(
            "seed", "int", "Replicate: initial weights, batch order, augmentation and noise.", 0, 0,
            2**31 - 1, member=True,
        ),
    )
}  # fmt: skip
"""Every parameter, in the order in which defaults are decided; ``epochs`` may stand for ``steps``."""

MEMBER_PARAMETERS = frozenset(name for name, parameter in PARAMETERS.items() if parameter.member)
"""What members of one pack may differ in; everything else is static."""

VGG_CONVOLUTIONS = {"vgg11": 8, "vgg13": 10, "vgg16": 13, "vgg19": 16}


def weight_layer_count(parameters: Parameters) -> int:
    """Return the number of weight layers (convolutions and linear layers) of a trial's network.

    Example:
        >>> weight_layer_count({"model": "vgg11"}), weight_layer_count({"model": "mlp", "depth": 3})
        (11, 4)
    """
    model = str(parameters["model"])
    if model in VGG_CONVOLUTIONS:
        return VGG_CONVOLUTIONS[model] + 3
    depth = int(parameters["depth"])
    return depth if model == "dln" else depth + 1


@dataclass(frozen=True)
class ProbeOption:
    """One option of a probe: ``kind`` is ``int``, ``layers``, ``numbers`` or ``choice``.

    One that is ``silent`` is no part of a trial's identity where it has its default: it came later, and
    the ids of older trials must stay.
    """

    kind: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    silent: bool = False


_EVERY = ProbeOption("int", 100, "Steps between two measurements, from step 0 on.")
_LAYERS = ProbeOption("layers", "all", "Weight layers, 1-based: all, or a list.")
_NOISE = ProbeOption(
    "choice",
    "frozen",
    "Whether the injected noise is the training step's own draw in every evaluation of a "
    "measurement, or drawn anew for each.",
    ("frozen", "resampled"),
)

PROBES: dict[str, dict[str, ProbeOption]] = {
    "ics": {"every": _EVERY, "layers": _LAYERS, "noise": _NOISE},
    "landscape": {
        "every": _EVERY,
        "step_sizes": ProbeOption(
            "numbers", [0.5, 1.0, 2.0, 4.0], "Step lengths along the gradient, in multiples of lr."
        ),
        "noise": _NOISE,
        "keep": ProbeOption(
            "choice",
            "bands",
            "Whether only the bands over the step lengths are kept, or the readings of each length too.",
            ("bands", "each"),
            silent=True,
        ),
    },
    "moments": {"every": _EVERY, "layers": _LAYERS},
    "activations": {"every": _EVERY, "layers": _LAYERS},
    "theory": {"every": _EVERY, "layers": _LAYERS},
}
"""Every probe with its options and defaults."""


def complete_parameters(given: Mapping[str, object]) -> dict[str, Value]:
    """Fill in every default and check every value of one trial.

    Args:
        given: Parameters by name, ``seed`` among them or not.

    Returns:
        All parameters that apply, in the order of :data:`PARAMETERS`; those that do not apply to
        such a trial are absent.

    Raises:
        ValueError: If a name is unknown, a value illegal, or a parameter given that does not
            apply; the message holds one line for each.

    Example:
        >>> complete_parameters({"norm": "noisy_batch"})["noise"]
        1.0
        >>> complete_parameters({"norm": "batch", "noise": 0.5})
        Traceback (most recent call last):
        ValueError: noise applies only where norm is noisy_batch or noisy_none
    """
    problems = [f"{name} is not a parameter" for name in given if name not in PARAMETERS]
    done: dict[str, Value] = {}
    for name, parameter in PARAMETERS.items():
        if not parameter.applies(done):
            if name in given:
                problems.append(f"{name} applies only where {parameter.where}")
            continue
        try:
            value = given[name] if name in given else parameter.default_for(done)
            done[name] = parameter.canonical(value)
        except ValueError as error:
            problems.append(f"{name} {error}, but found {given[name]!r}")
            done[name] = parameter.default_for(done)
    problems.extend(_conflicts(done))
    if problems:
        raise ValueError("\n".join(problems))
    return done


def _conflicts(parameters: Parameters) -> list[str]:
    """Name the combinations that cannot be trained, each with the reason."""
    problems = []
    model, norm, dataset = (str(parameters[name]) for name in ("model", "norm", "dataset"))
    if (model == "dln") != (dataset == "gaussian"):
        problems.append(
            f"model {model} cannot train on dataset {dataset}: dln needs gaussian, and gaussian needs dln"
        )
    if norm == "instance" and model in ("dln", "mlp"):
        problems.append(
            f"norm instance is undefined for model {model}: its activations have no space to "
            "normalize over; use a VGG, or norm layer, group or rms"
        )
    if parameters.get("nesterov") and not parameters.get("momentum"):
        problems.append("nesterov needs momentum > 0")
    facts = DATASETS.get(dataset)
    batch = parameters["batch_size"]
    if facts and isinstance(batch, int) and batch > facts.train:
        problems.append(
            f"batch_size must be <= {facts.train}, the training split of {dataset}, "
            f'but found {batch}; "full" takes all of it'
        )
    if batch == 1 and norm in ("batch", "noisy_batch", "l1", "l2", "linf"):
        problems.append(f"batch_size must be >= 2 for norm {norm}: one sample has no spread")
    return problems


def complete_probes(given: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """Fill in the defaults of the probes that a trial carries; values must be legal already.

    Example:
        >>> complete_probes({"moments": {"every": 50}})
        {'moments': {'every': 50, 'layers': 'all'}}
    """
    probes = {}
    for name, options in sorted((given or {}).items()):
        merged = {key: option.default for key, option in PROBES[name].items()} | dict(options)
        if "step_sizes" in merged:
            merged["step_sizes"] = [float(value) for value in merged["step_sizes"]]
        for key, option in PROBES[name].items():
            if option.silent and merged[key] == option.default:
                del merged[key]
        probes[name] = merged
    return probes
