"""What went wrong decides what follows."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from bnsweep import api
from bnsweep.runners import LocalRunner
from bnsweep.sweep.ledger import Ledger

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def norm(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives the sweep a norm of the user's, by the body of its forward."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, body: str) -> dict[str, Any]:
        text = f"""
        import time, torch
        from torch import nn

        class Own(nn.Module):
            per_channel = True

            def __init__(self):
                super().__init__()
                self.calls = 0

            def forward(self, x):
                self.calls += 1
                if self.calls > 12 and x.requires_grad:
                    {body}
                return x

        def make(n):
            return Own()
        """
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        tiny["probes"] = {}
        tiny["parameters"] |= {"norm": ["none", f"{name}:make"], "lr": [0.1], "steps": 20}
        tiny["resources"] = {"pack_size": 2, "kernel": "grouped"}
        return tiny

    return write


def test_a_step_that_hangs_is_ended_where_it_hangs_tried_alone_and_recorded(
    norm: Any, tmp_path: Path
) -> None:
    content = norm("sleepingnorm", "time.sleep(1000)")
    content["resources"]["step_limit"] = 1.0
    outcome = api.run(content, runner=LocalRunner(), storage=str(tmp_path / "r"))
    assert outcome.states == {"completed": 2, "failed": 2} and outcome.exit_code == 1
    ledger = Ledger(outcome.root)
    for trial in ledger.failed():
        (failure,) = ledger.failures(trial)
        assert failure["cause"] == "timeout"
        assert "time.sleep(1000)" in failure["traceback"] and "longer than 1 s" in failure["traceback"]
    assert ledger.pack_ids() == []
