"""What is shipped: the wheel works outside the checkout; what the README says is so."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bnsweep import api
from bnsweep.cli import VERBS

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    wheel = next(tmp_path.glob("bnsweep-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "bnsweep/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "benchmarks")) for name in names)
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "bnsweep = bnsweep.cli:main" in (tmp_path / "site" / entry).read_text()
    (tmp_path / "sweep.yaml").write_text("name: away\nparameters: {lr: [0.1, 0.2]}\nseeds: 2\n")
    code = "import bnsweep, sys; from bnsweep.cli import main; print(bnsweep.__file__); sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "sweep.yaml"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
    assert "away: 4 trials" in done.stdout


def readme() -> str:
    return (ROOT / "README.md").read_text()


def test_the_readmes_example_is_a_sweep() -> None:
    text = re.search(r"```yaml\n(.*?)```", readme(), re.DOTALL)
    assert text
    assert api.plan(api.load(text.group(1))).count == 6 * 5 * 5


def test_the_readme_names_every_verb() -> None:
    named = set(re.findall(r"^\| `bnsweep (\w+)", readme(), re.MULTILINE))
    assert named == set(VERBS)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *map(str, sorted(ROOT.glob("docs/*.md")))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


def test_make_targets_are_the_readmes_commands() -> None:
    commands = re.findall(r"^(make \w+)", readme(), re.MULTILINE)
    assert commands == ["make demo", "make test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)


def test_the_readmes_norm_trains_in_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnsweep.norms.custom import check_factory

    code = re.search(r"```python\n# mynorms.py\n(.*?)```", readme(), re.DOTALL)
    assert code
    (tmp_path / "mynorms.py").write_text(code.group(1))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert check_factory("mynorms:make_scale")
