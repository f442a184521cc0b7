"""Claims judged on ledgers filled by hand: verdicts, reasons, what is frozen, what is missing."""

import json
import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from bnsweep.analysis import make_report
from bnsweep.analysis.claims import CATALOGUE, freeze
from bnsweep.analysis.results import Results
from bnsweep.sweep import load_spec

LRS = (0.01, 0.1, 1.0, 10.0)
BASE = {"name": "x", "parameters": {"lr": [0.1]}}


def claim(ledger, *names, first=None, exploratory=False, **limits):
    """Store claims in a ledger's plan, as a run does."""
    spec = load_spec(
        BASE | {"claims": [{name: limits} for name in names], "exploratory": exploratory}
        if limits
        else BASE | {"claims": list(names), "exploratory": exploratory}
    )
    stored = freeze(spec, {}, False)
    if first is not None:
        stored["first"] = first
    plan = json.loads((ledger.root / "plan.json").read_text())
    ledger.write_sweep(
        "name: x\n", {key: value for key, value in plan.items() if key != "schema"} | {"claims": stored}
    )
    return ledger


def verdicts(ledger, *names, **rest):
    return {one.claim.name: one for one in Results.read(claim(ledger, *names, **rest)).verdicts}


def table(reach, seeds=6, lrs=LRS, noise=0.01):
    """Accuracies by norm and lr: 0.9 up to a norm's reach, diverged beyond it."""
    rng = np.random.default_rng(0)
    return {
        (norm, lr): [0.9 + noise * rng.standard_normal() if lr <= top else None for _ in range(seeds)]
        for norm, top in reach.items()
        for lr in lrs
    }


def test_a_range_a_decade_wider_is_supported(accuracies):
    found = verdicts(accuracies(table({"none": 0.01, "batch": 1.0})), "lr_robustness")["lr_robustness"]
    assert found.word == "supported"
    assert found.judged.findings.parts[0].values == pytest.approx([2.0] * 6)
    # floor of half a grid step: 2 - t(5) * 0.5 / sqrt(6)
    assert found.judged.tests[0].low == pytest.approx(2 - 2.5705818 * 0.5 / math.sqrt(6))
    assert "82.9" in found.paper


def test_equal_ranges_are_refuted_where_the_seeds_suffice(accuracies):
    found = verdicts(accuracies(table({"none": 0.1, "batch": 0.1}, 29)), "lr_robustness")["lr_robustness"]
    assert found.word == "refuted"


def test_equal_ranges_of_few_seeds_are_undecided(accuracies):
    found = verdicts(accuracies(table({"none": 0.1, "batch": 0.1}, 5)), "lr_robustness")["lr_robustness"]
    assert (found.word, "too few seeds" in found.reason) == ("undecided", True)


def test_none_training_at_the_edge_forbids_support(accuracies):
    values = table({"none": 10.0, "batch": 10.0})
    found = verdicts(accuracies(values), "lr_robustness")["lr_robustness"]
    assert found.word == "undecided"
    part = found.judged.findings.parts[0]
    assert "none still trains at the largest" in part.at_most
    assert "batch still trains at the largest" in part.at_least


def test_an_arm_that_never_trains_has_no_range(accuracies):
    found = verdicts(accuracies(table({"none": 0.0, "batch": 1.0})), "lr_robustness")["lr_robustness"]
    assert found.word == "undecided"
    assert "none trains at no learning rate" in found.reason


def test_a_smaller_threshold_of_the_users_is_used(accuracies):
    found = verdicts(accuracies(table({"none": 0.1, "batch": 1.0})), "lr_robustness", min_effect=0.9)
    assert (found["lr_robustness"].word, found["lr_robustness"].min_effect) == ("undecided", 0.9)


def trained(synthetic, early, late, final, **bursts):
    """Make outcomes whose training accuracy is ``early`` in the first third, ``late`` after it, by norm."""
    rng = np.random.default_rng(1)

    def outcome(one):
        norm = one.parameters["norm"]
        if one.seed in bursts.get(norm, ()):
            return synthetic.Outcome({}, diverged_step=7, last_finite_loss=9.0)
        shift = 0.004 * rng.standard_normal()
        rows = [
            (step, "train_accuracy", 0, (early if step <= 100 else late)[norm] + shift, synthetic.TIME)
            for step in range(0, 300, 10)
        ]
        return synthetic.Outcome({"test_accuracy": final[norm] + shift}, rows)

    return outcome


