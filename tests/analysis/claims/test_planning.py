"""What claims can show, said before a sweep is run."""

import numpy as np
import pytest

from bnsweep.analysis.claims.planning import forecast, forecast_lines
from bnsweep.analysis.statistics import power
from bnsweep.cli import main
from bnsweep.sweep import load_spec

SPEC = {
    "name": "synthetic",
    "parameters": {"norm": ["none", "batch"], "lr": [0.01, 0.1, 1.0]},
    "seeds": 5,
    "claims": ["lr_robustness", "trains_faster"],
}
FILE = "name: x\nparameters: {norm: [none, batch], lr: [0.1, 1]}\nseeds: 8\nclaims: [lr_robustness]\n"


def test_without_a_pilot_effects_are_in_standard_deviations():
    first, second = forecast(load_spec(SPEC), None)
    assert (first.claim, first.seeds, first.pilot) == ("lr_robustness", 5, 0)
    assert first.alpha == second.alpha == 0.025
    assert power(first.smallest, 1.0, 5, 0.025) == pytest.approx(0.8, abs=1e-3)


def test_a_pilot_gives_the_spread_and_the_seeds_needed(tmp_path, synthetic):
    plan = synthetic.trials(synthetic.grid(["none", "batch"], [0.01, 0.1, 1.0]), range(5))
    rng = np.random.default_rng(0)

    def outcome(one):
        top = {"none": 0.1 if one.seed else 0.01, "batch": 1.0}[one.parameters["norm"]]
        good = one.parameters["lr"] <= top
        reading = {"test_accuracy": (0.9 if good else 0.1) + 0.01 * rng.standard_normal()}
        return None if one.seed > 3 else synthetic.Outcome(reading)

    spec = load_spec(SPEC | {"claims": ["lr_robustness"]})
    [found] = forecast(spec, synthetic.build(tmp_path, plan, outcome), 0.9)
    assert found.pilot == 4
    assert found.part.values == pytest.approx((2.0, 1.0, 1.0, 1.0))
    sd = np.std([2, 1, 1, 1], ddof=1)
    assert power(found.smallest - 0.3, sd, 5, 0.05, 1.0) == pytest.approx(0.9, abs=1e-3)
    assert power(0.95, sd, found.needed, 0.05, 1.0) >= 0.9 > power(0.95, sd, found.needed - 1, 0.05, 1.0)
    assert "with probability 0.9" in found.text()


def test_a_sweep_without_claims_has_no_forecast():
    assert forecast_lines(load_spec(SPEC | {"claims": []}), None) == []


def test_plan_says_what_claims_can_show(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text(FILE)
    assert main(["plan", str(path), "--storage", str(tmp_path), "--power", "0.9"]) == 0
    assert "claim lr_robustness: 8 seeds find an effect" in capsys.readouterr().out
    assert main(["plan", str(path), "--power", "2"]) == 2
    assert "--power must be between" in capsys.readouterr().err


def test_the_catalogue_is_listed(capsys):
    assert main(["claims"]) == 0
    assert "ics_not_reduced: BatchNorm does not reduce" in capsys.readouterr().out
    assert main(["claims", "lr_robustness"]) == 0
    assert "The paper, vgg: lr 0.1: 82.9" in capsys.readouterr().out
    assert main(["claims", "lr_robustnes"]) == 2
    assert "did you mean lr_robustness?" in capsys.readouterr().err
    assert main(["claims", "--json"]) == 0
