"""A worker that waits where the storage takes nothing: a full disk, or a store that does not answer."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from bnsweep.errors import LedgerBusyError, LedgerError, StorageError

__all__ = ["LONGEST_PAUSE", "Patience"]

LONGEST_PAUSE = 30.0
"""Seconds between two tries, at most; they begin at half a second and double."""

_PASSING = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT,
    errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN,
    errno.EREMOTEIO, errno.ENODEV,
})  # fmt: skip


class Patience:
    """Repeats what the storage refused, until it does not.

    Attributes:
        reason: What it said the last time; empty where nothing is refused.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._refused: Callable[[], None] | None = None
        self._pause, self._again = 0.0, 0.0

    def does(self, write: Callable[[], None], deadline: float) -> bool:
        """Do something that the storage may refuse, and may be done again.

        Args:
            write: What is to be done.
            deadline: Reading of :func:`time.monotonic` until which it is tried again.

        Returns:
            Whether it is done; otherwise :meth:`goes_on` has to be called before anything else is done.

        Raises:
            LedgerError: If waiting cannot help.
        """
        self._refused, self._pause, self._again = write, 0.0, 0.0
        return self.goes_on(deadline)

    def goes_on(self, deadline: float) -> bool:
        """Try again what was refused; whether nothing is refused now."""
        while self._refused is not None:
            now = time.monotonic()
            if now < self._again:
                if now >= deadline:
                    return False
                time.sleep(min(0.2, self._again - now, deadline - now))
                continue
            try:
                self._refused()
            except LedgerError as error:
                if not _may_pass(error):
                    self._refused, self.reason = None, ""
                    raise
                self.reason = str(error)
                self._pause = min(LONGEST_PAUSE, 2 * self._pause or 0.5)
                self._again = time.monotonic() + self._pause
            else:
                self._refused, self.reason = None, ""
        return True


def _may_pass(error: LedgerError) -> bool:
    """Tell whether it is the storage that refuses, which somebody may mend, and not what stands in it."""
    if isinstance(error, LedgerBusyError):
        return False
    return isinstance(error, StorageError) or getattr(error.__cause__, "errno", None) in _PASSING