def noise_plan(synthetic, norms, seeds=8):
    grid = [{"norm": norm, "lr": lr, "steps": 300} for norm in norms for lr in (0.01, 0.1)]
    return synthetic.trials(grid, range(seeds))


# The paper's Figure 2: training accuracy at step 1 000 and over the last 1 000 steps.
FIGURE_2 = (
    {"none": 0.52, "batch": 0.80, "noisy_batch": 0.76, "noisy_none": 0.11},
    {"none": 0.996, "batch": 0.987, "noisy_batch": 0.979, "noisy_none": 0.12},
)


def test_the_papers_own_figure_supports_its_claims_on_noise(tmp_path, synthetic):
    final = {"none": 0.80, "batch": 0.83, "noisy_batch": 0.60, "noisy_none": 0.1}
    outcome = trained(synthetic, *FIGURE_2, final)
    ledger = synthetic.build(tmp_path, noise_plan(synthetic, final), outcome)
    found = verdicts(ledger, "noise_harmless", "noise_kills_unnormalized")
    assert {key: one.word for key, one in found.items()} == dict.fromkeys(found, "supported")
    harmless = found["noise_harmless"].judged.findings
    means = [float(np.mean(part.values)) for part in harmless.parts]
    assert means == pytest.approx([-0.008, 0.28, 0.24], abs=0.01)
    assert harmless.parts[0].label == "noisy_batch − batch, mean training accuracy, late"  # noqa: RUF001
    beside = {side.label: float(np.mean(side.values)) for side in harmless.sides}
    assert beside["noisy_batch − batch, mean final test accuracy"] == pytest.approx(-0.23, abs=0.01)  # noqa: RUF001


@pytest.mark.parametrize("late", [True, False])
def test_noise_that_costs_training_refutes_and_noise_that_costs_the_test_does_not(tmp_path, synthetic, late):
    level = {"none": 0.6, "batch": 0.9, "noisy_batch": 0.8}
    same = level | {"noisy_batch": 0.9}
    outcome = trained(synthetic, same, level if late else same, same if late else level)
    found = verdicts(synthetic.build(tmp_path, noise_plan(synthetic, level), outcome), "noise_harmless")
    assert found["noise_harmless"].word == ("refuted" if late else "supported")


def test_a_seed_that_diverges_counts_as_untrained_in_training_readings(tmp_path, synthetic):
    level = {"batch": 0.9, "l1": 0.9}
    outcome = trained(synthetic, level, level, level, l1=(3,))
    ledger = synthetic.build(tmp_path, noise_plan(synthetic, level), outcome)
    [part] = verdicts(ledger, "lp_train_as_well")["lp_train_as_well"].judged.findings.parts
    assert part.values[3] == pytest.approx(0.1 - 0.9, abs=0.02)
    assert part.resolution > 0.3


def test_lp_norms_are_judged_by_the_last_third(tmp_path, synthetic):
    early, late = {"batch": 0.8, "linf": 0.3}, {"batch": 0.9, "linf": 0.9}
    outcome = trained(synthetic, early, late, late)
    found = verdicts(synthetic.build(tmp_path, noise_plan(synthetic, late), outcome), "lp_train_as_well")
    assert found["lp_train_as_well"].word == "supported"
    early_side = found["lp_train_as_well"].judged.findings.sides[0]
    assert early_side.label == "linf − batch, mean training accuracy, early"  # noqa: RUF001
    assert np.mean(early_side.values) == pytest.approx(-0.5, abs=0.01)


@pytest.mark.parametrize(
    ("gap", "word"), [(-0.1, "supported"), (0.01, "supported"), (0.02, "undecided"), (0.05, "refuted")]
)
def test_as_good_as_is_a_test_of_non_inferiority(tmp_path, synthetic, gap, word):
    """One of the two one-sided tests of equivalence: to be better is no objection."""
    level = {"batch": 0.85, "l1": 0.85 - gap}
    ledger = synthetic.build(tmp_path, noise_plan(synthetic, level), trained(synthetic, level, level, level))
    found = verdicts(ledger, "lp_train_as_well")["lp_train_as_well"]
    assert found.word == word
    [part] = found.judged.findings.parts
    lower = ttest_1samp(part.values, -0.02, alternative="greater").pvalue
    assert found.judged.p_supported == pytest.approx(min(1.0, 2 * lower), rel=1e-6)


