"""The ledger: what was committed is there, what is damaged does not count, nothing else is touched."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bnsweep.errors import LedgerError
from bnsweep.sweep.curves import CurveRow, first_rows, rows_of
from bnsweep.sweep.files import clean_scratch
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.places import Place, place
from bnsweep.sweep.records import Record, aggregate_value
from bnsweep.trial import TrialConfig, TrialState

ROWS = [
    CurveRow(0, "train_loss", 0, 2.5, 1000),
    CurveRow(0, "ics/l2", 3, 0.25, 1001),
    CurveRow(10, "train_loss", 0, math.nan, 2000),
    CurveRow(10, "ics/l2", 3, math.inf, 2001),
]


@pytest.fixture
def ledger(storage: str) -> Ledger:
    return Ledger.open(storage, "demo", create=True)


@pytest.fixture
def on_disk(tmp_path: Path) -> Ledger:
    """A ledger in a folder, for what a store has no counterpart of."""
    return Ledger.open(tmp_path / "results", "demo", create=True)


def scratch(ledger: Ledger) -> list[str]:
    """Return what lies in the scratch folder; a store's has the object that tells whether it can be used."""
    return [path.name for path in (ledger.root / "tmp").iterdir() if path.name != "probe"]


def make_record(seed: int = 0, **changes: Any) -> Record:
    config = TrialConfig.create({"norm": "batch", "seed": seed}, {"ics": {}})
    record = Record.of(config, TrialState.COMPLETED, 10, {"test_accuracy": 0.75, "train_loss": math.nan})
    return replace(record, attempts=({"started": "2026-01-01T00:00:00.000Z"},), **changes)


def plan_of(*seeds: int) -> dict[str, Any]:
    trials = [make_record(seed).config for seed in seeds]
    return {
        "name": "demo",
        "trials": [{"trial_id": t.trial_id, "label": t.label(), **t.to_dict()} for t in trials],
    }


def test_a_record_and_its_curves_come_back(ledger: Ledger) -> None:
    record = make_record()
    assert ledger.write_record(record, reversed(ROWS))
    found = Ledger(ledger.root).record(record.trial_id)
    assert found is not None
    assert (found.parameters, found.probes, found.state) == (record.parameters, record.probes, record.state)
    assert found.config.trial_id == record.trial_id
    assert found.readings["test_accuracy"] == 0.75 and math.isnan(found.readings["train_loss"])
    table = ledger.curves(record.trial_id)
    assert [repr(row) for row in rows_of(table)] == [repr(ROWS[i]) for i in (1, 0, 3, 2)]
    assert {str(field.type) for field in table.schema if field.name in ("step", "layer")} == {
        "int32",
        "int16",
    }
    assert ledger.done() == {record.trial_id} and ledger.warnings == []


def test_the_record_is_plain_json_without_nan_or_absolute_paths(ledger: Ledger) -> None:
    record = make_record()
    ledger.write_record(record, ROWS)
    ledger.write_sweep("name: demo\n", plan_of(0))
    text = (ledger.root / "trials" / record.trial_id / "record.json").read_text()
    content = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert content["readings"]["train_loss"] == "nan"
    required = "trial_id parameters state steps diverged_step readings attempts environment written_at"
    assert set(required.split()) <= content.keys()
    assert all(str(ledger.root) not in path.read_text() for path in ledger.root.rglob("*.json"))


def test_the_first_writer_wins(ledger: Ledger) -> None:
    first, second = make_record(), make_record(readings={"test_accuracy": 0.1})
    assert ledger.write_record(first, ROWS)
    assert not ledger.write_record(second, ROWS[:1])
    found = ledger.record(first.trial_id)
    assert found is not None and found.readings["test_accuracy"] == 0.75
    assert len(ledger.curves(first.trial_id)) == 4


