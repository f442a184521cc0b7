"""Sweep files: what is refused, where the mistake is said to be, and what is understood."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnsweep.errors import SpecError
from bnsweep.names import NAMES
from bnsweep.parameters import PARAMETERS, PROBES
from bnsweep.sweep import (
    Claim,
    Metric,
    Range,
    Resources,
    Setting,
    load_spec,
    load_text,
    make_plan,
    to_yaml,
)
from bnsweep.sweep.keys import TOP_KEYS
from bnsweep.sweep.sections import READERS

GOOD = {
    "name": "good",
    "parameters": {"norm": ["none", "batch", "noisy_batch"], "lr": [0.01, 0.1], "steps": 20},
    "seeds": 2,
}


def mistakes_of(source):
    with pytest.raises(SpecError) as caught:
        load_spec(source)
    return caught.value.mistakes


def doc(text, top="description: x\n"):
    return f"name: a\n{top}parameters:\n  {text}\n"


RANDOM = "method: random\nsearch: {{{}}}\n"
LR = "lr: {min: 0.1, max: 1}"

CASES = {
    # id: (text, line, path, words of the message)
    "no name": ("parameters: {}\n", 1, "name", "given"),
    "no parameters": ("name: a\n", 1, "parameters", "given"),
    "a list": ("- a\n- b\n", 1, "", "mapping"),
    "plain text": ("hello\nworld\n", 1, "", "mapping"),
    "slash in name": ("name: ../../x\nparameters: {}\n", 1, "name", "lower-case"),
    "absolute name": ("name: /abs\nparameters: {}\n", 1, "name", "lower-case"),
    "long name": ("name: " + "a" * 65 + "\nparameters: {}\n", 1, "name", "64"),
    "html name": ("name: <script>\nparameters: {}\n", 1, "name", "lower-case"),
    "emoji name": ("name: \U0001f600\nparameters: {}\n", 1, "name", "lower-case"),
    "number as name": ("name: 2024\nparameters: {}\n", 1, "name", 'quote it: "2024"'),
    "line break in name": ('name: "a\\n"\nparameters: {}\n', 1, "name", "lower-case"),
    "unknown key": ("name: a\nparamters: {}\nparameters: {}\n", 2, "paramters", "did you mean parameters?"),
    "duplicate key": ("name: a\nparameters: {}\nname: b\n", 3, "name", "first on line 1"),
    "unknown method": (doc("lr: 1", "method: gird\n"), 2, "method", "did you mean grid?"),
    "unknown parameter": (doc("nrom: batch"), 4, "parameters.nrom", "did you mean norm?"),
    "other tool's name": (doc("learning_rate: 1"), 4, "parameters.learning_rate", "did you mean lr?"),
    "seed as parameter": (doc("seed: 1"), 4, "parameters.seed", "seeds:"),
    "unknown norm": (doc("norm: [none, nosy_batch]"), 4, "parameters.norm[1]", "did you mean noisy_batch?"),
    "bad factory": (doc("norm: 'my.mod:'"), 4, "parameters.norm", "module:function"),
    "negative lr": (doc("lr: -1"), 4, "parameters.lr", "> 0"),
    "lr is zero": (doc("lr: 0"), 4, "parameters.lr", "> 0"),
    "quoted number": (doc("lr: '0.1'"), 4, "parameters.lr", "remove the quotes"),
    "no as number": (doc("momentum: no"), 4, "parameters.momentum", "older YAML reads no as false"),
    "no as truth": (doc("affine: no"), 4, "parameters.affine", "true or false"),
    "sexagesimal": (doc("steps: 1:30"), 4, "parameters.steps", "base 60"),
    "octal": (doc("steps: 010"), 4, "parameters.steps", "write 10"),
    "hexadecimal": (doc("steps: 0x10"), 4, "parameters.steps", "decimal"),
    "thousands": (doc("steps: 1_000"), 4, "parameters.steps", "separators"),
    "nan": (doc("lr: .nan"), 4, "parameters.lr", "finite"),
    "infinity": (doc("lr: [.inf]"), 4, "parameters.lr[0]", "finite"),
    "overflow": (doc("lr: 1e999"), 4, "parameters.lr", "finite"),
    "long integer": (doc("steps: " + "9" * 5000), 4, "parameters.steps", "finite"),
    "fraction of a step": (doc("steps: 1.5"), 4, "parameters.steps", "integer"),
    "truth as number": (doc("lr: true"), 4, "parameters.lr", "number"),
    "nothing": (doc("lr:"), 4, "parameters.lr", "found nothing"),
    "empty list": (doc("lr: []"), 4, "parameters.lr", "at least one"),
    "nested list": (doc("lr: [[1]]"), 4, "parameters.lr[0]", "number"),
    "same value twice": (doc("lr: [0.1, 0.2,\n    1e-1]"), 5, "parameters.lr[2]", "the same as 0.1"),
    "values is no list": (doc("lr: {values: 1}"), 4, "parameters.lr.values", "list"),
    "value and values": (doc("lr: {value: 1, values: [1]}"), 4, "parameters.lr", "exactly one"),
    "value and range": (doc("lr: {value: 1, min: 1}"), 4, "parameters.lr", "exactly one"),
    "only when": (doc("lr: {when: {norm: batch}}\n  norm: batch"), 4, "parameters.lr", "exactly one"),
    "unknown long key": (doc("lr: {vals: [1]}"), 4, "parameters.lr.vals", "did you mean values?"),
    "low above high": (doc("lr: {min: 1, max: 0.1, num: 3}"), 4, "parameters.lr", "min < max"),
    "low is high": (doc("lr: {min: 1, max: 1, num: 3}"), 4, "parameters.lr", "min < max"),
    "no max": (doc("lr: {min: 1, num: 3}"), 4, "parameters.lr.max", "given"),
    "no num": (doc("lr: {min: 1, max: 2}"), 4, "parameters.lr.num", "grid"),
    "num is 0": (doc("lr: {min: 1, max: 2, num: 0}"), 4, "parameters.lr.num", "from 2"),
    "num is 1": (doc("lr: {min: 1, max: 2, num: 1}"), 4, "parameters.lr.num", "a single value"),
    "num is -1": (doc("lr: {min: 1, max: 2, num: -1}"), 4, "parameters.lr.num", "from 2"),
    "num is huge": (doc("lr: {min: 1, max: 2, num: 1000000000000}"), 4, "parameters.lr.num", "10,000"),
    "log of 0": (
        doc("momentum: {min: 0, max: 0.9, num: 3, distribution: log_uniform_values}"),
        4, "parameters.momentum.min", "> 0",
    ),
    "end out of range": (doc("momentum: {min: 0, max: 2, num: 3}"), 4, "parameters.momentum.max", "< 1"),
    "text as end": (doc("lr: {min: no, max: 2, num: 3}"), 4, "parameters.lr.min", "number"),
    "W&B's log_uniform": (
        doc("lr: {min: 1, max: 2, num: 3, distribution: log_uniform}"),
        4, "parameters.lr.distribution", "exponents",
    ),
    "quantized": (
        doc("lr: {min: 1, max: 2, num: 3, distribution: q_uniform}"),
        4, "parameters.lr.distribution", "list the values",
    ),
    "misspelt distribution": (
        doc("lr: {min: 1, max: 2, num: 3, distribution: unifrm}"),
        4, "parameters.lr.distribution", "did you mean uniform?",
    ),
    "uniform integers": (
        doc("steps: {min: 1, max: 9, num: 3, distribution: uniform}"),
        4, "parameters.steps.distribution", "int_uniform",
    ),
    "too many integers": (doc("steps: {min: 1, max: 3, num: 9}"), 4, "parameters.steps.num", "3 differ"),
    "range of names": (doc("norm: {min: 1, max: 2, num: 2}"), 4, "parameters.norm", "list the values"),
    "steps and epochs": (doc("steps: 3\n  epochs: 2"), 5, "parameters.epochs", "both steps and epochs"),
    "unknown when": (
        doc("noise: {value: 1, when: {nrom: batch}}\n  norm: noisy_batch"),
        4, "parameters.noise.when.nrom", "did you mean norm?",
    ),
    "when on a default": (
        doc("noise: {value: 1, when: {norm: noisy_batch}}"),
        4, "parameters.noise.when.norm", "of this file",
    ),
    "when never": (
        doc("noise: {value: 1, when: {norm: noisy_batch}}\n  norm: [none, batch]"),
        4, "parameters.noise.when.norm", "hold for some trial",
    ),
    "empty when": (doc("lr: {value: 1, when: {}}"), 4, "parameters.lr.when", "mapping"),
    "illegal when": (
        doc("noise: {value: 1, when: {norm: [noisy]}}\n  norm: noisy_batch"),
        4, "parameters.noise.when.norm[0]", "did you mean noisy_",
    ),
    "when on itself": (
        doc("lr: {values: [1, 2], when: {lr: 1}}"), 4, "parameters.lr.when", "lr -> lr",
    ),
    "cyclic when": (
        doc("lr: {value: 1, when: {steps: 1}}\n  steps: {value: 1, when: {lr: 1}}"),
        4, "parameters.lr.when", "lr -> steps -> lr",
    ),
    "does not apply": (
        doc("norm: [batch, noisy_batch]\n  noise: [0.5, 1]"),
        5, "parameters.noise", "add when: {norm: noisy_batch}",
    ),
    "applies to several": (
        doc("norm: [none, l1, batch, l2]\n  lp_centered: true"),
        5, "parameters.lp_centered", "add when: {norm: [l1, l2]}",
    ),
    "applies nowhere": (doc("norm: batch\n  noise: 0.5"), 5, "parameters.noise", "remove it"),
    "wrong pair": (doc("model: dln\n  dataset: digits"), 4, "parameters.model", "dln needs gaussian"),
    "instance without space": (
        doc("model: mlp\n  norm: instance"), 5, "parameters.norm", "undefined for model mlp",
    ),
    "nesterov alone": (doc("nesterov: true"), 4, "parameters.nesterov", "momentum > 0"),
    "batch above data": (doc("batch_size: 2000"), 4, "parameters.batch_size", "1437"),
    "too many steps": (doc("epochs: 1000000"), 4, "parameters.epochs", "steps"),
    "grid too large": (
        doc("lr: {min: 1, max: 2, num: 1000}\n  momentum: {min: 0, max: 0.5, num: 1000}", "seeds: 1000\n"),
        3, "parameters", "1,000,000,000 (1000 lr x 1000 momentum x 1000 seeds)",
    ),
    "image_folder nowhere": (doc("dataset: image_folder"), 4, "data_root", "given"),
    "no seeds": (doc("lr: 1", "seeds: 0\n"), 2, "seeds", "from 1"),
    "seeds as text": (doc("lr: 1", "seeds: 010\n"), 2, "seeds", "write 10"),
    "too many seeds": (doc("lr: 1", "seeds: 1000000000000\n"), 2, "seeds", "100,000"),
    "negative seed": (doc("lr: 1", "seeds: [0, -1]\n"), 2, "seeds[1]", "from 0"),
    "same seed twice": (doc("lr: 1", "seeds: [3, 3]\n"), 2, "seeds[1]", "not there yet"),
    "empty seeds": (doc("lr: 1", "seeds: []\n"), 2, "seeds", "1 to"),
    "unknown metric": (
        doc("lr: 1", "metric: {name: accuracy}\n"), 2, "metric.name", "did you mean test_accuracy?",
    ),
    "metric is text": (doc("lr: 1", "metric: test_loss\n"), 2, "metric", "{name: test_loss}"),
    "wrong goal": (
        doc("lr: 1", "metric: {name: test_loss, goal: maximize}\n"), 2, "metric.goal", "minimize",
    ),
    "accuracy of a regression": (
        doc("model: dln", "metric: {name: test_accuracy}\n"), 2, "metric.name", "use test_loss",
    ),
    "unknown probe": (doc("lr: 1", "probes: {isc: {}}\n"), 2, "probes.isc", "did you mean ics?"),
    "unknown option": (
        doc("lr: 1", "probes: {ics: {evry: 1}}\n"), 2, "probes.ics.evry", "did you mean every?",
    ),
    "probe is a number": (doc("lr: 1", "probes: {ics: 50}\n"), 2, "probes.ics", "every: 50"),
    "every is 0": (doc("lr: 1", "probes: {ics: {every: 0}}\n"), 2, "probes.ics.every", "from 1"),
    "layer 0": (doc("lr: 1", "probes: {ics: {layers: [0]}}\n"), 2, "probes.ics.layers[0]", "from 1"),
    "layer twice": (doc("lr: 1", "probes: {ics: {layers: [1, 1]}}\n"), 2, "probes.ics.layers[1]", "yet"),
    "layers is a word": (doc("lr: 1", "probes: {ics: {layers: some}}\n"), 2, "probes.ics.layers", "all"),
    "layer too deep": (
        doc("lr: 1", "probes: {ics: {layers: [3, 12]}}\n"), 2, "probes.ics.layers", "layers from 1 to 11",
    ),
    "step size 0": (
        doc("lr: 1", "probes: {landscape: {step_sizes: [1, 0]}}\n"),
        2, "probes.landscape.step_sizes[1]", "> 0",
    ),
    "no step sizes": (
        doc("lr: 1", "probes: {landscape: {step_sizes: []}}\n"), 2, "probes.landscape.step_sizes", "list",
    ),
    "unknown noise": (
        doc("lr: 1", "probes: {ics: {noise: froze}}\n"), 2, "probes.ics.noise", "did you mean frozen?",
    ),
    "no cpus": (doc("lr: 1", "resources: {cpus: 0}\n"), 2, "resources.cpus", "> 0"),
    "negative gpus": (doc("lr: 1", "resources: {gpus: -1}\n"), 2, "resources.gpus", ">= 0"),
    "one and a half gpus": (doc("lr: 1", "resources: {gpus: 1.5}\n"), 2, "resources.gpus", "whole"),
    "nothing at once": (
        doc("lr: 1", "resources: {max_concurrent: 0}\n"), 2, "resources.max_concurrent", ">= 1",
    ),
    "cuda without gpu": (
        doc("lr: 1", "resources: {device: cuda, gpus: 0}\n"), 2, "resources.gpus", "for device cuda",
    ),
    "cpu with gpu": (
        doc("lr: 1", "resources: {device: cpu, gpus: 1}\n"), 2, "resources.gpus", "for device cpu",
    ),
    "tracking is text": (doc("lr: 1", "tracking: none\n"), 2, "tracking", "{uri: none}"),
    "tracking in a file": (doc("lr: 1", "tracking: {uri: file:///x}\n"), 2, "tracking.uri", "sqlite"),
    "tracking nowhere": (doc("lr: 1", "tracking: {uri: 'http://:80'}\n"), 2, "tracking.uri", "http"),
    "bad port": (doc("lr: 1", "tracking: {uri: 'http://a:999999'}\n"), 2, "tracking.uri", "http"),
    "password": (
        doc("lr: 1", "tracking: {uri: 'https://me:secret@host'}\n"), 2, "tracking.uri", "MLFLOW_TRACKING_",
    ),
    "storage elsewhere": (doc("lr: 1", "storage: gs://x\n"), 2, "storage", "folder"),
    "storage is empty": (doc("lr: 1", "storage: ''\n"), 2, "storage", "text"),
    "storage with NUL": (doc("lr: 1", 'storage: "a\\0b"\n'), 2, "storage", "text"),
    "truth as text": (doc("lr: 1", "deterministic: yes\n"), 2, "deterministic", "true or false"),
    "search in a grid": (doc("lr: 1", "search: {num_trials: 3}\n"), 2, "search", "enumerated"),
    "search for nothing": (
        doc("lr: 1", "search: {num_trials: 0}\n"), 2, "search.num_trials", ">= 1",
    ),
    "endless search": (
        doc("lr: 1", "search: {num_trials: 1000000000000}\n"), 2, "search.num_trials", "1,000,000",
    ),
    "claims after a search": (
        doc("lr: 1", "method: optuna\nsearch: {num_trials: 3}\nclaims: [x]\n"), 4, "claims", "bias",
    ),
    "search without a budget": (doc("lr: [1, 2]", "method: random\n"), 2, "search", "num_trials"),
    "search among too few": (
        doc("lr: [1, 2]", RANDOM.format("num_trials: 3")), 3, "search.num_trials", "number of different",
    ),
    "search without a choice": (
        doc("lr: 1", RANDOM.format("num_trials: 2")), 3, "search.num_trials", "single condition",
    ),
    "search that is too large": (
        doc(LR, "seeds: 100\n" + RANDOM.format("num_trials: 100000")), 4, "search.num_trials", "1,000,000",
    ),
    "unknown sampler": (
        doc(LR, RANDOM.format("num_trials: 3, sampler: soboll")), 3, "search.sampler", "did you mean sobol",
    ),
    "sampler of the other method": (
        doc(LR, RANDOM.format("num_trials: 3, sampler: tpe")), 3, "search.sampler", "method: optuna",
    ),
    "lag of a fixed plan": (doc(LR, RANDOM.format("num_trials: 3, lag: 2")), 3, "search.lag", "optuna"),
    "when on a range": (
        doc("lr: {min: 0.1, max: 1}\n  momentum: {value: 0.5, when: {lr: 0.1}}",
            RANDOM.format("num_trials: 3")),
        6, "parameters.momentum.when.lr", "listed values",
    ),
    "a range of networks": (
        doc("model: {min: 1, max: 3}", RANDOM.format("num_trials: 3")), 5, "parameters.model", "list",
    ),
    "a grid's range without points": (doc("lr: {min: 0.1, max: 1}"), 4, "parameters.lr.num", "num"),
    "a grid with constraints": (
        doc("lr: 1", "constraints: [diverged_fraction <= 0.2]\n"), 2, "constraints", "optuna",
    ),
    "a constraint that is none": (
        doc("lr: 1", "constraints: [lr < 1]\n"), 2, "constraints[0]", "diverged_fraction",
    ),
    "a metric twice": (
        doc("lr: 1", "metric: [{name: test_loss}, {name: test_loss}]\n"), 2, "metric[1]", "not there yet",
    ),
    # what is not built
    "optuna": (doc("lr: 1", "method: optuna\n"), 2, "search", "num_trials"),
    "early stop": (
        doc("lr: 1", "early_stop: {type: asha, min_steps: 100, eta: 3}\n"), 2, "early_stop", "or optuna",
    ),
    "two metrics": (
        doc("lr: 1", "metric: [{name: test_loss}, {name: train_loss}]\n"), 2, "metric", "random or optuna",
    ),
    "deterministic": (doc("lr: 1", "deterministic: true\n"), 2, "deterministic", "method optuna"),
    "checkpoints of a search": (
        doc("lr: [1, 2]", "keep_checkpoints: true\nmethod: optuna\nsearch: {num_trials: 2}\n"),
        2, "keep_checkpoints", "grid or random",
    ),
    "unnamed claim": (doc("lr: 1", "claims: [3]\n"), 2, "claims[0]", "name of a claim"),
    "claim's level": (doc("lr: 1", "claims: [{a: {alpha: 2}}]\n"), 2, "claims[0].a.alpha", "0.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_mistake_has_its_line_and_key(case):
    text, line, path, words = CASES[case]
    found = [m for m in mistakes_of(text) if (m.line, m.path) == (line, path) and words in str(m)]
    assert found, [(m.line, m.path, str(m)) for m in mistakes_of(text)]


FOLLOWED = {
    "claims after a search",
    "search in a grid",
    "early stop",
    "two metrics",
    "deterministic",
    "a grid with constraints",
    "optuna",
    "endless search",
    "cyclic when",
}
FOLLOWED |= {"search for nothing", "tracking is text", "plain text", "claim's level"}


@pytest.mark.parametrize("case", sorted(set(CASES) - FOLLOWED))
def test_one_slip_is_one_mistake(case):
    assert len(mistakes_of(CASES[case][0])) == 1


def test_all_mistakes_at_once_in_file_order(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: A/b\n"
        "method: gird\n"
        "parameters:\n"
        "  norm: [none, nosy_batch]\n"
        "  noise: [1]\n"
        "  lr: {min: 1, max: 0.1, num: 3}\n"
        "  momentum: no\n"
        "  nois: 3\n"
        "seeds: 0\n"
        "probes:\n"
        "  ics: {evry: 50, layers: [99]}\n"
        "tracking: &x {uri: foo}\n"
        "seeds: 3\n"
        "claims: [a]\n"
        "foo: 1\n"
    )
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    found = [(mistake.line, mistake.path) for mistake in caught.value.mistakes]
    assert found == [
        (1, "name"), (2, "method"), (4, "parameters.norm[1]"), (6, "parameters.lr"),
        (7, "parameters.momentum"), (8, "parameters.nois"), (9, "seeds"),
        (11, "probes.ics.evry"), (11, "probes.ics.layers"),
        (12, "tracking"), (12, "tracking.uri"), (13, "seeds"), (15, "foo"),
    ]  # fmt: skip
    assert all(line.startswith(f"{path}:") for line in str(caught.value).splitlines())
    assert caught.value.exit_code == 2


def test_what_depends_on_a_mistake_is_no_second_mistake():
    found = mistakes_of(doc("norm: nosy_batch\n  noise: {values: [0.5, 1], when: {norm: noisy_batch}}"))
    assert [mistake.path for mistake in found] == ["parameters.norm"]
    found = mistakes_of(doc("modl: dln\n  depth: 3\n  dataset: gaussian"))
    assert [mistake.path for mistake in found] == ["parameters.modl"]


def test_a_dictionary_is_checked_alike():
    bad = {**GOOD, "name": "no/slash", "parameters": {"lr": -1}}
    assert [(m.line, m.path) for m in mistakes_of(bad)] == [(None, "name"), (None, "parameters.lr")]


def test_numpy_numbers_are_numbers():
    np = pytest.importorskip("numpy")
    spec = load_spec({**GOOD, "parameters": {"lr": list(np.geomspace(0.01, 1, 3)), "steps": np.int64(7)}})
    assert spec.setting("lr").values == (0.01, 0.1, 1.0)
    assert spec.setting("steps").values == (7,)


def test_everything_is_understood(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(
        "name: all-1\n"
        "description: 'no: 1'\n"
        "method: grid\n"
        "metric: {name: train_loss}\n"
        "parameters:\n"
        "  model: {value: vgg13}\n"
        "  noise: {values: [0.5, 1], when: {norm: [noisy_batch, noisy_none], lr: 1e-1}}\n"
        "  norm: [batch, noisy_batch, 'my.norms:make_1']\n"
        "  lr: {min: 1e-3, max: 1e-1, num: 3, distribution: log_uniform_values}\n"
        "  batch_size: {values: [full, 128]}\n"
        "  epochs: 2\n"
        "seeds: [7, 3]\n"
        "probes:\n"
        "  moments:\n"
        "  ics: {every: 5, layers: [3, 1]}\n"
        "  landscape: {step_sizes: [4, 1], noise: resampled}\n"
        "claims: []\n"
        "resources: {cpus: 0.5, device: cuda, max_concurrent: 3}\n"
        "tracking: {uri: 'https://mlflow.example.org:5000/x'}\n"
        "storage: out/here\n"
        "data_root: ~/data\n"
        "keep_checkpoints: true\n"
        "save_weights: final\n"
    )
    spec = load_spec(str(path))
    assert spec.metric == Metric("train_loss", "minimize")
    assert spec.seeds == (7, 3)
    assert spec.setting("noise") == Setting(
        "noise", (0.5, 1.0), {"norm": ("noisy_batch", "noisy_none"), "lr": (0.1,)}
    )
    assert spec.setting("lr").values == (0.001, 0.01, 0.1)
    assert spec.setting("lr").range == Range(0.001, 0.1, 3, "log_uniform_values")
    assert spec.setting("noise").line == 7
    assert spec.probes == {
        "moments": {},
        "ics": {"every": 5, "layers": [1, 3]},
        "landscape": {"step_sizes": [1.0, 4.0], "noise": "resampled"},
    }
    assert spec.resources == Resources(0.5, 1, 3, "cuda")
    assert (spec.tracking, spec.storage, spec.data_root) == (
        "https://mlflow.example.org:5000/x", "out/here", "~/data",
    )  # fmt: skip
    assert spec.description == "no: 1"
    assert spec.text == path.read_text()
    assert spec.source == str(path)
    assert load_spec(spec.to_dict()) == spec
    # lr 0.1: three norms, noisy_batch twice; other lrs: three norms; two batch sizes, two seeds
    assert make_plan(spec).count == (4 + 3 + 3) * 2 * 2


@pytest.mark.parametrize(
    ("uri", "legal"),
    [
        ("none", True), ("sqlite:///x.db", True), ("sqlite:////abs/x.db", True), ("http://host:5000", True),
        ("https://h/p", True), ("sqlite:///", False), ("http://", False), ("ftp://x", False),
        ("mlruns", False),
    ],
)  # fmt: skip
def test_tracking_uris(uri, legal):
    if legal:
        assert load_spec({**GOOD, "tracking": {"uri": uri}}).tracking == uri
    else:
        assert [m.path for m in mistakes_of({**GOOD, "tracking": {"uri": uri}})] == ["tracking.uri"]


def test_defaults():
    spec = load_spec({"name": "a", "parameters": {}})
    assert (spec.method, spec.seeds, spec.metric.name, spec.storage, spec.tracking) == (
        "grid", (0,), "test_accuracy", "results", None,
    )  # fmt: skip
    assert spec.given == {"name", "parameters"}
    assert load_spec({"name": "a", "parameters": {"model": "dln"}}).metric == Metric("test_loss", "minimize")


def test_a_search_is_parsed():
    spec = load_spec(
        {
            **GOOD,
            "method": "optuna",
            "parameters": {"lr": {"min": 0.01, "max": 1, "distribution": "log_uniform_values"}},
            "search": {"sampler": "tpe", "num_trials": 64, "options": {"n_startup_trials": 5}},
            "early_stop": {"type": "asha", "min_steps": 10, "eta": 4},
            "claims": ["a", {"b": {"alpha": 0.01}}],
            "exploratory": True,
            "constraints": ["test_loss <= 1"],
        }
    )
    assert spec.claims == (Claim("a"), Claim("b", None, 0.01))
    assert spec.search == {"sampler": "tpe", "num_trials": 64, "options": {"n_startup_trials": 5}}
    assert spec.setting("lr").range == Range(0.01, 1.0, None, "log_uniform_values")
    assert load_spec(spec.to_dict()) == spec


def test_a_grid_that_when_makes_too_intricate_is_refused():
    names = ["lr", "weight_decay", "eval_every", "log_every", "beta1", "beta2", "adam_eps", "norm_eps"]
    fixed = [*names, "norm_momentum", "width", "init", "inputs", "augment", "affine", "precision"]
    values = {name: [PARAMETERS[name].canonical(value) for value in two_values(name)] for name in fixed}
    ways = {"values": [5, 6], "when": {name: one[0] for name, one in values.items()}}
    found = mistakes_of({"name": "a", "parameters": {"optimizer": "adam", **values, "steps": ways}})
    assert [mistake.path for mistake in found] == ["parameters"]
    assert "simple enough" in str(found[0])


def two_values(name):
    """Return two legal values of a parameter."""
    parameter = PARAMETERS[name]
    if parameter.kind == "choice":
        return NAMES[name][:2]
    return [True, False] if parameter.kind == "bool" else [0.5, 0.25] if parameter.kind == "float" else [1, 2]


def test_importing_costs_little():
    code = """
