"""Whoever wrote the sweep file or the ledger gets no script into the report."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bnsweep.analysis import make_report
from bnsweep.trial import TrialConfig

RUNS = "document.title='it ran'"
EVIL = f"""</pre></td>"'><script>{RUNS}</script><img src=x onerror="{RUNS}"><svg onload="{RUNS}"></svg>"""
EVIL += f"""<a href="javascript:{RUNS}">a</a> [x](javascript:alert(1)) `code` <iframe srcdoc="{EVIL}">"""
NORM = "<script>document.title='it'</script>:<img/src/onerror=document.title='it'>"


@pytest.fixture
def page(tmp_path: Path, synthetic: Any) -> Path:
    """The report of a ledger in which every text that is free says the same."""
    sound = [TrialConfig.create({"lr": lr, "seed": seed}) for lr in (0.1, 0.2) for seed in range(2)]
    plan = [
        replace(one, parameters={**one.parameters, "norm": norm, "noise": EVIL})
        for norm in ("none", NORM)
        for one in sound
    ]
    rest = {
        "environment": {"device": EVIL, "device_name": EVIL, "host": EVIL, "torch": EVIL},
        "attempts": ({"started": "2026-01-31T12:00:00.000Z", "host": EVIL},),
        "label": EVIL,
    }
    ledger = synthetic.build(
        tmp_path, plan, lambda one: synthetic.Outcome({"test_accuracy": 0.8}, rest=rest),
        description=EVIL, text=f"name: synthetic # {EVIL}\n",
    )  # fmt: skip
    ledger.write_environment({"packages": {EVIL: EVIL}, EVIL: [EVIL], "commit": EVIL})
    ledger.write_failure(plan[0].trial_id, EVIL)
    return make_report(ledger).path


class Tags(HTMLParser):
    """Collects what of a page could run, or fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "a", "svg", "object", "embed", "form", "link", "base"):
            self.found.append((tag, ""))
        self.found += [
            (tag, name) for name, _ in attrs if name.startswith("on") or name in ("href", "srcdoc")
        ]
        self.found += [
            (tag, value) for name, value in attrs if name == "src" and not str(value).startswith("data:")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_in_the_page_is_a_tag_of_the_users(page: Path) -> None:
    tags = Tags()
    tags.feed(page.read_text())
    assert tags.found == []
    assert tags.text.count("[x](javascript:alert(1)) `code`") >= 4, "it is shown as it was written"
    assert NORM in tags.text


def test_no_text_of_the_ledgers_names_a_file(tmp_path: Path, synthetic: Any) -> None:
    """Values that look like paths: the report writes below its own folder, under names of its own."""
    up = "../../../../up"
    sound = [TrialConfig.create({"lr": lr, "seed": seed}) for lr in (0.1, 0.2) for seed in range(2)]
    plan = [
        replace(one, parameters={**one.parameters, "norm": norm, "dataset": data, "model": up, "noise": up})
        for norm in ("none", up, "/tmp/bnsweep-up")
        for data in ("digits", up)
        for one in sound
    ]
    rows = [(step, name, 1, 0.5, synthetic.TIME) for step in (0, 10) for name in ("ics/l2", f"{up}/x")]
    ledger = synthetic.build(
        tmp_path / "in" / "results",
        plan,
        lambda one: synthetic.Outcome({"test_accuracy": 0.8, up: 1.0}, rows),
    )
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    make_report(ledger)
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert made and all(path.is_relative_to(ledger.root / "report") for path in made)
    assert all(re.fullmatch(r"[a-z0-9_.-]+", path.name) for path in made), sorted(path.name for path in made)
    assert not Path("/tmp/bnsweep-up").exists()


def title_in_chromium(path: Path, tmp_path: Path) -> str:
    """Open a page in a real browser, let its scripts run, and return its title."""
    words = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run",
        f"--user-data-dir={tmp_path}/chromium", "--virtual-time-budget=3000", "--dump-dom", f"file://{path}",
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found, done.stdout[:500]
    return found[1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (Debian: chromium)")
def test_no_script_runs_in_a_browser(page: Path, tmp_path: Path) -> None:
    naive = tmp_path / "naive.html"
    naive.write_text(f"<!DOCTYPE html><html><head><title>quiet</title></head><body>{EVIL}</body></html>")
    assert title_in_chromium(naive, tmp_path) == "it ran", "the browser would run it"
    assert title_in_chromium(page, tmp_path) == "synthetic – bnsweep report"  # noqa: RUF001 (as it is printed)