@pytest.mark.parametrize("same", [True, False], ids=["equal-but-for-time", "different"])
def test_curves_left_by_a_killed_writer_are_kept_where_equal(ledger: Ledger, same: bool) -> None:
    record = make_record()
    ledger.write_record(record, ROWS)
    (ledger.root / "trials" / record.trial_id / "record.json").unlink()
    again = [row._replace(time_ms=row.time_ms + 5, value=row.value if same else 1.0) for row in ROWS]
    assert ledger.write_record(record, again)
    table = ledger.curves(record.trial_id)
    assert table["time_ms"].to_pylist()[0] == (1000 if same else 1005)
    assert ledger.warnings == []


def test_many_writers_of_one_trial_leave_one_whole_record(ledger: Ledger) -> None:
    code = (
        "import sys; from bnsweep.sweep.ledger import Ledger; from bnsweep.sweep.records import Record\n"
        "from bnsweep.trial import TrialConfig\n"
        "record = Record.of(TrialConfig.create({'norm': 'batch'}), 'completed', 1, {'x': 1.0})\n"
        "sys.stdin.readline()\n"
        "rows = [(0, 'x', 0, 1.0, int(sys.argv[2]))]\n"
        "print(Ledger(sys.argv[1]).write_record(record, rows))\n"
    )
    command = [sys.executable, "-c", code, str(ledger.root)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, str(n)], **pipes) for n in range(3)]
    answers = [writer.communicate("go\n")[0].strip() for writer in writers]
    assert sorted(answers) == ["False"] * 2 + ["True"]
    assert len(ledger.done()) == 1
    assert len(ledger.read_all_curves()) == 1 and ledger.warnings == []


def _cut(path: Place) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _unlink(path: Place) -> None:
    path.unlink()


def _flip(path: Place) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _rename_trial(path: Place) -> None:
    path.write_text(path.read_text().replace(path.parent.name, "0" * 16))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param("record.json", _cut, id="record-cut"),
        pytest.param("record.json", lambda path: path.write_bytes(b""), id="record-empty"),
        pytest.param("record.json", lambda path: path.write_text("[" * 100_000), id="record-nested"),
        pytest.param("record.json", lambda path: path.write_text("[]"), id="record-a-list"),
        pytest.param("record.json", lambda path: path.write_text('{"schema": 1}'), id="record-without-keys"),
        pytest.param("record.json", _rename_trial, id="record-of-another-trial"),
        pytest.param("curves.parquet", _cut, id="curves-cut"),
        pytest.param("curves.parquet", _flip, id="curves-flipped"),
        pytest.param("curves.parquet", _unlink, id="curves-absent"),
    ],
)
def test_a_damaged_trial_is_moved_aside_and_pending(ledger: Ledger, name: str, damage: Any) -> None:
    record, whole = make_record(0), make_record(1)
    for each in (record, whole):
        ledger.write_record(each, ROWS)
    damage(ledger.root / "trials" / record.trial_id / name)
    fresh = Ledger(ledger.root)
    assert set(fresh.read_all_curves()["trial_id"].to_pylist()) == {whole.trial_id}
    assert fresh.record(record.trial_id) is None and fresh.done() == {whole.trial_id}
    assert len(fresh.warnings) == 1 and record.trial_id in fresh.warnings[0]
    (place,) = (fresh.root / "quarantine").iterdir()
    assert json.loads((place / "reason.json").read_text())["reason"]
    assert fresh.write_record(record, ROWS) and len(fresh.curves(record.trial_id)) == 4


@pytest.mark.parametrize("name", ["ledger.json", "record.json"])
def test_a_newer_version_is_refused_and_left_alone(ledger: Ledger, name: str) -> None:
    record = make_record()
    ledger.write_record(record, ROWS)
    path = next(ledger.root.rglob(name))
    text = path.read_text().replace('"schema": 1', '"schema": 2')
    path.write_text(text)
    with pytest.raises(LedgerError, match="newer version"):
        Ledger(ledger.root).record(record.trial_id)
    assert path.read_text() == text


