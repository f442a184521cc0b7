"""The sweeps that the benchmarks train, as sweep files and as plain settings.

Images of 28 x 28 and 32 x 32 pixels are scikit-learn's digits, enlarged: nothing has to be downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["WORKLOADS", "enlarged_digits", "sweep_of"]

SWEEP = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
NORMS = ["none", "batch", "noisy_batch", "l1"]

WORKLOADS: dict[str, dict[str, Any]] = {
    "quickstart": {},
    "dln": {
        "parameters": {
            "model": "dln", "depth": 25, "features": 10, "dataset": "gaussian", "batch_size": "full",
            "norm": ["none", "batch"], "lr": [1e-8, 1e-7, 1e-6, 1e-5], "steps": 300, "eval_every": 50,
        },
        "probes": {
            "ics": {"every": 50}, "landscape": {"every": 50}, "moments": {"every": 50},
        },
    },
    "vgg28": {
        "size": 28, "channels": 1,
        "parameters": {
            "model": "vgg11", "width": 0.125, "dataset": "image_folder", "norm": ["none", "batch"],
            "lr": [0.01, 0.03, 0.1, 0.3], "batch_size": 64, "steps": 60, "eval_every": 30,
        },
    },
    "vgg32": {
        "size": 32, "channels": 3,
        "parameters": {
            "model": "vgg11", "width": 0.125, "dataset": "image_folder", "norm": ["none", "batch"],
            "lr": [0.01, 0.03, 0.1, 0.3], "batch_size": 64, "steps": 60, "eval_every": 30,
        },
    },
}  # fmt: skip
"""Name to settings; ``size`` and ``channels`` where the images have to be made."""


def enlarged_digits(size: int, channels: int) -> tuple[Any, Any]:
    """Return digits as ``[1797, C, size, size]`` in [0, 1], and their classes."""
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    x = torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
    return x.expand(-1, channels, -1, -1).contiguous(), torch.tensor(digits.target)


def sweep_of(workload: str, folder: Path, *, seeds: int, probes: bool) -> dict[str, Any]:
    """Return the content of a sweep file; images are written to ``folder`` where there have to be any."""
    import yaml

    settings = WORKLOADS[workload]
    if workload == "quickstart":
        content: dict[str, Any] = yaml.safe_load(SWEEP.read_text())
        content.pop("claims", None)
    else:
        content = {"name": workload, "parameters": dict(settings["parameters"])}
        content["probes"] = settings.get("probes", {})
    content["seeds"] = seeds
    if not probes:
        content.pop("probes", None)
    if "size" in settings:
        content["data_root"] = str(_images(folder / "images", settings["size"], settings["channels"]))
    return content


def _images(folder: Path, size: int, channels: int) -> Path:
    from PIL import Image

    from bnsweep.data import prepare_image_folder

    x, y = enlarged_digits(size, channels)
    pixels = (x * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for number, label in enumerate(y.tolist()):
        place = folder / ("test" if number % 5 == 0 else "train") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        image = pixels[number, :, :, 0] if channels == 1 else pixels[number]
        Image.fromarray(image).save(place / f"{number}.png")
    prepare_image_folder(folder, size)
    return folder