import sys, bnsweep.sweep
heavy = ("numpy", "pyarrow", "pandas", "torch", "ray", "mlflow", "scipy")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Properties over random documents

numbers = st.sampled_from([0, 1, 2, 3, 5, 1e-3, 0.5, -1, 1e300, 2.5]) | st.integers(-3, 200) | st.floats()
words = st.sampled_from(
    [
        *(name for names in NAMES.values() for name in names),
        "full",
        "all",
        "no",
        "1e-3",
        "a:b",
        "grid",
        "x",
        "",
    ]
)
values = st.none() | st.booleans() | numbers | words | st.text(max_size=6)
names = st.sampled_from([*PARAMETERS, "epochs"]) | st.text(max_size=4)
options = st.sampled_from(
    ["every", "layers", "noise", "step_sizes", "name", "goal", "uri", "cpus", "gpus", "type"]
)
longs = st.dictionaries(
    st.sampled_from(["value", "values", "min", "max", "num", "distribution", "when", "valu"]),
    values | st.lists(values, max_size=3) | st.dictionaries(names, values, max_size=2),
    max_size=5,
)
entries = values | st.lists(values, max_size=4) | longs
sections = st.one_of(
    entries,
    st.dictionaries(names, entries, max_size=5),
    st.dictionaries(
        st.sampled_from(list(PROBES)) | options,
        st.dictionaries(options, entries, max_size=3) | values,
        max_size=3,
    ),
)
tops = st.sampled_from([*TOP_KEYS, *READERS, "parameters", "colour"])
documents = st.dictionaries(tops, sections, max_size=6).map(lambda extra: {**GOOD, **extra})