def test_a_damaged_marker_never_starts_a_new_ledger(ledger: Ledger) -> None:
    (ledger.root / "ledger.json").write_text("{")
    with pytest.raises(LedgerError, match=r"cannot be read"):
        Ledger.open(ledger.root.parent, "demo", create=True)


def test_a_foreign_folder_is_refused_and_left_alone(storage: str) -> None:
    foreign = place(storage) / "demo"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(LedgerError, match=r"holds other files"):
        Ledger.open(storage, "demo", create=True)
    assert [path.name for path in foreign.iterdir() if path.name != "tmp"] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        pytest.param("gs://bucket/results", "or s3://bucket/prefix", id="another-store"),
        pytest.param("/proc/results", "cannot be made", id="not-writable"),
        pytest.param("/dev/null/results", "cannot be made", id="under-a-file"),
    ],
)
def test_storage_that_cannot_be_a_folder_is_refused(storage: str, message: str) -> None:
    with pytest.raises(LedgerError, match=message) as caught:
        Ledger.open(storage, "demo", create=True)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_ledger_is_refused_for_writing_and_read(on_disk: Ledger) -> None:
    ledger = on_disk
    ledger.write_record(make_record(), ROWS)
    folders = [ledger.root, ledger.root / "tmp"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with pytest.raises(LedgerError, match="writable"):
            Ledger.open(ledger.root.parent, "demo", create=True)
        assert len(Ledger.open(ledger.root.parent, "demo").done()) == 1
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_an_absent_sweep_is_named(storage: str) -> None:
    with pytest.raises(LedgerError, match="no sweep was run there"):
        Ledger.open(storage, "demo")
    assert not place(storage).exists()


@pytest.mark.parametrize("name", ["../etc", "a/b", "", ".", "UPPER", "a" * 65, "/tmp", "a\n"])
def test_no_name_leads_out_of_the_storage(ledger: Ledger, name: str) -> None:
    with pytest.raises(LedgerError, match="name must match"):
        Ledger.open(ledger.root.parent, name, create=True)
    with pytest.raises(ValueError, match="trial_id"):
        ledger.record(name)
    with pytest.raises(ValueError, match="pack_id"):
        ledger.pack_dir(name)
    with pytest.raises(ValueError, match="trial_id"):
        ledger.write_record(make_record(trial_id=name), ROWS)


def test_a_symbolic_link_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, "demo", create=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (ledger.root / "trials").rmdir()
    (ledger.root / "trials").symlink_to(elsewhere)
    with pytest.raises(LedgerError, match="symbolic link"):
        Ledger.open(tmp_path, "demo", create=True)


def test_foreign_names_among_the_trials_do_not_count(ledger: Ledger) -> None:
    (ledger.root / "trials" / "lost+found").mkdir()
    (ledger.root / "trials" / "lost+found" / "record.json").write_text("{}")
    (ledger.root / "trials" / ("f" * 16)).write_text("a file, not a folder")
    assert ledger.done() == set() and ledger.failed() == {} and list(ledger.records()) == []


def test_a_moved_ledger_is_whole(ledger: Ledger, storage: str) -> None:
    record = make_record()
    ledger.write_record(record, ROWS)
    moved = place(storage) / "moved"
    if isinstance(moved, Path):
        ledger.root.rename(moved)
    else:  # as aws s3 mv --recursive does it
        for path in ledger.root.walk():
            path.rename(moved / path.relative_to(ledger.root))
    assert Ledger(moved).done() == {record.trial_id} and len(Ledger(moved).read_all_curves()) == 4


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"state": TrialState.FAILED}, id="failed"),
        pytest.param({"state": TrialState.DIVERGED}, id="diverged-without-step"),
        pytest.param({"diverged_step": 3}, id="step-without-divergence"),
        pytest.param({"steps": -1}, id="negative-steps"),
        pytest.param({"last_finite_loss": math.inf}, id="infinite-loss"),
        pytest.param({"parameters": {}}, id="no-seed"),
    ],
)
def test_an_impossible_record_is_not_written(ledger: Ledger, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ledger.write_record(make_record(**changes), ROWS)
    assert list(ledger.root.rglob("*.parquet")) == []


@pytest.mark.parametrize("row", [(1, "x", 0, 0.5), ("1", "x", 0, 0.5, 0), (2**40, "x", 0, 0.5, 0)], ids=repr)
def test_a_malformed_row_is_named(ledger: Ledger, row: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="curve row must be"):
        ledger.write_record(make_record(), [row])


def test_read_all_curves_filters_by_name_and_trial(ledger: Ledger) -> None:
    for seed in range(3):
        ledger.write_record(make_record(seed), ROWS)
    wanted = [make_record(2).trial_id, make_record(0).trial_id, make_record(9).trial_id]
    table = ledger.read_all_curves(wanted, ["ics/l2"])
    assert table["trial_id"].to_pylist() == [wanted[0]] * 2 + [wanted[1]] * 2
    assert set(table["name"].to_pylist()) == {"ics/l2"}
    assert ledger.read_all_curves([]).num_rows == 0
    assert ledger.read_all_curves([]).column_names == table.column_names


def test_sweep_versions_are_kept(ledger: Ledger) -> None:
    assert ledger.write_sweep("seeds: 1\n", plan_of(0))
    assert not ledger.write_sweep("seeds: 1\n", plan_of(0))
    assert ledger.write_sweep("seeds: 2\n", plan_of(0, 1))
    assert ledger.write_sweep("seeds: 3\n", plan_of(0, 1, 2))
    assert ledger.sweep_text() == "seeds: 3\n"
    assert [(ledger.root / f"sweep.{n}.yaml").read_text() for n in (1, 2)] == ["seeds: 1\n", "seeds: 2\n"]
    assert [trial.config.seed for trial in ledger.planned()] == [0, 1, 2]
    assert ledger.plan()["name"] == "demo"
    with pytest.raises(ValueError, match="must have trials"):
        ledger.write_sweep("seeds: 4\n", {"name": "demo"})


def test_failures_are_numbered_and_end_with_a_record(ledger: Ledger) -> None:
    record = make_record()
    assert [ledger.write_failure(record.trial_id, f"Error {n}", attempt=n) for n in (1, 2)] == [1, 2]
    assert [item["traceback"] for item in ledger.failures(record.trial_id)] == ["Error 1", "Error 2"]
    assert ledger.failed() == {record.trial_id: 2} and ledger.done() == set()
    ledger.write_record(record, ROWS)
    assert ledger.failed() == {}


def test_what_a_killed_worker_left_half_written_goes_when_the_driver_leaves(on_disk: Ledger) -> None:
    scratch_folder = Path(str(on_disk.root)) / "tmp"
    code = (
        "import os, sys; from bnsweep.sweep.files import scratch_file; from pathlib import Path\n"
        "with scratch_file(Path(sys.argv[1])) as (_, file): file.write(b'half'); os._exit(9)"
    )
    with on_disk.exclusive():
        subprocess.run([sys.executable, "-c", code, str(scratch_folder)], check=False)
        assert len(scratch(on_disk)) == 1
    assert scratch(on_disk) == []


@pytest.mark.parametrize("opened", range(4))
def test_a_kill_while_packs_are_opened_leaves_no_trial_for_another_pack(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, opened: int
) -> None:
    contents = {f"pack{n}": {"members": [f"{n}a", f"{n}b"]} for n in range(3)}

    class Killed(BaseException):
        pass

    left, write = iter(range(opened)), ledger._write_pack

    def killed(pack_id: str, content: Any) -> bool:
        if next(left, None) is None:
            raise Killed
        return write(pack_id, content)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_write_pack", killed)
        try:
            ledger.write_packs(contents)
        except Killed:
            assert opened < 3
    reader = Ledger(ledger.root)
    assert len(reader.open_packs()) <= opened
    reader.finish_opening()
    assert {name: content["members"] for name, content in reader.open_packs().items()} == {
        name: content["members"] for name, content in contents.items()
    }
    reader.close_pack("pack1")
    reader.finish_opening()
    assert list(reader.open_packs()) == ["pack0", "pack2"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"schema": 1, "packs": {"../x": {}}}', b'{"packs": {}}']
)
def test_a_damaged_list_of_packs_to_open_is_moved_aside(on_disk: Ledger, content: bytes) -> None:
    note = Path(str(on_disk.root)) / "opening.json"
    note.write_bytes(content)
    on_disk.finish_opening()
    assert on_disk.open_packs() == {} and not note.exists()
    assert len(on_disk.warnings) == 1 and "packs to open" in on_disk.warnings[0]


