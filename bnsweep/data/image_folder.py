"""Any folder of class folders with images in them, decoded once into one file of tensors.

Layouts: ``train/<class>/*`` and ``test/<class>/*``; or ``<class>/*`` alone, of which every fifth image
of each class, in the order of their names (the 5th, the 10th, ...), becomes a test image. Classes are
numbered in the order of their names. Files whose name starts with a dot or does not end as an
image's does are left out; folders inside a class folder are part of the class.

Preparing writes two files into the folder:

``images.pt``
    ``train_x``, ``train_y``, ``test_x``, ``test_y`` as ``torch.save`` writes them: images ``uint8``
    ``[n, C, H, W]``, labels ``int64`` ``[n]``.
``fingerprint.json``
    One JSON object, which can be read without torch: ``schema`` (1), ``channels``, ``size``,
    ``classes``, ``train``, ``test`` (integers), ``fingerprint`` (16 hex digits, of the contents),
    ``class_names`` (in the order of the labels) and ``listing`` (16 hex digits, of the names, sizes
    and modification times of the image files, by which a later change is noticed).
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from bnsweep.data.contents import Images
from bnsweep.data.image_files import ImageDecoder, has_images, list_images
from bnsweep.errors import DataError
from bnsweep.names import DataFacts

__all__ = ["load_image_folder", "prepare_image_folder", "read_fingerprint"]

SCHEMA = 1

_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    pickle.UnpicklingError,
)


def prepare_image_folder(path: Path, size: int | None = None) -> DataFacts:
    """Decode every image of a folder and keep the result beside them.

    Images are kept grey where all of them are, else in colour (transparency is dropped). Running it
    again replaces the result.

    Args:
        path: The folder; see this module for its layout.
        size: Height and width in pixels to bring every image to: the largest square in its middle,
            resized bilinearly. Where absent, images must be square and equal in size already.

    Returns:
        Sizes and fingerprint, as written to ``fingerprint.json``.

    Raises:
        DataError: If the folder has not this layout, has fewer than two classes, or holds an image
            that is damaged or of another size; nothing is written then.
    """
    path = Path(path)
    if size is not None and size < 1:
        raise DataError(f"the size of the images must be at least 1 pixel, but found {size}")
    listing = list_images(path)
    decoder = ImageDecoder(size)
    pixels = [torch.from_numpy(decoder.decode(files)) for files in (listing.train, listing.test)]
    train_x, test_x = (
        part[..., : 3 if decoder.colour else 1].permute(0, 3, 1, 2).contiguous() for part in pixels
    )
    train_y, test_y = (torch.tensor(labels) for labels in (listing.train_labels, listing.test_labels))
    images = Images.of(train_x, train_y, test_x, test_y, len(listing.class_names))
    facts = asdict(images.facts) | {"class_names": listing.class_names, "listing": listing.digest}
    text = json.dumps({"schema": SCHEMA} | facts, indent=1)
    tensors = {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y}
    _write(path / "images.pt", lambda file: torch.save(tensors, file))
    _write(path / "fingerprint.json", lambda file: file.write(text.encode()))
    return images.facts


def read_fingerprint(path: Path) -> DataFacts:
    """Read what :func:`prepare_image_folder` found, without reading the images.

    Args:
        path: The prepared folder.

    Returns:
        Sizes and fingerprint.

    Raises:
        DataError: If the folder has not been prepared, or ``fingerprint.json`` is damaged.
    """
    return _facts(Path(path), _read_json(Path(path)))


def load_image_folder(path: Path | None) -> Images:
    """Read the images of a prepared folder.

    A folder that holds nothing but the two prepared files will do; where the images themselves are
    there too, they must not have changed since.

    Args:
        path: The prepared folder.

    Returns:
        The images.

    Raises:
        DataError: If the folder is not given, not prepared, changed since, or damaged.
    """
    if path is None:
        raise DataError("dataset image_folder must be told which folder, but no data root is given; name it")
    path = Path(path)
    content = _read_json(path)
    facts = _facts(path, content)
    if has_images(path) and list_images(path).digest != content.get("listing"):
        raise DataError(
            f"the images in {path} must be those that were prepared, but files were added, removed or "
            f"changed since; {_prepare(path)} again"
        )
    images = Images.of(*_read_tensors(path), classes=facts.classes)
    if images.facts != facts:
        raise DataError(
            f"{path / 'images.pt'} must have the fingerprint {facts.fingerprint} that fingerprint.json "
            f"states, but has {images.fingerprint}; {_prepare(path)} again"
        )
    return images


def _read_tensors(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    file = path / "images.pt"
    try:
        parts = torch.load(file, weights_only=True)
        tensors = (parts["train_x"], parts["train_y"], parts["test_x"], parts["test_y"])
        if [(tensor.dtype, tensor.ndim) for tensor in tensors] != [(torch.uint8, 4), (torch.int64, 1)] * 2:
            raise TypeError("other tensors")
    except _UNREADABLE as error:
        raise DataError(
            f"{file} must hold the prepared images, but cannot be read ({type(error).__name__}); "
            f"{_prepare(path)} again"
        ) from error
    return tensors


def _read_json(path: Path) -> Mapping[str, Any]:
    file = path / "fingerprint.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"the image folder {path} must be prepared before it is used, but has no fingerprint.json; "
            f"{_prepare(path)}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{file} must be a JSON object, but found: {error}; {_prepare(path)} again"
        ) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{file} must be an object of schema {SCHEMA}, but is not; {_prepare(path)} again")
    return content


def _facts(path: Path, content: Mapping[str, Any]) -> DataFacts:
    legal = {"channels": int, "size": int, "classes": int, "train": int, "test": int, "fingerprint": str}
    for key, kind in legal.items():
        if not isinstance(content.get(key), kind) or not content[key]:
            raise DataError(
                f"{key} in {path / 'fingerprint.json'} must be a non-empty {kind.__name__}, "
                f"but found {content.get(key)!r}; {_prepare(path)} again"
            )
    return DataFacts(**{key: content[key] for key in legal})


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file that is there as a whole or not at all."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with open(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(descriptor)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise DataError(
            f"{path} must be writable, but found: {error}; copy the images to a folder of yours, or make room"
        ) from error


def _prepare(path: Path) -> str:
    return f"run bnsweep data prepare {path}"
