"""Reading idx files, the format of MNIST and its relatives, plain or packed with gzip.

References:
    Y. LeCun, C. Cortes and C. Burges, *The MNIST database of handwritten digits*,
    http://yann.lecun.com/exdb/mnist/, section *File formats*.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnsweep.errors import DataError

__all__ = ["read_idx"]

UNSIGNED_BYTE = 8


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read an idx file of bytes whose shape is known, and refuse anything else.

    Never reads more than the shape needs, however far a packed file would expand.

    Args:
        path: The file; a name that ends in ``.gz`` is unpacked on the way.
        shape: The shape that its header must state.

    Returns:
        ``uint8`` tensor of that shape.

    Raises:
        DataError: If the file cannot be read, is not an idx file of bytes, states another shape,
            or ends too early or too late.
    """
    header = 4 + 4 * len(shape)
    expected = header + math.prod(shape)
    content = _read(path, expected + 1)
    if len(content) < header:
        raise DataError(_damaged(path, f"hold an idx header of {header} bytes", f"only {len(content)}"))
    if content[:4] != bytes((0, 0, UNSIGNED_BYTE, len(shape))):
        must = f"begin with 0000{UNSIGNED_BYTE:02x}{len(shape):02x}, as an idx file of bytes does"
        raise DataError(_damaged(path, must, content[:4].hex()))
    stated = struct.unpack(f">{len(shape)}I", content[4:header])
    if stated != shape:
        raise DataError(_damaged(path, f"hold an array of shape {shape}", f"shape {stated}"))
    if len(content) != expected:
        found = f"only {len(content)}" if len(content) < expected else "more"
        raise DataError(_damaged(path, f"hold {expected} bytes, unpacked", found))
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def _read(path: Path, limit: int) -> bytes:
    """Return at most ``limit`` bytes of a file, unpacked where its name ends in .gz."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return bytes(file.read(limit))
    except (OSError, EOFError, zlib.error) as error:
        must = "be readable and whole"
        raise DataError(_damaged(path, must, str(error) or type(error).__name__)) from error


def _damaged(path: Path, must: str, found: str) -> str:
    return f"the data file {path} must {must}, but found {found}; delete it and get it again"