def test_checkpoints_keep_two_and_return_the_newest(ledger: Ledger) -> None:
    assert ledger.write_pack("abc1", {"trials": ["x"]}) and not ledger.write_pack("abc1", {"trials": []})
    assert ledger.load_checkpoint("abc1") is None
    for step in (5, 10, 100):
        ledger.save_checkpoint("abc1", step, lambda file, step=step: file.write(b"%d" % step))
    assert ledger.load_checkpoint("abc1") == (100, b"100")
    assert len(list(ledger.pack_dir("abc1").glob("checkpoint.*"))) == 4
    assert ledger.open_packs() == {"abc1": {"schema": 1, "trials": ["x"]}}
    assert ledger.read_pack("abc1")["trials"] == ["x"]
    ledger.close_pack("abc1")
    ledger.close_pack("abc1")
    assert ledger.open_packs() == {} and not ledger.pack_dir("abc1").exists()
    with pytest.raises(LedgerError, match="cannot be read"):
        ledger.read_pack("abc1")


@pytest.mark.parametrize("pattern", ["checkpoint.10.*.bin", "checkpoint.10.json"])
@pytest.mark.parametrize("damage", [_cut, _flip, _unlink], ids=["cut", "flipped", "deleted"])
def test_a_damaged_checkpoint_falls_back(ledger: Ledger, pattern: str, damage: Any) -> None:
    ledger.write_pack("abc1", {})
    for step in (5, 10):
        ledger.save_checkpoint("abc1", step, lambda file, step=step: file.write(bytes([step]) * 999))
    (path,) = ledger.pack_dir("abc1").glob(pattern)
    damage(path)
    assert ledger.load_checkpoint("abc1") == (5, b"\x05" * 999)
    gone_without_trace = damage is _unlink and pattern.endswith("json")
    assert len(ledger.warnings) == (0 if gone_without_trace else 1)
    ledger.save_checkpoint("abc1", 10, lambda file: file.write(b"again"))
    assert ledger.load_checkpoint("abc1") == (10, b"again")


