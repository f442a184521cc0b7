"""The files that start clusters and servers: valid, of pinned versions, closed, without secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTERS = [ROOT / "cluster.yaml", ROOT / "deploy" / "gcp.yaml", ROOT / "deploy" / "on-premise.yaml"]
FILES = [ROOT / "cluster.yaml", *sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())]
SHELL = [path for path in FILES if path.suffix == ".sh"]
STARTS_RAY = ["cluster.yaml", "gcp.yaml", "on-premise.yaml", "raycluster.yaml", "rayjob.yaml", "slurm.sh"]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_every_file_is_looked_at() -> None:
    assert set(names(FILES)) == {
        *STARTS_RAY, "cluster.env", "compose.yaml", "Dockerfile", "secrets.sh", "start.sh"
    }  # fmt: skip


@pytest.mark.parametrize("path", CLUSTERS, ids=names(CLUSTERS))
def test_clusters_are_valid_for_rays_launcher(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jsonschema
    from ray import autoscaler

    content = parsed(path)
    schema = json.loads((Path(autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "idle_timeout_minuts": 5}, schema)
    assert 1 <= content["idle_timeout_minutes"] <= 15


@pytest.mark.parametrize("path", CLUSTERS[:2], ids=names(CLUSTERS[:2]))
def test_the_head_takes_no_trials_and_gpu_machines_come_from_zero_spot_first(path: Path) -> None:
    content = parsed(path)
    kinds = content["available_node_types"]
    assert content["head_node_type"] == "head"
    assert kinds["head"]["resources"] == {"CPU": 0}
    spot, ondemand = kinds["gpu_spot"], kinds["gpu_ondemand"]
    for kind in (spot, ondemand):
        assert kind["min_workers"] == 0
        assert kind["max_workers"] > 0
        assert kind["resources"]["GPU"] >= 1
    assert spot["priority"] > ondemand["priority"]
    assert "spot" in json.dumps(spot["node_config"]) or "preemptible" in json.dumps(spot["node_config"])
    assert "spot" not in json.dumps(ondemand["node_config"])
    assert "preemptible" not in json.dumps(ondemand["node_config"])
    assert "--num-cpus=0" in content["head_start_ray_commands"][-1]


def test_on_premise_is_what_rays_local_provider_takes() -> None:
    from ray.autoscaler._private.local.config import prepare_local

    content = parsed(CLUSTERS[2])
    made, _ = prepare_local(content)
    assert made["available_node_types"]["local.cluster.node"]["max_workers"] == 2
    assert "--num-cpus=0" in content["head_start_ray_commands"][-1]


def test_versions_are_those_that_are_pinned() -> None:
    pinned = dict(re.findall(r"^([A-Za-z0-9-]+)==([^ ;\n]+)", (ROOT / "constraints.txt").read_text(), re.M))
    own = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert own is not None
    pinned["bnsweep"] = own[1]
    seen: set[str] = set()
    tags = set()
    for path in FILES:
        text = path.read_text()
        tags |= set(re.findall(r"/bnsweep:(\S+)", text))
        found = re.findall(
            r"\b(ray|mlflow|bnsweep|torch|optuna)(?:==|[:-]v?| (?=\d+\.))(\d+\.\d+\.\d+)", text
        )
        found += re.findall(r"-(ray)(\d+\.\d+\.\d+)-", text)
        found += [("ray", version) for version in re.findall(r'rayVersion: "(.*)"', text)]
        for package, version in found:
            assert version == pinned[package], f"{path.name}: {package} {version}"
            seen.add(package)
        if path.name in STARTS_RAY:
            assert pinned["ray"] in text, f"{path.name} does not say which Ray"
    assert seen >= {"ray", "mlflow", "bnsweep"}
    (tag,) = tags
    docker = (ROOT / "deploy" / "Dockerfile").read_text()
    python = re.search(r"^FROM python:(\d+)\.(\d+)-slim", docker, re.M)
    assert python is not None
    assert tag == f"{pinned['bnsweep']}-ray{pinned['ray']}-py{python[1]}{python[2]}"
    assert "-c constraints.txt" in docker


def test_nothing_is_open_or_secret() -> None:
    secret = re.compile(r"(?i)(password|token|secret|access_key)[a-z_]*\s*[:=](?!\?|-)\s*['\"]?([^\s'\"#]+)")
    for path in FILES:
        text = path.read_text()
        bare = re.sub(r"(?m)(^|\s)#.*$", "", text)
        assert "0.0.0.0" not in text, path
        assert "[::]" not in text, path
        assert not re.search(r"--?allowed-hosts[ =]['\"]?\*|--disable-security|--cors", text), path
        if path.name in STARTS_RAY:
            assert re.search(r"RAY_AUTH_MODE=token|authOptions: \{mode: token", bare), f"{path}: no token"
        for host in re.findall(r"--?dashboard-host[=: ]+(\S+)", bare):
            assert host == "127.0.0.1", path
        for line in bare.splitlines():
            for name, value in secret.findall(line):
                harmless = value.startswith(("$", "~", "token", "{", "bnsweep-", "required"))
                assert harmless, f"{path}: {name} {value}"
    assert not (ROOT / "deploy" / "mlflow" / ".env").exists()
    for path in ("compose.yaml", "start.sh"):
        text = (ROOT / "deploy" / "mlflow" / path).read_text()
        assert "basic-auth" in text or "start.sh" in text
    assert "--host 127.0.0.1" in (ROOT / "deploy" / "mlflow" / "start.sh").read_text()
    ports = parsed(ROOT / "deploy" / "mlflow" / "compose.yaml")["services"]["postgres"]["ports"]
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", [*STARTS_RAY, "compose.yaml"])
def test_a_newcomer_changes_five_lines_at_most(name: str) -> None:
    (path,) = [path for path in FILES if path.name == name]
    marks = re.findall(r"CHANGE (\d)", path.read_text())
    assert marks == [str(number) for number in range(1, len(marks) + 1)]
    assert 1 <= len(marks) <= 5


@pytest.mark.parametrize("path", SHELL, ids=names(SHELL))
def test_shell_scripts(path: Path) -> None:
    shell = path.read_text().split("\n", 1)[0].removeprefix("#!/bin/")
    subprocess.run([shell, "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_secrets_of_a_server_are_made_once_for_their_owner(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.env"
    for _ in range(2):
        subprocess.run(
            ["sh", str(ROOT / "deploy" / "mlflow" / "secrets.sh"), str(file)], check=True, capture_output=True
        )
        first = file.read_text()
    assert file.read_text() == first
    assert file.stat().st_mode & 0o777 == 0o600
    values = dict(line.split("=") for line in first.split())
    assert set(values) == {"POSTGRES_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY"}
    assert all(len(value) == 48 for value in values.values())
    assert len(set(values.values())) == 3


def test_compose_is_what_docker_compose_takes(tmp_path: Path) -> None:
    found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False) if (
        shutil.which("docker")
    ) else None  # fmt: skip
    if found is None or found.returncode:
        pytest.skip("docker compose is not installed")
    variables = {"POSTGRES_PASSWORD": "x", "MLFLOW_ADMIN_PASSWORD": "x", "MLFLOW_SECRET_KEY": "x"}
    done = subprocess.run(
        ["docker", "compose", "-f", str(ROOT / "deploy" / "mlflow" / "compose.yaml"), "config", "-q"],
        check=False, capture_output=True, text=True, env={**os.environ, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_scripts_call_what_bnsweep_knows() -> None:
    """Every `bnsweep VERB --option` in the files is one that the command line takes."""
    from bnsweep.cli import VERBS

    calls = set()
    for path in FILES:
        for verb, rest in re.findall(r"-m bnsweep (\w+)([^\n&]*)", path.read_text()):
            assert verb in VERBS, path
            calls.add((verb, *sorted(re.findall(r"--[a-z-]+", rest))))
    assert calls
    for verb, *options in calls:
        done = subprocess.run(
            [sys.executable, "-m", "bnsweep", verb, "--help"], capture_output=True, text=True, check=True
        )
        assert all(option in done.stdout for option in options), (verb, options)
