"""Sweeps that add seeds look by look: when they end, what they write down, and what a crash leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.analysis.claims.verdicts import Judged, Verdict, looked
from bnsweep.cli import main
from bnsweep.runners import LocalRunner
from bnsweep.sequential import seeds_now
from bnsweep.sweep import load_spec
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.search_log import SearchLog


@pytest.fixture
def content(tiny: dict[str, Any]) -> dict[str, Any]:
    """A claim that holds exactly, and one whose threshold lies where two or four seeds cannot tell."""
    tiny["parameters"] |= {"norm": ["none", "batch"], "lr": 0.5}
    tiny |= {
        "seeds": {"start": 2, "step": 1, "max": 4},
        "probes": {"theory": {"every": 5}},
        "resources": {"pack_size": 8, "kernel": "grouped"},
        "claims": ["observation_4_3", {"trains_faster": {"min_effect": 0.05}}],
    }
    return tiny


def run(content: dict[str, Any], folder: Path, say: Any = None) -> Any:
    return api.run(content, runner=LocalRunner(), storage=str(folder), say=say)


def looks(folder: Path) -> list[dict[str, Any]]:
    events = Ledger(folder / "tiny").search_log
    kept = ("number", "seeds", "decision", "p", "words")
    return [{name: event[name] for name in kept} for event in events]


def said(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tiny" / "report" / "verdicts.json").read_text())
    return {name: found[name] for name in ("looks", "verdicts", "hash")}


def test_a_sweep_whose_claims_are_clear_adds_no_seed(content: dict[str, Any], tmp_path: Path) -> None:
    content["claims"] = ["observation_4_3"]
    content["probes"]["theory"]["every"] = 1
    content["seeds"]["start"] = 3
    outcome = run(content, tmp_path)
    assert outcome.started == 6 and outcome.exit_code == 0
    assert [(look["seeds"], look["decision"]) for look in looks(tmp_path)] == [(3, "clear")]
    assert run(content, tmp_path).started == 0
    assert len(looks(tmp_path)) == 1


def test_an_open_claim_adds_seeds_up_to_the_most(content: dict[str, Any], tmp_path: Path) -> None:
    told: list[str] = []
    outcome = run(content, tmp_path, told.append)
    assert outcome.started == 8 and outcome.states == {"completed": 8}
    found = looks(tmp_path)
    assert [(look["seeds"], look["decision"]) for look in found] == [(2, "more"), (3, "more"), (4, "cap")]
    assert [text for text in told if text.startswith("look 2 of at most 3, 3 seeds")]
    page = outcome.report.path.read_text()
    assert "3 of at most 3 looks, at 2, 3, 4 seeds; it ended at the most seeds, 4" in page
    assert "98.3 %" in page
    assert [look["seeds"] for look in said(tmp_path)["looks"]] == [2, 3, 4]
    entry = said(tmp_path)["verdicts"]["trains_faster"]["numbers"]
    smallest = min(min(look["p"]["trains_faster"][0] for look in found), 1.0)
    assert entry["p_supported"] >= min(1.0, 3 * smallest) - 1e-12


class Crash(Exception):
    """What stands for a power cut."""


def test_a_crash_after_a_look_repeats_its_decision(content: dict[str, Any], tmp_path: Path) -> None:
    run(content, tmp_path / "whole")

    def crash(text: str) -> None:
        if text.startswith("look 1"):
            raise Crash

    with pytest.raises(Crash):
        run(content, tmp_path / "cut", crash)
    assert [look["decision"] for look in looks(tmp_path / "cut")] == ["more"]
    api.resume("tiny", runner=LocalRunner(), storage=str(tmp_path / "cut"))
    assert looks(tmp_path / "cut") == looks(tmp_path / "whole")
    assert said(tmp_path / "cut") == said(tmp_path / "whole")


def test_a_crash_before_a_look_is_written_takes_it_once(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(content, tmp_path / "whole")
    append = SearchLog.append

    def refuse(*args: Any, **rest: Any) -> Any:
        raise Crash

    monkeypatch.setattr(SearchLog, "append", refuse)
    with pytest.raises(Crash):
        run(content, tmp_path / "cut")
    monkeypatch.setattr(SearchLog, "append", append)
    assert run(content, tmp_path / "cut").started == 4
    assert looks(tmp_path / "cut") == looks(tmp_path / "whole")


def test_nothing_is_judged_while_trials_are_missing(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(LocalRunner):
        def run(self, *args: Any) -> bool:
            return False

    outcome = api.run(content, runner=Stopping(), storage=str(tmp_path))
    assert outcome.exit_code == 3
    assert looks(tmp_path) == []


def test_a_change_of_the_schedule_after_results_is_refused_and_then_shown(
    content: dict[str, Any], tmp_path: Path
) -> None:
    run(content, tmp_path)
    content["seeds"] = {"start": 2, "step": 1, "max": 5}
    with pytest.raises(Exception, match="the claims or their thresholds"):
        run(content, tmp_path)
    api.run(content, runner=LocalRunner(), storage=str(tmp_path), accept_changes=True)
    assert [look["seeds"] for look in looks(tmp_path)] == [2, 3, 4, 4, 5]
    assert "changed after results" in (tmp_path / "tiny" / "report" / "report.html").read_text()


def test_plan_says_how_often_it_looks(
    content: dict[str, Any], tmp_path: Path, write_sweep: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(write_sweep(content)), "--storage", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "sequential: 3 looks at most, at 2, 3, 4 seeds; up to 8 trials" in printed
    assert "4 seeds find an effect" in printed


def test_a_spec_with_a_schedule_survives_its_own_text(content: dict[str, Any]) -> None:
    spec = load_spec(content)
    assert spec.seeds == (0, 1) and spec.sequential is not None and spec.sequential.counts == (2, 3, 4)
    assert load_spec(spec.to_dict()) == spec
    assert seeds_now(spec, None) == 2


def test_what_was_shown_at_a_look_stays_shown(content: dict[str, Any]) -> None:
    from bnsweep.analysis.claims import CATALOGUE, freeze
    from bnsweep.analysis.claims.frozen import FrozenClaims
    from bnsweep.analysis.claims.parts import Findings

    frozen = FrozenClaims.of_plan({"claims": freeze(load_spec(content), {}, False)})
    claim = frozen.claims[0]
    now = Judged(Findings(), (), (), 0.5, 0.2)
    verdict = Verdict(claim, CATALOGUE[claim.name], "", "", "", 0.0, now)
    past = [
        {"hash": frozen.hash, "p": {claim.name: [0.01, 1.0]}},
        {"hash": "another", "p": {claim.name: [0.0, 0.0]}},
    ]
    [found] = looked([verdict], frozen, past)
    assert (found.p_supported, found.p_refuted) == pytest.approx((0.03, 0.6))