def test_a_manifest_cannot_name_a_file_elsewhere(ledger: Ledger, tmp_path: Path) -> None:
    ledger.write_pack("abc1", {})
    ledger.save_checkpoint("abc1", 5, lambda file: file.write(b"good"))
    path = ledger.pack_dir("abc1") / "checkpoint.5.json"
    path.write_text(path.read_text().replace('"checkpoint.5.', '"../../checkpoint.5.'))
    assert ledger.load_checkpoint("abc1") is None and len(ledger.warnings) == 1


def test_a_failing_writer_leaves_the_older_checkpoint(ledger: Ledger) -> None:
    ledger.write_pack("abc1", {})
    ledger.save_checkpoint("abc1", 5, lambda file: file.write(b"good"))

    def fail(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(LedgerError, match="No space left"):
        ledger.save_checkpoint("abc1", 10, fail)
    assert ledger.load_checkpoint("abc1") == (5, b"good")
    assert scratch(ledger) == []


def test_sealed_readings_keep_the_first_time_of_a_step_done_again(ledger: Ledger) -> None:
    trial_id = make_record().trial_id
    ledger.write_pack("abc1", {})
    ledger.seal_readings("abc1", 1, {trial_id: ROWS[:2]})
    ledger.seal_readings("abc1", 2, {trial_id: ROWS[2:]})
    again = [row._replace(time_ms=9999) for row in ROWS[1:]] + [CurveRow(20, "train_loss", 0, 1.0, 9999)]
    ledger.seal_readings("abc1", 2, {trial_id: again})
    times = {(row.step, row.name): row.time_ms for row in ledger.sealed("abc1")[trial_id]}
    assert times == {(r.step, r.name): r.time_ms for r in ROWS} | {(20, "train_loss"): 9999}
    assert [n for n, _ in ledger.sealed_files("abc1")] == [1, 2, 3]
    assert len(ledger.sealed("abc1", after=2)[trial_id]) == 1
    _cut(ledger.pack_dir("abc1") / "readings.2.parquet")
    assert len(ledger.sealed("abc1")[trial_id]) == 3 and len(ledger.warnings) == 1


def test_first_rows_keeps_nan_and_layers_apart() -> None:
    rows = [(1, "a", 0, math.nan, 5), (1, "a", 0, 1.0, 6), (1, "a", 1, 2.0, 7), (0, "b", 0, 3.0, 8)]
    assert [(row.step, row.name, row.layer, row.time_ms) for row in first_rows(rows)] == [
        (0, "b", 0, 8), (1, "a", 0, 5), (1, "a", 1, 7),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        pytest.param("test_accuracy", {}, 0.1, id="accuracy-is-chance"),
        pytest.param("test_loss", {"last_finite_loss": 1.0}, math.log(10), id="loss-at-least-chance"),
        pytest.param("test_loss", {"last_finite_loss": 9.0}, 9.0, id="loss-last-finite"),
        pytest.param("test_accuracy", {"data": {"classes": 4}}, 0.25, id="classes-on-record"),
        pytest.param("ics/l2", {}, None, id="infinite-reading-left-out"),
    ],
)
def test_what_a_diverged_trial_counts_as(name: str, changes: dict[str, Any], expected: float | None) -> None:
    record = make_record(state=TrialState.DIVERGED, diverged_step=3, readings={"ics/l2": math.inf}, **changes)
    assert aggregate_value(record, name) == (None if expected is None else pytest.approx(expected))


