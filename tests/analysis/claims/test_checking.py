"""What a sweep lacks for its claims is an error when the file is read."""

import pytest

from bnsweep import api
from bnsweep.analysis import check
from bnsweep.errors import SpecError
from bnsweep.sweep import load_spec

TEXT = """name: x
parameters:
  norm: [{norms}]
  lr: [{lrs}]
  steps: {steps}
seeds: {seeds}
probes: {probes}
claims: [{claims}]
"""


def text(claims, norms="none, batch", lrs="0.1, 1", steps=300, seeds=5, probes="{}"):
    return TEXT.format(claims=claims, norms=norms, lrs=lrs, steps=steps, seeds=seeds, probes=probes)


CASES = {
    "misspelt": (text("lr_robustnes"), "did you mean lr_robustness?"),
    "unknown": (text("quux"), "bnsweep claims lists them"),
    "arm": (text("lr_robustness", norms="batch, l1"), "add none to parameters.norm"),
    "one of the arms": (text("lp_train_as_well"), "one of the arms l1, l2, linf"),
    "probe": (text("ics_not_reduced"), "must have the probe ics"),
    "early readings": (
        text("ics_not_reduced", probes="{ics: {every: 101}}"),
        "every 101 of 300 steps; lower probes.ics.every",
    ),
    "early training readings": (
        text("trains_faster", steps=24), "every 10 of 24 steps; lower parameters.log_every",
    ),
    "learning rates": (text("lr_robustness", lrs="0.1"), "must have 2 learning rates or more"),
    "seeds": (text("lr_robustness", seeds=1), "must have 2 seeds or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_is_named_with_its_line(case):
    source, words = CASES[case]
    with pytest.raises(SpecError) as caught:
        api.load(source)
    [mistake] = caught.value.mistakes
    assert words in str(mistake)
    assert (mistake.path.split(".")[0], mistake.line) == ("claims", 8)
    assert caught.value.exit_code == 2


def test_everything_that_is_missing_is_said_at_once():
    with pytest.raises(SpecError) as caught:
        check(load_spec(text("ics_not_reduced, noise_harmless, nothing", norms="batch")))
    assert len(caught.value.mistakes) == 4


def test_a_search_has_no_common_grid():
    source = text("lr_robustness") + "method: random\nsearch: {num_trials: 4}\n"
    with pytest.raises(SpecError, match="method grid"):
        api.load(source.replace("lr: [0.1, 1]", "lr: {min: 0.1, max: 1}"))


@pytest.mark.parametrize("every", [1, 100])
def test_what_suffices_is_accepted(every):
    spec = api.load(text("ics_not_reduced, lr_robustness", probes=f"{{ics: {{every: {every}}}}}"))
    assert [claim.name for claim in spec.claims] == ["ics_not_reduced", "lr_robustness"]
