"""Norms of the user's: factories named ``module:function``.

A factory is ``make(num_features) -> nn.Module``. The module takes ``[N, C]`` and ``[N, C, H, W]`` and
returns the same shape. If it treats every channel for itself it says so by an attribute
``per_channel = True``; it is then called with ``K * C`` channels and stacks for free. If not, its
trials run one at a time.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnsweep.errors import Mistake, SpecError

__all__ = ["Factory", "check_factory", "load_factory", "make_custom"]

Factory = Callable[[int], nn.Module]
"""Makes a norm for so many channels."""

_CHANNELS = 64
_SHAPES = ((8, _CHANNELS), (8, _CHANNELS, 5, 5))


def load_factory(name: str) -> Factory:
    """Import the factory called ``name``.

    Args:
        name: ``module:function``; the module must be importable, so its folder on ``PYTHONPATH``.

    Returns:
        The function, not called yet.

    Raises:
        SpecError: If the module cannot be imported, or holds no such function.

    Example:
        >>> load_factory("torch.nn:Identity")
        <class 'torch.nn.modules.linear.Identity'>
    """
    module_name, _, function = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything while it is imported
        raise SpecError(
            _mistake(
                name,
                f"must name a module that can be imported, but importing {module_name} raised {_said(error)}",
                "put the module's folder on PYTHONPATH",
            )
        ) from error
    factory: object = getattr(module, function, None)
    if not callable(factory):
        what = "no such name" if factory is None else f"a {type(factory).__name__}, which cannot be called"
        raise SpecError(
            _mistake(name, f"must be a function make(num_features), but {module_name} holds {what}")
        )
    return factory


def make_custom(name: str, num_features: int, members: int) -> nn.Module:
    """Make the norm ``name`` for a stack.

    The global random state is left as it was, and does not matter: the factory sees a fixed seed.

    Args:
        name: ``module:function``.
        num_features: Channels ``C`` of one member.
        members: Members ``K`` of the stack.

    Returns:
        What the factory returns for ``K * C`` channels.

    Raises:
        SpecError: If the factory raises or returns no module, if ``K > 1`` and the norm is not per
            channel, or if its state cannot be told apart by member.
    """
    factory = load_factory(name)
    channels = members * num_features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            module: object = factory(channels)
        except Exception as error:  # the user's code may raise anything
            raise SpecError(
                _mistake(name, f"must return a module, but make({channels}) raised {_said(error)}")
            ) from error
    if not isinstance(module, nn.Module):
        raise SpecError(
            _mistake(name, f"must return a torch.nn.Module, but make({channels}) returned {module!r:.80}")
        )
    if members > 1 and not _claims_per_channel(module):
        raise SpecError(
            _mistake(
                name,
                f"must work per channel to be stacked, but a stack of {members} was asked for and the module "
                "has no attribute per_channel = True",
                "set it if every channel is normalized for itself, or train one member at a time",
            )
        )
    _check_state(name, module, channels)
    return module


def check_factory(name: str) -> bool:
    """Make the norm ``name`` and try it, in training and evaluation, on ``[N, C]`` and ``[N, C, H, W]``.

    Args:
        name: ``module:function``.

    Returns:
        Whether the norm works per channel, and so stacks.

    Raises:
        SpecError: If the factory cannot be imported, raises or returns no module; if the norm
            raises, changes the shape or type of its input, returns values that are not finite,
            draws random numbers, or claims to work per channel and mixes channels.
    """
    module = make_custom(name, _CHANNELS, 1)
    per_channel = _claims_per_channel(module)
    generator = torch.Generator().manual_seed(0)
    for shape in _SHAPES:
        x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        outputs = _try(name, module, x)
        if any(not torch.equal(a, b) for a, b in zip(outputs, _try(name, module, x), strict=True)):
            raise SpecError(
                _mistake(
                    name,
                    "must return the same for the same input and state, but two calls differed",
                    "a trial that draws random numbers of its own could not be resumed",
                )
            )
        if per_channel:
            other = x.detach().clone().requires_grad_()
            other.data[:, 0] = 5 * other.data[:, 0] + 3
            changed = _try(name, module, other)
            if any(not torch.allclose(a[:, 1:], b[:, 1:]) for a, b in zip(outputs, changed, strict=True)):
                raise SpecError(
                    _mistake(
                        name,
                        "must keep channels apart, because it says per_channel = True, but changing channel "
                        f"0 of an input of shape {tuple(shape)} changed other channels",
                        "remove the attribute: its trials then run one at a time",
                    )
                )
    return per_channel


def _try(name: str, module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs in training and then in evaluation of a copy of ``module``."""
    twin = copy.deepcopy(module).to(x.dtype)
    outputs = []
    for training in (True, False):
        mode = "training" if training else "evaluation"
        where = f"an input of shape {tuple(x.shape)} in {mode}"
        try:
            y: object = twin.train(training)(x)
        except Exception as error:  # the user's code may raise anything
            raise SpecError(
                _mistake(name, f"must take [N, C] and [N, C, H, W], but {where} raised {_said(error)}")
            ) from error
        if not isinstance(y, Tensor) or y.shape != x.shape or y.dtype != x.dtype:
            found = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise SpecError(
                _mistake(
                    name, f"must return the shape and type it is given, but {where} of {x.dtype} gave {found}"
                )
            )
        if not bool(y.isfinite().all()):
            raise SpecError(
                _mistake(
                    name, f"must return finite values, but {where}, standard normal, gave some that are not"
                )
            )
        if not y.requires_grad:
            raise SpecError(_mistake(name, f"must let the gradient through, but {where} gave none"))
        outputs.append(y.detach())
    return outputs[0], outputs[1]


def _claims_per_channel(module: nn.Module) -> bool:
    return getattr(module, "per_channel", False) is True


def _check_state(name: str, module: nn.Module, channels: int) -> None:
    """Refuse parameters and buffers that could not be split by member."""
    stacks = _claims_per_channel(module)
    for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for key, tensor in tensors:
            shape = tuple(tensor.shape)
            if not shape and kind == "parameter":
                raise SpecError(
                    _mistake(
                        name,
                        f"must have parameters of one axis or more, but {key} is a scalar",
                        "use shape (1,)",
                    )
                )
            if shape and stacks and shape[0] % channels:
                raise SpecError(
                    _mistake(
                        name,
                        f"must give every parameter and buffer a first axis of num_features, as it says "
                        f"per_channel = True, but {kind} {key} has shape {shape} for {channels} features",
                    )
                )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _mistake(name: str, problem: str, hint: str = "") -> list[Mistake]:
    """Return what is wrong with the norm ``name``; ``problem`` reads *must do this, but did that*."""
    must, _, found = problem.partition(", but ")
    return [Mistake(f"norm {name}", must, found, hint)]
