"""The sweeps that come with the package, and the page that explains them."""

import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from bnsweep.names import NAMES
from bnsweep.parameters import PARAMETERS, PROBES
from bnsweep.sweep import load_spec, load_text, make_plan, schema
from bnsweep.sweep.nodes import Mistakes, to_object
from bnsweep.sweep.reference import fill, render
from bnsweep.sweep.yaml_reader import parse_text

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
PAGE = (ROOT / "docs" / "sweep-file.md").read_text(encoding="utf-8")


def test_the_sweeps_are_found():
    assert {path.stem for path in SWEEPS} >= {"quickstart", "dln"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_has_as_many_trials_as_it_says(path):
    text = path.read_text(encoding="utf-8")
    [(count, factors)] = re.findall(r"^# trials: (\d+) = (.*)$", text, re.MULTILINE)
    spec = load_spec(path)
    plan = make_plan(spec)
    assert plan.count == int(count)
    assert spec.method == "optuna" or len(set(plan.trial_ids)) == plan.count
    assert spec.name == "-".join(path.relative_to(ROOT / "sweeps").with_suffix("").parts)
    product = 1
    for factor in re.findall(r"\d+", factors):
        product *= int(factor)
    assert product == int(count)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_is_valid_by_the_schema(path):
    content = to_object(parse_text(path.read_text(encoding="utf-8"), Mistakes()))
    assert list(Draft202012Validator(schema()).iter_errors(content)) == []


def test_the_deep_linear_network_is_the_papers():
    spec = load_spec(ROOT / "sweeps" / "dln.yaml")
    trial = make_plan(spec).conditions[0]
    expected = {
        "model": "dln", "depth": 25, "features": 10, "batch_size": "full", "precision": "float64",
        "dataset": "gaussian", "init": "glorot_normal", "momentum": 0.0,
    }  # fmt: skip
    assert {name: trial.parameters[name] for name in expected} == expected
    assert set(spec.setting("lr").values) == {1e-7, 1e-6}
    assert trial.probes["landscape"]["step_sizes"] == [0.01, 0.1, 1.0, 10.0, 31.6]
    assert {"none", "batch", "noisy_batch", "l1", "l2", "linf"} <= set(spec.setting("norm").values)


def test_the_page_is_up_to_date():
    assert fill(PAGE) == PAGE, "run: python -m bnsweep.sweep.reference docs/sweep-file.md"


def test_the_tables_are_complete():
    table = render("parameters")
    assert all(f"| `{name}` |" in table for name in [*PARAMETERS, "epochs"] if name != "seed")
    assert all(norm in table for norm in NAMES["norm"])
    assert all(f"| `{name}` |" in render("probes") for name in PROBES)


def test_the_pages_example_has_the_trials_that_it_says():
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    [count] = re.findall(r"This file has (\d+) trials", PAGE)
    assert make_plan(load_text(text)).count == int(count)
