"""What a failed call to a tracking store means, and calls that may be repeated."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

__all__ = ["Failure", "kind_of", "repeated"]

_REFUSED = ("INVALID_PARAMETER_VALUE",)
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
_LOST = ("RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "NOT_FOUND")
_NOT_MLFLOW = "API request to endpoint"  # how MLflow begins where the answer is none of its own
_TRIES = 4
_PAUSE_S = 0.5
_SHORT_S = 5.0

T = TypeVar("T")


class Failure(StrEnum):
    """Why a call failed.

    Attributes:
        REFUSED: What was sent is not legal: sending it again changes nothing.
        ODD: The store could not make sense of it, for a reason that it does not know itself.
        DENIED: Login or rights are wanting.
        LOST: A run or experiment is not there any more: look up anew what is.
        AWAY: The store does not answer as it should, for now.
    """

    REFUSED = "refused"
    ODD = "odd"
    DENIED = "denied"
    LOST = "lost"
    AWAY = "away"


def kind_of(error: Exception) -> Failure:
    """Return what an error of MLflow's means; one without a code means that the store is away."""
    code = getattr(error, "error_code", "")
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if code in _REFUSED:
        return Failure.REFUSED
    if code in _DENIED or status in (401, 403):
        return Failure.DENIED
    if code == "BAD_REQUEST" and not str(error).startswith(_NOT_MLFLOW):
        return Failure.ODD
    return Failure.LOST if code in _LOST else Failure.AWAY


def repeated(call: Callable[[], T]) -> T:
    """Make a call that changes nothing when it is made twice, again if need be.

    A store that is away is asked up to four times within some three seconds, at random moments, so
    that many mirrors do not come back at once. What takes longer is an outage: the caller's matter.

    Args:
        call: What to do.

    Returns:
        What it returns.
    """
    for attempt in range(1, _TRIES + 1):
        began = time.monotonic()
        try:
            return call()
        except Exception as error:
            slow = time.monotonic() - began > _SHORT_S
            if kind_of(error) is not Failure.AWAY or slow or attempt == _TRIES:
                raise
        time.sleep(_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")