WRITER = """
import sys, itertools
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.records import Record
from bnsweep.trial import TrialConfig
ledger = Ledger(sys.argv[1])
ledger.write_pack("abc1", {"trials": []})
import pyarrow.parquet
print("ready", flush=True)
for n in itertools.count(int(sys.argv[2])):
    ledger.seal_readings("abc1", n, {"0" * 16: [(n, "x", 0, 1.0, n)]})
    ledger.save_checkpoint("abc1", n, lambda file: file.write(b"%d." % n * 50_000))
    record = Record.of(TrialConfig.create({"norm": "batch", "seed": n}), "completed", n, {"x": 1.0})
    if ledger.write_record(record, [(n, "x", 0, 1.0, n)]):
        print(record.trial_id, n, flush=True)
"""


def test_sigkill_at_any_moment_loses_nothing_acknowledged(storage: str) -> None:
    root = Ledger.open(storage, "demo", create=True).root
    acknowledged: set[str] = set()
    checkpoint = -1
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), str(1000 * attempt)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        text = process.stdout.readline()
        time.sleep(0.03 * attempt)
        process.send_signal(signal.SIGKILL)
        text += process.communicate()[0]
        lines = [line.split() for line in text.splitlines() if line.count(" ") == 1]
        acknowledged |= {line[0] for line in lines}
        checkpoint = max([checkpoint, *(int(line[1]) for line in lines)])
        ledger = Ledger.open(storage, "demo", create=True)
        assert scratch(ledger) == []
        assert acknowledged <= ledger.done()
        step, content = ledger.load_checkpoint("abc1") or (-1, b"")
        assert step >= checkpoint and content == b"%d." % step * 50_000
        assert ledger.read_all_curves().num_rows == len(ledger.done())
        assert len(ledger.sealed("abc1")["0" * 16]) >= len(ledger.done())
        assert ledger.warnings == []
    assert len(acknowledged) >= 3


