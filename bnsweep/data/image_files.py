"""Finding the images of a folder of class folders, and decoding them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnsweep.errors import DataError

__all__ = ["ImageDecoder", "Listing", "has_images", "list_images"]

TEST_EVERY = 5
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "P", "CMYK", "YCbCr")

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Listing:
    """The images of a folder.

    Attributes:
        train: Files of the training split.
        train_labels: The class of each, an index into ``class_names``.
        test: Files of the test split.
        test_labels: The class of each.
        class_names: Names of the class folders, sorted.
        digest: Hash of names, sizes and modification times, by which a change is noticed.
    """

    train: list[str]
    train_labels: list[int]
    test: list[str]
    test_labels: list[int]
    class_names: list[str]
    digest: str


def list_images(path: Path) -> Listing:
    """Find the classes and their images, and split them where they are not split yet.

    Args:
        path: A folder that holds ``train/<class>/*`` and ``test/<class>/*``, or ``<class>/*``.

    Returns:
        The images in the order of their classes and names.

    Raises:
        DataError: If the folder has neither layout, or fewer than two classes, or one without images.
    """
    if not path.is_dir():
        raise DataError(f"the image folder {path} must be a folder of class folders, but is not there")
    halves = {entry.name for entry in _folders(path)} & {"train", "test"}
    if len(halves) == 1:
        raise DataError(
            f"the image folder {path} must hold both train and test, or class folders alone, "
            f"but found {halves.pop()} alone"
        )
    train, test = _halves(path) if halves else _split(path)
    names = sorted(train)
    train_files, train_labels = _flatten(train, names)
    test_files, test_labels = _flatten(test, names)
    digest = _digest(path, train_files + test_files)
    return Listing(train_files, train_labels, test_files, test_labels, names, digest)


def has_images(path: Path) -> bool:
    """Return whether there is any class folder, as opposed to prepared files alone."""
    return bool(_folders(path))


class ImageDecoder:
    """Decodes images that must agree in size, and notices whether any has colour.

    Args:
        size: Pixels to bring every image to, or ``None`` to require that they agree already.

    Attributes:
        colour: Whether any image decoded so far has colour.
    """

    def __init__(self, size: int | None) -> None:
        self.colour = False
        self._target = size
        self._found: tuple[int, str] | None = None

    def decode(self, files: list[str]) -> Pixels:
        """Decode images into one array of bytes.

        Args:
            files: The images, at least one.

        Returns:
            ``uint8`` ``[n, H, W, 3]``; the three channels of a grey image are equal.

        Raises:
            DataError: If an image is damaged, or not square, or not of the size of the others.
        """
        pixels = np.empty(0, np.uint8)
        for index, file in enumerate(files):
            image = self._open(file)
            if index == 0:
                pixels = np.empty((len(files), *image.shape), np.uint8)
            pixels[index] = image
        return pixels

    def _open(self, file: str) -> Pixels:
        from PIL import Image

        try:
            with Image.open(file) as image:
                self._check(file, image.mode, *image.size)
                rgb = image.convert("RGB")
            if self._target is not None:
                side = min(rgb.size)
                left, top = ((length - side) // 2 for length in rgb.size)
                middle = rgb.crop((left, top, left + side, top + side))
                rgb = middle.resize((self._target, self._target), Image.Resampling.BILINEAR)
            return np.asarray(rgb)
        except DataError:
            raise
        except Exception as error:  # on damaged files decoders raise whatever they like
            raise DataError(
                f"the image {file} must be whole and readable, but cannot be decoded ({error}); "
                "replace it, or remove it"
            ) from error

    def _check(self, file: str, mode: str, width: int, height: int) -> None:
        """Refuse what would be changed silently: more than 8 bits a channel, another shape."""
        if mode not in (*GREY_MODES, *COLOUR_MODES):
            raise DataError(
                f"images must have 8 bits a channel, but {file} has Pillow's mode {mode}; convert it"
            )
        self.colour |= mode in COLOUR_MODES
        if self._target is not None:
            return
        if width != height:
            raise DataError(
                f"images must be square, but {file} is {width}x{height} pixels; give a size to crop and "
                "resize every image to"
            )
        size, first = self._found = self._found or (width, file)
        if size != width:
            raise DataError(
                f"images must be equal in size, but {file} is {width}x{height} pixels and {first} is "
                f"{size}x{size}; give a size to resize every image to"
            )


def _halves(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    train, test = _classes(path / "train"), _classes(path / "test")
    if odd := sorted(train.keys() ^ test.keys()):
        raise DataError(
            f"train and test of the image folder {path} must have the same classes, "
            f"but {odd[0]} is in one of them only"
        )
    return train, test


def _split(path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    classes = _classes(path)
    test = {name: files[TEST_EVERY - 1 :: TEST_EVERY] for name, files in classes.items()}
    train = {
        name: [file for i, file in enumerate(files) if i % TEST_EVERY != TEST_EVERY - 1]
        for name, files in classes.items()
    }
    if not any(test.values()):
        raise DataError(
            f"a class of the image folder {path} must have at least {TEST_EVERY} images, so that one becomes "
            "a test image, but none has; add images, or sort them into train and test"
        )
    return train, test


def _flatten(classes: dict[str, list[str]], names: list[str]) -> tuple[list[str], list[int]]:
    files = [file for name in names for file in classes[name]]
    labels = [label for label, name in enumerate(names) for _ in classes[name]]
    return files, labels


def _classes(path: Path) -> dict[str, list[str]]:
    """Return the images of each class folder, sorted by name."""
    classes = {}
    for entry in _folders(path):
        files = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(entry)
            for name in names
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
        if not files:
            raise DataError(
                f"a class folder must hold images ({', '.join(ENDINGS)}), but found none in "
                f"{entry.path}; add some, or remove it"
            )
        classes[entry.name] = sorted(files)
    if len(classes) < 2:
        found = f"only {next(iter(classes))}" if classes else "none"
        raise DataError(f"{path} must hold at least two class folders to tell apart, but found {found}")
    return classes


def _folders(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"the image folder {path} must be readable, but found: {error}") from error


def _digest(path: Path, files: list[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        try:
            status = os.stat(file)
        except OSError as error:
            raise DataError(f"the image {file} must be readable, but found: {error}") from error
        name = os.fsencode(file.removeprefix(f"{path}{os.sep}"))
        digest.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
