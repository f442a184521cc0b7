"""What a CUDA graph does, without CUDA: the operations of a call, done again on the same tensors.

As in a graph, Python does not run again, nothing is drawn, and the host is told nothing of the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.pretend import Pretence, tells_values

__all__ = ["taped"]

Result = TypeVar("Result")

DRAWS = ("bernoulli", "multinomial", "native_dropout", "normal", "rand", "uniform")


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Sequence[Any], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tells_values(name, tensors) or name == "_pin_memory" or name.startswith(DRAWS):
            raise RuntimeError(f"{name} cannot be recorded")
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, found in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and not _gives_back(func):
                    old.copy_(new)


def _gives_back(func: Any) -> bool:
    """Whether an operation returns the memory of an argument, so that the values are there already."""
    return any(value.alias_info is not None for value in func._schema.returns)


def taped(pretence: Pretence | None = None) -> Callable[[Callable[[], Result]], Any]:
    """Return a recorder as in :data:`bnsweep.training.recording.RECORDERS`.

    Args:
        pretence: Where the recorded tensors are; a call in which the host would wait cannot be recorded.
    """

    def record(call: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        waits = len(pretence.waits) if pretence else 0
        with _Tape() as tape:
            result = call()
        if pretence and pretence.waits[waits:]:
            raise RuntimeError(f"{pretence.waits[waits:]} cannot be recorded")
        return result, tape.replay

    return record
