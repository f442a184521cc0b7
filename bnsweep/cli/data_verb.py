"""``bnsweep data prepare PATH``."""

from __future__ import annotations

import argparse

EXAMPLE = "bnsweep data prepare images/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("action", choices=["prepare"], help="decode a folder of class folders once")
    parser.add_argument("path", help="folder with train/CLASS/* and test/CLASS/*, or CLASS/*")
    parser.add_argument("--size", type=int, help="resize to this many pixels; by default all must be equal")


def call(arguments: argparse.Namespace) -> int:
    """Prepare the folder and say what it holds."""
    from pathlib import Path

    from bnsweep.runners import prepare_images

    facts = prepare_images(Path(arguments.path), arguments.size)
    print(
        f"{arguments.path}: {facts.train} training and {facts.test} test images of {facts.classes} classes, "
        f"{facts.channels} x {facts.size} x {facts.size}; fingerprint {facts.fingerprint}"
    )
    return 0
