"""The JSON Schema says what the loader says, as far as one key alone can tell."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from bnsweep.errors import SpecError
from bnsweep.names import NAMES
from bnsweep.parameters import PARAMETERS
from bnsweep.sweep import load_spec, schema
from bnsweep.sweep.nodes import Mistakes, to_object
from bnsweep.sweep.yaml_reader import parse_text

VALIDATOR = Draft202012Validator(schema())
GOOD = {"name": "a", "parameters": {"lr": [0.1, 0.2]}}


def test_it_is_a_schema_and_json():
    Draft202012Validator.check_schema(schema())
    assert json.loads(json.dumps(schema())) == schema()


FULL = """
name: a-1
method: grid
metric: {name: test_loss, goal: minimize}
parameters:
  norm: [none, noisy_batch, 'my.norms:make']
  noise: {values: [0.5, 1], when: {norm: noisy_batch}}
  lr: {min: 1e-3, max: 1, num: 4, distribution: log_uniform_values}
  batch_size: [full, 64]
  nesterov: false
  epochs: 3
seeds: [1, 2]
probes: {ics: {every: 5, layers: [1, 2]}, landscape: {step_sizes: [1]}, moments: }
claims: []
resources: {cpus: 1, gpus: 0.5, max_concurrent: 3, device: auto}
tracking: {uri: 'sqlite:///x.db'}
storage: results
"""


def test_a_full_file_is_valid():
    content = to_object(parse_text(FULL, Mistakes()))
    assert load_spec(content)
    assert list(VALIDATOR.iter_errors(content)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "A"}, {"name": "a/b"}, {"name": 1}, {"colour": 1}, {"method": "gird"}, {"seeds": 0},
        {"seeds": []}, {"seeds": [1, 1]}, {"parameters": 3}, {"parameters": {"lr": -1}},
        {"parameters": {"lr": []}},
        {"parameters": {"nrom": "batch"}}, {"parameters": {"norm": "nosy"}}, {"parameters": {"steps": 1.5}},
        {"parameters": {"steps": 1, "epochs": 1}}, {"parameters": {"batch_size": "half"}},
        {"parameters": {"affine": "no"}}, {"parameters": {"lr": "1e-3"}},
        {"parameters": {"lr": {"min": 1}}}, {"parameters": {"lr": {"value": 1, "values": [1]}}},
        {"parameters": {"lr": {"min": 1, "max": 2, "num": 1}}},
        {"parameters": {"norm": {"min": 1, "max": 2}}},
        {"parameters": {"lr": {"value": 1, "when": {"nrom": "x"}}}},
        {"parameters": {"lr": {"value": 1, "when": {}}}}, {"parameters": {"precision": "float16"}},
        {"probes": {"isc": {}}}, {"probes": {"ics": {"every": 0}}}, {"probes": {"ics": {"layers": "some"}}},
        {"metric": {"goal": "maximize"}}, {"metric": {"name": "accuracy"}}, {"resources": {"cpus": 0}},
        {"resources": {"gpus": -1}}, {"tracking": {"uri": "mlruns"}}, {"save_weights": "all"},
        {"deterministic": "yes"}, {"search": {"num_trials": 0}}, {"early_stop": {"type": "hyperband"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_not_valid(change):
    content = {**GOOD, **change}
    assert list(VALIDATOR.iter_errors(content))
    with pytest.raises(SpecError):
        load_spec(content)


def test_name_and_parameters_are_required():
    assert list(VALIDATOR.iter_errors({"name": "a"}))
    assert list(VALIDATOR.iter_errors({"parameters": {}}))


def test_every_parameter_and_name_is_in_it():
    found = schema()["properties"]["parameters"]["properties"]
    assert set(found) == set(PARAMETERS) - {"seed"} | {"epochs"}
    for kind, names in NAMES.items():
        for name in names:
            assert list(VALIDATOR.iter_errors({"name": "a", "parameters": {kind: name}})) == []


values = st.sampled_from([None, True, -1, 0, 1, 2, 0.5, 1e-3, 300, "full", "batch", "sgd", "x", "a:b", "dln"])
longs = st.dictionaries(
    st.sampled_from(["value", "values", "min", "max", "num", "distribution"]),
    values | st.lists(values),
    max_size=4,
)
entries = values | st.lists(values, max_size=3) | longs


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(PARAMETERS)), entries, min_size=1, max_size=2))
def test_what_loads_is_valid(parameters):
    content = {"name": "a", "parameters": parameters}
    try:
        load_spec(content)
    except SpecError:
        return
    assert list(VALIDATOR.iter_errors(content)) == []
