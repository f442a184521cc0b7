"""All that a tracking database and its artifacts hold, to be compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, inspect, text

RUN_TABLES = ("metrics", "latest_metrics", "params", "tags")
# what names ids or the sweep, and so differs between two exports
NOT_COMPARED = ("mlflow.parentRunId", "mlflow.note.content", "mlflow.runName")
NAMED = ("plan.json", "sweep.yaml")


def rows(uri: str) -> dict[str, list[str]]:
    """Every row of every table, as text, sorted."""
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            return {
                name: sorted(repr(tuple(row)) for row in connection.execute(text(f'SELECT * FROM "{name}"')))
                for name in inspect(engine).get_table_names()
            }
    finally:
        engine.dispose()


def files(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shown(uri: str, experiment: str, artifacts: Path | None = None) -> dict[str, Any]:
    """What the active runs of an experiment hold, by their names: rows and files, without ids.

    Args:
        uri: The database.
        experiment: Name of the experiment, and of its sweep.
        artifacts: Folder of artifacts of a server that keeps them.
    """
    engine = create_engine(uri)
    try:
        with engine.connect() as connection:

            def table(query: str) -> list[dict[str, Any]]:
                return [dict(row) for row in connection.execute(text(query)).mappings()]

            (own,) = table(f"SELECT * FROM experiments WHERE name = '{experiment}'")
            assert own["lifecycle_stage"] == "active"
            runs = table(
                "SELECT * FROM runs WHERE lifecycle_stage = 'active' AND experiment_id = "
                + str(own["experiment_id"])
            )
            content: dict[str, Any] = {}
            for run in runs:
                own = {}
                for name in RUN_TABLES:
                    found = table(f"SELECT * FROM {name} WHERE run_uuid = '{run['run_uuid']}'")
                    kept = [
                        {key: value for key, value in row.items() if key != "run_uuid"}
                        for row in found
                        if row["key"] not in NOT_COMPARED
                    ]
                    own[name] = sorted(json.dumps(row, sort_keys=True, default=str) for row in kept)
                kind = _kind(own["tags"])
                key = "sweep" if kind == "sweep" else f"{kind} {run['name']}"
                assert key not in content, f"two runs for {key}"
                place = Path(run["artifact_uri"].removeprefix("file://"))
                if artifacts is not None:
                    place = artifacts / run["artifact_uri"].removeprefix("mlflow-artifacts:/")
                content[key] = {
                    "status": run["status"],
                    "times": (run["start_time"], run["end_time"]),
                    "files": {name: digest for name, digest in files(place).items() if name not in NAMED},
                    **own,
                }
            return content
    finally:
        engine.dispose()


def _kind(tags: list[str]) -> str:
    (kind,) = [json.loads(row)["value"] for row in tags if json.loads(row)["key"] == "bnsweep.kind"]
    return str(kind)
