"""What bnsweep raises when it stops: one root, a few children, an exit code each.

A message is one short paragraph that says what must hold, what was found, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "BnsweepError",
    "DataError",
    "Interrupted",
    "LedgerBusyError",
    "LedgerError",
    "Mistake",
    "ServiceError",
    "SpecError",
    "StorageError",
    "caused_by_interrupt",
]


class BnsweepError(Exception):
    """Root of every error that bnsweep raises on purpose; ``exit_code`` is what the CLI returns."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong in a sweep file.

    Attributes:
        path: Key path inside the file, such as ``parameters.lr``; empty for the file as a whole.
        must: What must hold, as in *must be a positive number*.
        found: What stands there instead.
        hint: What to do, or the nearest legal name; may be empty.
        line: 1-based line in the file, or ``None`` where there is no file.
    """

    path: str
    must: str
    found: str
    hint: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = self.path or "the file"
        text = f"{where} {self.must}, but found {self.found}"
        return f"{text}; {self.hint}" if self.hint else text


class SpecError(BnsweepError, ValueError):
    """A sweep file or a trial's parameters are wrong; carries every mistake, not the first one.

    Args:
        mistakes: What is wrong, in file order.
        source: The file's name as the user gave it, for the message.
    """

    def __init__(self, mistakes: Sequence[Mistake], source: str = "") -> None:
        self.mistakes = tuple(mistakes)
        self.source = source
        super().__init__("\n".join(self._lines()))

    def _lines(self) -> list[str]:
        lines = []
        for mistake in self.mistakes:
            place = ":".join(str(part) for part in (self.source, mistake.line) if part)
            lines.append(f"{place}: {mistake}" if place else str(mistake))
        return lines

    def __reduce__(self) -> tuple[type[SpecError], tuple[Sequence[Mistake], str]]:
        """Pickle by arguments, since the message is derived from them."""
        return type(self), (self.mistakes, self.source)


class DataError(BnsweepError):
    """A data set is absent, damaged, or not what its fingerprint promises."""


class LedgerError(BnsweepError):
    """The ledger cannot be used: not ours, not writable, or from a newer version."""


class LedgerBusyError(LedgerError):
    """Another process is running this sweep."""

    exit_code = 5


class StorageError(LedgerError, OSError):
    """The store of the ledger does not answer, or refuses; also an :class:`OSError`, as of a disk."""

    exit_code = 4


class ServiceError(BnsweepError):
    """Something outside does not answer: a tracking server, a Ray cluster."""

    exit_code = 4


class Interrupted(BnsweepError):
    """The user, or the machine, asked to stop; running again goes on."""

    exit_code = 3


def caused_by_interrupt(error: BaseException) -> bool:
    """Whether a Ctrl-C came while something was at work that made another error of it.

    A compiled module that is being imported makes an :exc:`ImportError` of it.
    """
    return isinstance(error.__cause__ or error.__context__, KeyboardInterrupt)
