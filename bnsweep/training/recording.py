"""Steps that a device repeats from a recording, in one launch.

A GPU is done with a small network's step long before the host has launched its next one. A CUDA graph
has every launch of a step in it. It reads and writes the same memory at every repetition, and knows
nothing of Python: whatever differs between steps must be a tensor that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["RECORDERS", "Recording", "same_bits", "try_recording"]

Result = TypeVar("Result")
Inputs = Mapping[str, Tensor]


def _cuda_graph(call: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = call()
    return result, graph.replay


RECORDERS: dict[str, Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]] = {"cuda": _cuda_graph}
"""By type of device: from a call to what it returned, and what does it again, into the same memory."""


@dataclass(frozen=True, eq=False)
class Recording(Generic[Result]):
    """A recorded call.

    Attributes:
        inputs: The tensors that it reads its inputs from.
        result: What it returned, whose tensors every repetition fills anew.
        replay: Does what was recorded.
    """

    inputs: Inputs
    result: Result
    replay: Callable[[], None]

    def __call__(self, inputs: Inputs) -> Result:
        """Do the same with other inputs; what is returned holds until the next time."""
        for name, value in self.inputs.items():
            value.copy_(inputs[name])
        self.replay()
        return self.result


def try_recording(
    call: Callable[[Inputs], Result], inputs: Inputs, state: Sequence[Tensor]
) -> tuple[Result, Recording[Result] | None]:
    """Make a call, and record it where that does the same, to the bit.

    Args:
        call: Returns a dataclass of tensors, or of dictionaries of them.
        inputs: All that differs between its calls.
        state: The tensors that it changes; on return they are changed once.

    Returns:
        What the call returned, and its recording: ``None`` where the device records nothing, or where the
        repetition failed or came to other bits.
    """
    record = RECORDERS.get(state[0].device.type)
    if record is None:
        return call(inputs), None
    before = [value.clone() for value in state]
    result = call(inputs)
    after = [value.clone() for value in state]
    try:
        own = {name: value.clone() for name, value in inputs.items()}
        recorded = Recording(own, *record(lambda: call(own)))
        _restore(state, before)
        recorded.replay()
        expected, found = [*after, *_tensors(result)], [*state, *_tensors(recorded.result)]
        if all(same_bits(a, b) for a, b in zip(expected, found, strict=True)):
            return result, recorded
    except RuntimeError:  # an operation that cannot be recorded, or no memory for a second copy
        pass
    _restore(state, after)
    return result, None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, with NaN equal to itself."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@torch.no_grad()
def _restore(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)


def _tensors(result: Any) -> list[Tensor]:
    values = [getattr(result, field.name) for field in fields(result)]
    return [part for value in values for part in (value.values() if isinstance(value, dict) else [value])]