@pytest.fixture(scope="module")
def lifelike(tmp_path_factory, synthetic):
    """A sweep with every probe's readings, whose plain network is six times as rough."""
    plan = synthetic.trials(synthetic.grid(["none", "batch", "l1"], [0.012, 0.016], steps=300), range(6))
    root = tmp_path_factory.mktemp("lifelike")
    return synthetic.build(root, plan, lambda one: synthetic.lifelike(one, every=50))


CURVES = ("loss_variation", "gradient_predictiveness", "effective_beta", "ics_not_reduced", "lp_shift_more")


def test_readings_of_probes_are_judged_early_and_shown_beside(lifelike):
    found = verdicts(lifelike, *CURVES, "lp_loss_variation", "trains_faster")
    words = {key: one.word for key, one in found.items()}
    assert (
        words["loss_variation"]
        == words["gradient_predictiveness"]
        == words["lp_loss_variation"]
        == "supported"
    )
    assert words["ics_not_reduced"] == words["lp_shift_more"] == "refuted"
    parts, sides = (
        found["loss_variation"].judged.findings.parts,
        found["loss_variation"].judged.findings.sides,
    )
    assert 10 ** np.mean(parts[0].values) == pytest.approx(6, rel=0.25)
    assert [side.label.split(", ")[-1] for side in sides] == ["start", "late"]


def test_claims_share_what_is_read(lifelike, monkeypatch):
    """Files of curves are read once for all claims that go by readings of the whole network."""
    claim(lifelike, *CURVES, "lp_loss_variation", "trains_faster", "lp_train_as_well")
    results, asked = Results.read(lifelike), []
    read = lifelike.read_all_curves
    monkeypatch.setattr(results.ledger, "read_all_curves", lambda *words: asked.append(words) or read(*words))
    assert {one.word for one in results.verdicts} <= {"supported", "refuted", "undecided"}
    ((trials, _, layers),) = asked
    assert len(trials) == 36 and layers is False
    some = sorted(trials)[3:5]
    shared = results.curves(some, ["landscape/loss_width"])
    by_itself = results._curves(some, ["landscape/loss_width"], layers=True)
    assert len(shared) == 14 and set(shared["trial_id"]) == set(some)
    assert shared.to_dict("list") == by_itself.drop(columns="layer").to_dict("list")


def test_phases_hold_the_readings_that_they_say(lifelike):
    found = verdicts(lifelike, "loss_variation")["loss_variation"]
    results = Results.read(lifelike)
    rows = results.trials[(results.trials["seed"] == 0)]
    expected = []
    for lr in (0.012, 0.016):
        medians = {}
        for norm in ("none", "batch"):
            trial = rows[(rows["norm"] == norm) & (rows["lr"] == lr)]["trial_id"].iloc[0]
            curve = results.curves([trial], ["landscape/loss_width"])
            inside = curve[(curve["step"] > 0) & (curve["step"] <= 100)]["value"]
            assert len(inside) == 2
            medians[norm] = np.median(inside)
        expected.append(math.log10(medians["none"] / medians["batch"]))
    assert found.judged.findings.parts[0].values[0] == pytest.approx(np.mean(expected))


def test_a_seed_that_diverged_everywhere_leaves_no_curves_to_compare(tmp_path, synthetic):
    plan = synthetic.trials(synthetic.grid(["none", "batch"], [0.3, 1.0], steps=300), range(4))
    found = verdicts(synthetic.build(tmp_path, plan, synthetic.lifelike), "loss_variation")["loss_variation"]
    assert (found.word, "too many diverged" in found.reason) == ("undecided", True)


def test_an_unfinished_sweep_has_no_verdict(tmp_path, synthetic):
    plan = synthetic.trials([{"norm": norm, "lr": lr} for norm in ("none", "batch") for lr in LRS], range(3))

    def outcome(one):
        return None if one.seed == 2 else synthetic.Outcome({"test_accuracy": 0.9})

    ledger = synthetic.build(tmp_path, plan, outcome)
    ledger.write_failure(plan[2].trial_id, "Traceback: boom")
    found = verdicts(ledger, "lr_robustness")["lr_robustness"]
    assert (found.word, found.reason) == ("no verdict yet", "8 of 24 trials are missing (1 failed)")
    assert found.judged.tests == ()


