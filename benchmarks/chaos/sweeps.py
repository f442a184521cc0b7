"""The sweeps that are killed: seconds of training each, with trials that diverge."""

from __future__ import annotations

from typing import Any

__all__ = ["SWEEPS", "sweep"]

SWEEPS = ("grid", "optuna", "asha", "tpe-asha")


def sweep(kind: str, tracking: str | None, steps: int = 120) -> dict[str, Any]:
    """Return a sweep file's content.

    Args:
        kind: ``grid``; ``optuna``, deterministic with a lag; ``asha``, random with early stopping;
            ``tpe-asha``, Optuna with early stopping.
        tracking: A tracking URI; ``None`` for a database beside the results.
        steps: Steps of a trial.
    """
    content: dict[str, Any] = {
        "name": kind,
        "parameters": {
            "model": "mlp",
            "depth": 2,
            "features": 4,
            "weight_decay": 0.001,
            "norm": ["none", "batch", "noisy_batch"],
            "lr": [0.1, 0.5, 1e6],
            "steps": steps,
            "eval_every": 40,
            "log_every": 10,
        },
        "seeds": 2,
        "probes": {"moments": {"every": 40}},
        "resources": {"cpus": 1, "max_concurrent": 2, "pack_size": 3, "kernel": "grouped"},
    }
    if tracking:
        content["tracking"] = {"uri": tracking}
    if kind == "grid":
        return content
    content["parameters"]["lr"] = {"min": 0.001, "max": 1e6, "distribution": "log_uniform_values"}
    if kind == "optuna":
        return content | {
            "method": "optuna",
            "deterministic": True,
            "search": {"num_trials": 8, "sampler": "tpe", "lag": 2, "options": {"n_startup_trials": 3}},
        }
    search = {
        "asha": {"method": "random", "search": {"num_trials": 8}},
        "tpe-asha": {
            "method": "optuna",
            "search": {"num_trials": 8, "sampler": "tpe", "options": {"n_startup_trials": 3}},
        },
    }
    return content | {
        **search[kind],
        "early_stop": {"type": "asha", "min_steps": max(1, steps // 6), "eta": 2},
    }
