"""Looks for what would stop a sweep, before anything is written: data, networks, norms, devices.

Runs as a process of its own (``python -m bnsweep.runners.preflight``, a request as JSON on standard
input, the answer on standard output), so that the driver never loads torch, and a norm of the user's
cannot harm it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnsweep.errors import BnsweepError
from bnsweep.names import DataFacts
from bnsweep.parameters import CUSTOM_NORM
from bnsweep.trial import TrialConfig

from .origin import hide_secrets

__all__ = ["Preflight", "look", "preflight", "prepare_images"]


@dataclass(frozen=True)
class Preflight:
    """What was found out about a sweep.

    Attributes:
        notes: What users should know about how networks were fitted to the data.
        stacks: Whether each norm of the user's can be trained in stacks.
        gpus: GPUs of this machine.
    """

    notes: tuple[str, ...]
    stacks: dict[str, bool]
    gpus: int


def preflight(trials: Sequence[TrialConfig], data_root: str | None) -> Preflight:
    """Load the data and build every network of a sweep once, in another process.

    Args:
        trials: One trial of each static signature.
        data_root: Where the data sets lie; absolute.

    Returns:
        What was found out.

    Raises:
        BnsweepError: If one of the trials could not be trained; the message says why.
    """
    request = json.dumps({"trials": [trial.to_dict() for trial in trials], "data_root": data_root})
    path = os.pathsep.join([os.getcwd(), *sys.path])
    process = subprocess.run(
        [sys.executable, "-m", "bnsweep.runners.preflight"],
        input=request,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        answer = json.loads(process.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (process.stderr.strip().splitlines() or ["no output"])[-1]
        raise BnsweepError(
            f"The sweep's networks must build, but the attempt ended with: {hide_secrets(last)}"
        ) from None
    if answer.get("error"):
        raise BnsweepError(answer["error"])
    return Preflight(tuple(answer["notes"]), dict(answer["stacks"]), int(answer["gpus"]))


def prepare_images(path: Path, size: int | None = None) -> DataFacts:
    """Decode a folder of class folders once; see :func:`bnsweep.data.prepare_image_folder`."""
    from bnsweep.data import prepare_image_folder

    return prepare_image_folder(path, size)


def look(request: dict[str, Any]) -> dict[str, Any]:
    """Look in this process, which loads torch.

    Args:
        request: ``trials`` as plain data, one of each kind, and ``data_root``.

    Returns:
        The attributes of :class:`Preflight`, as plain data.
    """
    import torch

    from bnsweep.data import load_dataset
    from bnsweep.models import make_model
    from bnsweep.norms.custom import check_factory

    trials = [TrialConfig.from_dict(content) for content in request["trials"]]
    root = Path(request["data_root"]) if request["data_root"] else None
    stacks: dict[str, bool] = {}
    notes: dict[str, None] = {}
    loaded: dict[tuple[str, ...], Any] = {}
    for trial in trials:
        parameters = trial.parameters
        norm = str(parameters["norm"])
        if CUSTOM_NORM.fullmatch(norm) and norm not in stacks:
            stacks[norm] = check_factory(norm)
        key = tuple(str(parameters.get(name)) for name in ("dataset", "features"))
        if key not in loaded:
            data = load_dataset(
                str(parameters["dataset"]), parameters, root=root, fingerprint=trial.fingerprint
            )
            loaded[key] = data.facts
        model = make_model(parameters, loaded[key], 1, dtype=torch.float32)
        notes |= dict.fromkeys(f"{parameters['model']}: {note}" for note in model.notes)
    return {"notes": list(notes), "stacks": stacks, "gpus": torch.cuda.device_count()}


def _main() -> None:
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    try:
        answer = look(json.load(sys.stdin))
    except BnsweepError as error:
        answer = {"error": hide_secrets(str(error))}
    output.write(json.dumps(answer) + "\n")
    output.flush()


if __name__ == "__main__":
    _main()
