"""One contract for the places where a ledger can lie, a folder and an S3 bucket, and what one alone has."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from bnsweep.errors import LedgerError
from bnsweep.sweep import files
from bnsweep.sweep.files import (
    link_bytes,
    move_file,
    names_in,
    on_disk,
    read_each,
    remove_folder,
    replace_bytes,
    scratch_file,
)
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.places import ObjectPath, Place, place, version


@pytest.fixture
def root(storage: str) -> Place:
    found = place(storage) / "a folder" / "ümläut+&%41"
    found.mkdir(parents=True)
    return found


def test_what_is_written_is_there(root: Place) -> None:
    replace_bytes(root / "one", b"1", root / "tmp")
    before = version(root / "one")
    replace_bytes(root / "one", b"22", root / "tmp")
    assert version(root / "one") != before
    assert (root / "one").read_bytes() == b"22" and (root / "one").stat().st_size == 2
    assert (root / "one").is_file() and not (root / "one").is_dir() and (root / "one").exists()
    assert not (root / "two").exists() and not (root / "two").is_file() and not (root / "on").exists()
    with pytest.raises(FileNotFoundError):
        (root / "two").read_bytes()
    with pytest.raises(FileNotFoundError):
        (root / "two").unlink()
    (root / "two").unlink(missing_ok=True)
    (root / "one").unlink()
    assert not (root / "one").exists()


def test_of_two_writers_the_first_wins(root: Place) -> None:
    assert link_bytes(root / "one", b"first", root / "tmp")
    assert not link_bytes(root / "one", b"second", root / "tmp")
    assert (root / "one").read_bytes() == b"first"


def test_of_many_writers_at_once_one_wins(root: Place) -> None:
    start = threading.Barrier(8)
    won: list[int] = []

    def write(n: int) -> None:
        start.wait()
        for round_ in range(10):
            if link_bytes(root / str(round_), b"%d" % n, root / "tmp"):
                won.append(round_)
                assert (root / str(round_)).read_bytes() == b"%d" % n

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(10))


def test_what_lies_where_is_listed(root: Place) -> None:
    names = [
        "packs/p1/pack.json",
        "packs/p1/readings.1.parquet",
        "packs/p2/pack.json",
        "packs/p10",
        "sweep.yaml",
    ]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(root / name, name.encode(), root.parent / "tmp")
    assert sorted(names_in(root)) == ["packs", "sweep.yaml"]
    assert sorted(names_in(root / "packs")) == ["p1", "p10", "p2"]
    assert names_in(root / "none") == [] and list((root / "none").glob("*")) == []
    assert sorted(path.name for path in (root / "packs" / "p1").iterdir()) == [
        "pack.json",
        "readings.1.parquet",
    ]
    assert sorted(str(path.relative_to(root)) for path in root.glob("packs/*/pack.json")) == [
        names[0],
        names[2],
    ]
    assert [path.name for path in (root / "packs" / "p1").glob("readings.*.parquet")] == [
        "readings.1.parquet"
    ]
    assert sorted(path.name for path in root.rglob("*.json")) == ["pack.json", "pack.json"]
    assert list(read_each([root / name for name in names])) == [name.encode() for name in names]
    found = list(read_each([root / "none", root / names[0]]))
    assert isinstance(found[0], FileNotFoundError) and found[1] == names[0].encode()


def test_a_folder_is_removed_whole_and_may_be_absent(root: Place) -> None:
    for name in ("pack.json", "checkpoint.1.json", "deep/er"):
        (root / "p1" / name).parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(root / "p1" / name, b"x", root / "tmp")
    replace_bytes(root / "p11", b"stays", root / "tmp")
    remove_folder(root / "p1", root / "tmp", first="pack.json")
    remove_folder(root / "p1", root / "tmp", first="pack.json")
    assert not (root / "p1").exists() and (root / "p11").exists()


def test_names_are_those_of_a_path(root: Place) -> None:
    path = root / "readings.10.parquet"
    assert (path.name, path.stem, path.suffix) == ("readings.10.parquet", "readings.10", ".parquet")
    assert path.parent == root and str(path) == f"{root}/readings.10.parquet"
    assert pickle.loads(pickle.dumps(path)) == path and hash(path) == hash(root / "readings.10.parquet")
    assert sorted([root / "b", root / "a"]) == [root / "a", root / "b"]
    assert place(str(path)) == path and path.resolve() == path


def test_a_scratch_file_of_any_size_gets_its_name(root: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnsweep.sweep.object_store._MULTIPART_BYTES", 5 * 2**20)
    for size in (0, 1000, 11 * 2**20):
        content = os.urandom(size)
        with scratch_file(root / "tmp") as (path, file):
            file.write(content)
            file.flush()
            move_file(path, root / "checkpoint")
            assert not path.exists() or isinstance(root, ObjectPath)
        assert (root / "checkpoint").read_bytes() == content and not path.exists()


def test_a_file_or_folder_is_given_to_programs_that_take_a_path(root: Place) -> None:
    for name in ("report/report.html", "report/figures/one.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(root / name, name.encode(), root / "tmp")
    with on_disk(root / "report") as copy:
        assert (
            copy.name == "report" and (copy / "figures" / "one.png").read_text() == "report/figures/one.png"
        )
    with on_disk(root / "report" / "report.html") as copy:
        assert copy.name == "report.html" and copy.read_text() == "report/report.html"


@pytest.mark.parametrize(
    "text",
    [
        "gs://bucket/x",
        "https://host/x",
        "s3://",
        "s3://b",
        "s3://lab//x",
        "s3://lab/../x",
        "s3://key:secret@lab/x",
    ],
)
def test_what_is_no_address_of_ours_is_refused_without_a_secret(text: str) -> None:
    with pytest.raises(LedgerError, match="storage must be") as caught:
        place(text)
    assert "secret" not in str(caught.value)


def test_an_address_that_went_through_a_path_is_found_again() -> None:
    assert place(Path("s3://lab/sweeps/demo")) == ObjectPath("lab", "sweeps/demo")


# -- file systems shared by machines ----------------------------------------------------------------


def test_a_link_whose_answer_was_lost_is_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS sends a request again where the answer was lost; the second answer says that the file exists."""
    real = os.link

    def twice(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert link_bytes(tmp_path / "record.json", b"mine", tmp_path / "tmp")
    assert not link_bytes(tmp_path / "record.json", b"yours", tmp_path / "tmp")
    assert (tmp_path / "record.json").read_bytes() == b"mine"
    assert (tmp_path / "record.json").stat().st_nlink == 1


def make_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str) -> Ledger:
    """Return a reader whose first look at ``hidden`` does not show it, as a cache of attributes may."""
    ledger = Ledger.open(tmp_path, "demo", create=True)
    for n in range(4):
        ledger.search_log.append("suggest", trials=[], n=n)
    real, looks = Path.read_bytes, []

    def read(path: Path) -> bytes:
        if path.name == hidden and not looks:
            looks.append(path)
            raise FileNotFoundError(2, "No such file", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    return Ledger(ledger.root)


def test_a_reader_that_does_not_see_an_event_yet_moves_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = make_search(tmp_path, monkeypatch, "00000001.json")
    assert [event["n"] for event in reader.search_log.read()] == [0]
    assert reader.warnings == []
    assert [event["n"] for event in reader.search_log.read()] == [0, 1, 2, 3]


def test_events_written_while_a_reader_lists_them_are_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing may show a later file and not an earlier one, where both are made while it goes on."""
    ledger = Ledger.open(tmp_path, "demo", create=True)
    for n in range(3):
        ledger.search_log.append("suggest", trials=[], n=n)
    reader, real = Ledger(ledger.root), names_in
    monkeypatch.setattr(
        "bnsweep.sweep.search_log.names_in",
        lambda folder: [name for name in real(folder) if "1.json" not in name],
    )
    assert [event["n"] for event in reader.search_log.read()] == [0, 1]
    monkeypatch.undo()
    assert [event["n"] for event in reader.search_log.read()] == [0, 1, 2] and reader.warnings == []


def test_a_reader_that_sees_an_old_size_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnsweep.sweep.records import Record
    from bnsweep.trial import TrialConfig

    ledger = Ledger.open(tmp_path, "demo", create=True)
    record = Record.of(TrialConfig.create({"norm": "batch", "seed": 0}), "completed", 1, {"x": 1.0})
    ledger.write_record(record, [(0, "x", 0, 1.0, 1)])
    real: Any = os.stat
    old: list[str] = []

    def stat(path: Any, *more: Any, **options: Any) -> Any:
        if str(path).endswith("curves.parquet") and not old:
            old.append(str(path))
            return real(tmp_path / "demo" / "ledger.json")
        return real(path, *more, **options)

    monkeypatch.setattr(os, "stat", stat)
    reader = Ledger(ledger.root)
    assert reader.record(record.trial_id) is not None and reader.warnings == [] and old


def test_a_local_ledger_needs_no_boto3() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['boto3'] = sys.modules['botocore'] = None\n"
        "from bnsweep.sweep.ledger import Ledger\n"
        "Ledger.open(sys.argv[1], 'demo', create=True)\n"
        "try: Ledger.open('s3://lab/x', 'demo', create=True)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    folder = files.tempfile.mkdtemp()
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("StorageError") and "pip install 'bnsweep[s3]'" in done.stdout