def check_document(load):
    """Either a SpecError with its mistakes, or a spec that can be written and read back."""
    try:
        spec = load()
    except SpecError as error:
        assert error.mistakes
        assert all(mistake.must and mistake.found for mistake in error.mistakes)
        return
    assert load_spec(spec.to_dict()) == spec
    assert load_text(spec.text) == spec
    plan = make_plan(spec)
    assert len(set(plan.trial_ids)) == len(plan.trials)


@settings(max_examples=300, deadline=None)
@given(documents)
def test_random_documents(content):
    check_document(lambda: load_spec(content))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(names, entries, min_size=1, max_size=4))
def test_random_parameters_as_text(content):
    check_document(lambda: load_text(to_yaml({**GOOD, "parameters": content})))


def test_two_thousand_damaged_files():
    text = (
        "name: a\nmetric: {name: test_loss}\nparameters:\n  norm: [none, noisy_batch]\n"
        "  lr: {min: 1e-3, max: 1, num: 2}\n  noise: {value: 1.0, when: {norm: noisy_batch}}\n  steps: 20\n"
        "seeds: 2\nprobes:\n  ics: {every: 5, layers: [1, 2]}\n  moments:\nresources: {cpus: 1}\n"
    )
    draw = random.Random(2018)
    pieces = [
        *"{}[]:,-&*!|>'\"#%@\n\t 019.e",
        "no",
        "1e-3",
        "[]",
        "{}",
        "when: {lr: 1}",
        "<<: *a",
        "norm",
        "- ",
    ]
    seen = set()
    while len(seen) < 2000:
        start = draw.randrange(len(text))
        end = min(len(text), start + draw.choice([0, 1, 5, 40]))
        damaged = text[:start] + "".join(draw.choices(pieces, k=draw.randrange(4))) + text[end:]
        seen.add(damaged)
        check_document(lambda damaged=damaged: load_text(damaged + "\n"))
