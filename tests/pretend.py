"""A device that is none: tensors that say they are elsewhere, and compute on the CPU.

Where there is no GPU, this shows what one would object to: tensors of two devices in one operation, and
places where the host waits for the device. The arithmetic is the CPU's own, so the results must be too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # noqa: F401  # dispatching would otherwise import it in the middle
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["DEVICE", "Elsewhere", "Pretence", "tells_values"]

DEVICE = torch.device("lazy")
"""What the device is called: of the types that autograd looks for no driver of, one that has no kernels."""

SIZED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim", "repeat_interleave"}
"""Operations whose result has a shape that only the device knows."""


def tells_values(name: str, tensors: Sequence[Tensor]) -> bool:
    """Whether the host learns from an operation what the tensors hold: it has to wait for them."""
    if name in {"index", "index_put_"}:
        return any(index.dtype == torch.bool for index in tensors[1:])
    return name in {"_local_scalar_dense", "equal", *SIZED_BY_VALUES}


class Elsewhere(Tensor):
    """A tensor on the device that is none; ``here`` has its values."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(),
            dtype=here.dtype, layout=here.layout, device=DEVICE,
        )  # fmt: skip
        made.here = here
        return made

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.here!r})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        raise AssertionError(f"{func} was called outside of the pretence")


class Pretence(TorchDispatchMode):
    """Carries out what is asked of the device, while it is entered.

    Attributes:
        waits: The operations at which a host would have waited for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._pinned: list[Tensor] = []

    def __enter__(self) -> Any:
        self._before = torch._C._only_lift_cpu_tensors()  # else torch.tensor copies unseen
        torch._C._set_only_lift_cpu_tensors(True)
        self._generator = mock.patch.object(torch, "Generator", lambda _="cpu", make=torch.Generator: make())
        self._generator.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._generator.stop()
        torch._C._set_only_lift_cpu_tensors(self._before)
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given, name = dict(kwargs or {}), func._schema.name.removeprefix("aten::")
        leaves = [leaf for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)]
        away = [leaf for leaf in leaves if isinstance(leaf, Elsewhere)]
        home = [leaf for leaf in leaves if not isinstance(leaf, Elsewhere)]
        asked = None if given.get("device") is None else torch.device(given["device"]).type
        goes = bool(away) if asked is None else asked == DEVICE.type
        if name == "_pin_memory":
            self._pinned.append(args[0].clone())
            return self._pinned[-1]
        self._look(name, away, home, goes, given)
        if asked == DEVICE.type:
            given["device"] = torch.device("cpu")
        found = func(*_here(args), **_here(given))
        if not goes:
            return found
        made = tree_map_only(Tensor, Elsewhere, found)
        return return_and_correct_aliasing(func, tuple(args), dict(kwargs or {}), made)

    def _look(
        self, name: str, away: list[Elsewhere], home: list[Tensor], goes: bool, given: Mapping[str, Any]
    ) -> None:
        """Note where the host waits, and refuse what a device would."""
        if name == "copy_":
            crosses = bool(away and home)
        else:
            crosses = name == "_to_copy" and bool(away) != goes
        if crosses and not (
            given.get("non_blocking") and any(tensor is pinned for tensor in home for pinned in self._pinned)
        ):
            self.waits.append(f"{name} {'to' if goes else 'from'} the device")
        elif not crosses and away and any(tensor.dim() for tensor in home):
            raise AssertionError(f"{name} was given tensors of two devices")
        if away and tells_values(name, away):
            self.waits.append(name)


def _here(arguments: Any) -> Any:
    return tree_map_only(Elsewhere, lambda tensor: tensor.here, arguments)