def test_claims_that_wait_count_in_the_correction_of_those_that_do_not(tmp_path, synthetic):
    """A verdict on half a sweep must stand when the other half is there, whatever it says."""
    norms = ("none", "batch", "l1")
    plan = synthetic.trials(synthetic.grid(norms, [0.012, 0.016], steps=300), range(5))
    names = ("loss_variation", "lp_loss_variation", "lp_train_as_well", "lp_shift_more")

    def judged(done, root):
        ledger = synthetic.build(
            root, plan, lambda one: synthetic.lifelike(one) if one.parameters["norm"] in done else None
        )
        return verdicts(ledger, *names)

    half, whole = judged(norms[:2], tmp_path / "half"), judged(norms, tmp_path / "whole")
    assert {one.word for one in list(half.values())[1:]} == {"no verdict yet"}
    first = half["loss_variation"]
    assert first.p_supported == pytest.approx(min(1.0, 4 * first.judged.p_supported))
    assert whole["loss_variation"].p_supported <= first.p_supported + 1e-15


def test_versions_and_data_are_never_averaged_over(tmp_path, synthetic):
    plan = synthetic.trials([{"norm": norm, "lr": lr} for norm in ("none", "batch") for lr in LRS], range(3))

    def outcome(one):
        return synthetic.Outcome({"test_accuracy": 0.9}, rest={"results_version": 1 + one.seed // 2})

    found = verdicts(synthetic.build(tmp_path, plan, outcome), "lr_robustness")["lr_robustness"]
    assert (found.word, "different results versions (1, 2)" in found.reason) == ("undecided", True)


def test_every_facet_is_judged_and_corrected_together(tmp_path, synthetic):
    conditions = [
        {"norm": norm, "lr": lr, "width": width}
        for width in (0.5, 1.0) for norm in ("none", "batch") for lr in LRS
    ]  # fmt: skip
    top = {"none": 0.01, "batch": 1.0}
    outcome = lambda one: synthetic.Outcome(  # noqa: E731
        {"test_accuracy": 0.9 if one.parameters["lr"] <= top[one.parameters["norm"]] else 0.1}
    )
    ledger = synthetic.build(tmp_path, synthetic.trials(conditions, range(6)), outcome)
    found = Results.read(claim(ledger, "lr_robustness")).verdicts
    assert [one.key for one in found] == ["lr_robustness width=0.5", "lr_robustness width=1"]
    assert found[0].p_supported == pytest.approx(2 * found[0].judged.p_supported)


def test_a_change_after_results_and_an_exploration_are_said(accuracies):
    ledger = accuracies(table({"none": 0.01, "batch": 1.0}))
    found = verdicts(ledger, "lr_robustness", first="0" * 16, exploratory=True)["lr_robustness"]
    assert found.word == "supported"
    assert "exploratory" in found.cautions[0]
    assert "changed after results" in found.cautions[1]
    page = make_report(ledger).path.read_text()
    assert "<b>changed after results</b>" in page


def test_claims_are_frozen_by_the_first_result():
    one, two = (load_spec(BASE | {"claims": [name]}) for name in ("lr_robustness", "noise_harmless"))
    first = freeze(one, {}, False)
    assert first["first"] == first["hash"]
    assert freeze(two, {"claims": first}, False)["first"] != first["hash"]
    later = freeze(two, {"claims": first}, True)
    assert (later["first"], later["hash"] == first["hash"]) == (first["hash"], False)
    assert freeze(one, {"name": "x"}, True)["first"] != first["hash"]
    stricter = load_spec(BASE | {"claims": [{"lr_robustness": {"min_effect": 0.5}}]})
    assert freeze(stricter, {}, False)["hash"] != first["hash"]


def test_the_report_shows_verdicts_first_and_exports_them(lifelike):
    report = make_report(claim(lifelike, "loss_variation", "lr_robustness"))
    text = report.path.read_text()
    assert (
        text.index("<h2>Verdicts</h2>") < text.index("Before reading on") < text.index("<h2>Learning rates")
    )
    assert {"verdicts.csv", "verdicts.tex", "lr_range.tex"} <= {path.name for path in report.tables}
    assert "claim-loss-variation" in {path.stem for path in report.figures}
    stored = json.loads((report.path.parent / "verdicts.json").read_text())
    assert stored["verdicts"]["loss_variation"]["verdict"] == "supported"
    assert stored["verdicts"]["loss_variation"]["numbers"]["low"] > math.log10(1.5)
    assert "loss_variation: supported" in report.summary
    assert r"loss\_variation & supported" in (report.path.parent / "tables" / "verdicts.tex").read_text()


def test_every_definition_is_complete():
    for name, definition in CATALOGUE.items():
        assert definition.name == name
        assert (definition.scores is None) != (definition.curves is None)
        assert definition.sentence.endswith(".")
        assert "Section" in definition.where
        assert all(value > 0 for value in definition.min_effect.values())