def test_scratch_files_of_living_processes_and_other_hosts_stay(on_disk: Ledger) -> None:
    ledger, scratch = on_disk, on_disk.root / "tmp"
    host = clean_host(ledger)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f"{host}.{dead.pid}.aa", f"{host}.{os.getpid()}.bb", f"00000000.{dead.pid}.cc"):
        (scratch / name).write_text("")
    assert clean_scratch(scratch) == 1
    assert sorted(path.suffix for path in scratch.iterdir()) == [".bb", ".cc"]


def clean_host(ledger: Ledger) -> str:
    names: list[str] = []
    ledger.write_pack("abc1", {})
    look = lambda file: names.extend(path.name for path in (ledger.root / "tmp").iterdir())  # noqa: E731
    ledger.save_checkpoint("abc1", 1, look)
    return names[0].split(".")[0]


def test_a_pack_closed_meanwhile_is_no_damage(tmp_path, monkeypatch):
    ledger = Ledger.open(tmp_path, "sweep", create=True)
    ledger.write_pack("p1", {"members": []})
    is_file = Path.is_file

    def closing(path):
        found = is_file(path)
        if path.name == "pack.json" and found:
            path.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", closing)
    assert ledger.open_packs() == {}
    assert not ledger.warnings


def test_counting_states_opens_each_record_once_and_nothing_else_of_a_trial(on_disk: Ledger) -> None:
    ledger = on_disk
    ledger.write_sweep("x", plan_of(*range(6)))
    for seed in range(4):
        ledger.write_record(make_record(seed), ROWS)
    ledger.write_failure(make_record(4).trial_id, "Traceback")
    code = (
        "import collections, os, sys\n"
        "from bnsweep import api\n"
        "seen = collections.Counter()\n"
        "def watch(event, arguments):\n"
        "    place = str(arguments[0]) if event in ('open', 'os.listdir', 'os.scandir') else ''\n"
        "    if '/trials' in place: seen[event, os.path.basename(place)] += 1\n"
        "sys.addaudithook(watch)\n"
        "states = api.status(sys.argv[1]).states\n"
        "print(dict(states), sorted(seen.items()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(ledger.root)], capture_output=True, text=True, check=True
    )
    failed = make_record(4).trial_id
    reads = [(("open", "record.json"), 6), (("os.listdir", failed), 1), (("os.listdir", "trials"), 1)]
    states = {"completed": 4, "failed": 1, "pending": 1}
    assert found.stdout.strip() == f"{states} {sorted(reads)}"


def test_readings_kept_by_name_are_those_of_each_trial_across_groups(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnsweep.sweep.ledger._JOINED", 2)
    records = [make_record(seed) for seed in range(5)]
    for record in records:
        ledger.write_record(record, [(0, "train_loss", 0, float(record.seed), 1), (0, "ics/l2", 1, 9.0, 1)])
    wanted = [record.trial_id for record in records]
    table = ledger.read_all_curves(wanted, ["train_loss"])
    assert table["trial_id"].to_pylist() == wanted
    assert table["value"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert table.column_names == ledger.read_all_curves([]).column_names


def test_packs_are_listed_without_reading_them(ledger: Ledger) -> None:
    for pack_id in ("b2", "a1"):
        ledger.write_pack(pack_id, {"members": []})
    (ledger.root / "packs" / "c3").mkdir()
    (ledger.root / "packs" / "a1" / "pack.json").write_text("torn")
    assert ledger.pack_ids() == ["a1", "b2"]
    assert list(ledger.open_packs()) == ["b2"]
    assert ledger.pack_ids() == ["b2"]
