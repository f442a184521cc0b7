"""A store that is slow, busy, away, that lies or refuses: what becomes of what was asked."""

from __future__ import annotations

import gzip
import os
import time
from typing import Any

import pytest

from bnsweep.errors import LedgerError, StorageError
from bnsweep.sweep import object_store
from bnsweep.sweep.ledger import Ledger
from bnsweep.sweep.places import place
from bnsweep.sweep.records import Record
from bnsweep.sweep.stored_trials import StoredTrials
from bnsweep.trial import TrialConfig

ROWS = [(0, "x", 0, 1.0, 1), (10, "x", 0, 0.5, 2)]


def make_record(seed: int = 0) -> Record:
    return Record.of(TrialConfig.create({"norm": "batch", "seed": seed}), "completed", 10, {"x": 0.5})


@pytest.fixture
def ledger(s3: Any) -> Ledger:
    return Ledger.open(s3.storage, "demo", create=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(object_store, "FIRST_PATIENCE_SECONDS", 0.5)


@pytest.mark.parametrize("kind", ["500", "503", "drop", "lost", "slow"])
def test_a_commit_through_a_faulty_store_is_one_commit(s3: Any, ledger: Ledger, kind: str) -> None:
    """Each of the writes meets the fault more often than boto3 repeats a request at once."""
    s3.faults({"method": "PUT", "key": "trials", "kind": kind, "times": 7, "seconds": 0.5})
    assert ledger.write_record(make_record(), ROWS)
    assert len([line for line in s3.seen(beginning="PUT") if "trials" in line]) > 2 or kind == "slow"
    s3.faults()
    assert not ledger.write_record(make_record(), ROWS[:1])
    found = Ledger(ledger.root)
    assert found.done() == {make_record().trial_id} and len(found.curves(make_record().trial_id)) == 2
    assert found.warnings == []


def test_a_lost_answer_does_not_make_a_writer_of_one_who_was_second(s3: Any, ledger: Ledger) -> None:
    path = ledger.root / "lease-like"
    s3.faults({"method": "PUT", "kind": "lost", "times": 1})
    assert path.create(b"first")  # applied, answer lost, repeated, refused: and yet it is ours
    s3.faults({"method": "PUT", "kind": "lost", "times": 2})
    assert not path.create(b"second")
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("kind", ["500", "503", "drop", "torn", "slow"])
def test_reading_through_a_faulty_store_gives_what_is_there(s3: Any, ledger: Ledger, kind: str) -> None:
    ledger.write_record(make_record(), ROWS)
    ledger.write_pack("abc1", {})
    ledger.save_checkpoint("abc1", 5, lambda file: file.write(b"x" * 100_000))
    s3.faults({"method": "GET", "kind": kind, "times": 4, "seconds": 0.3})
    found = Ledger(ledger.root)
    assert found.load_checkpoint("abc1") == (5, b"x" * 100_000)
    assert found.done() == {make_record().trial_id} and found.failed() == {} and found.warnings == []


def test_a_checkpoint_through_a_faulty_store_is_whole(s3: Any, ledger: Ledger) -> None:
    ledger.write_pack("abc1", {})
    for step, kind in enumerate(("500", "lost", "drop", "503")):
        s3.faults({"method": "PUT", "kind": kind, "times": 3}, {"method": "DELETE", "kind": kind, "times": 1})
        ledger.save_checkpoint("abc1", step, lambda file, step=step: file.write(bytes([step]) * 50_000))
        assert Ledger(ledger.root).load_checkpoint("abc1") == (step, bytes([step]) * 50_000)
    assert len(list(ledger.pack_dir("abc1").glob("checkpoint.*"))) == 4


def test_a_store_that_is_away_is_an_error_of_the_ledger_and_nothing_is_lost(
    s3: Any, ledger: Ledger, impatient: None
) -> None:
    ledger.write_record(make_record(0), ROWS)
    ledger.write_pack("abc1", {"trials": []})
    ledger.save_checkpoint("abc1", 5, lambda file: file.write(b"good"))
    s3.faults({"kind": "503"})
    asked = [
        lambda: ledger.write_record(make_record(1), ROWS),
        lambda: ledger.save_checkpoint("abc1", 10, lambda file: file.write(b"bad")),
        lambda: ledger.seal_readings("abc1", 1, {make_record(1).trial_id: ROWS}),
        lambda: ledger.write_pack("abc2", {}),
        lambda: ledger.load_checkpoint("abc1"),
        lambda: ledger.record(make_record().trial_id),
        lambda: ledger.open_packs(),
        lambda: ledger.plan(),
        lambda: Ledger(ledger.root),
    ]
    for ask in asked:
        with pytest.raises(
            StorageError, match=r"must answer.*failed for \d+ s: .*(SlowDown|Unavailable)"
        ) as caught:
            ask()
        assert isinstance(caught.value, LedgerError) and "\n" not in str(caught.value)
    s3.faults()
    found = Ledger(ledger.root)
    assert found.done() == {make_record().trial_id} and found.load_checkpoint("abc1") == (5, b"good")
    assert found.warnings == ledger.warnings == []
    assert ledger.write_record(make_record(1), ROWS)


def test_a_store_that_comes_back_in_time_is_waited_for(s3: Any, ledger: Ledger) -> None:
    s3.faults({"kind": "drop", "times": 7})
    began = time.monotonic()
    assert ledger.write_record(make_record(), ROWS)
    assert time.monotonic() - began < object_store.PATIENCE_SECONDS


def test_a_store_that_ignores_the_condition_is_refused_before_anything_is_written(s3: Any) -> None:
    s3.faults({"method": "PUT", "kind": "unconditional"})
    with pytest.raises(LedgerError, match="must honour If-None-Match"):
        Ledger.open(s3.storage, "demo", create=True)
    assert [path.name for path in (place(s3.storage) / "demo").rglob("*")] == ["probe"]
    s3.faults()
    ledger = Ledger.open(s3.storage, "demo", create=True)
    s3.faults({"method": "PUT", "kind": "unconditional"})
    with pytest.raises(LedgerError, match="must honour If-None-Match"), ledger.exclusive():
        pytest.fail("two drivers could hold this sweep")


def test_a_store_that_knows_no_conditions_is_refused(s3: Any) -> None:
    s3.faults({"method": "PUT", "kind": "501"})
    with pytest.raises(StorageError, match=r"must accept what is asked.*NotImplemented"):
        Ledger.open(s3.storage, "demo", create=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_PROFILE", id="no-credentials"
        ),
        pytest.param({"AWS_PROFILE": "nobody"}, "AWS_PROFILE", id="no-such-profile"),
        pytest.param({"AWS_ENDPOINT_URL": "http://me:hush@127.0.0.1:9"}, "must answer", id="nobody-there"),
        pytest.param({"AWS_ENDPOINT_URL": "no url"}, "AWS_ENDPOINT_URL", id="no-url"),
    ],
)
def test_settings_that_lead_nowhere_are_said_without_a_secret(
    s3: Any, impatient: None, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(StorageError, match=message) as caught:
        Ledger.open(s3.storage, "demo", create=True)
    assert "hush" not in str(caught.value) and "test-secret-key" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_bucket_that_is_not_there_and_one_that_is_not_ours(s3: Any) -> None:
    with pytest.raises(StorageError, match="bucket must exist, but there is no nobodys-bucket"):
        Ledger.open("s3://nobodys-bucket/x", "demo", create=True)
    s3.faults({"kind": "403"})
    with pytest.raises(StorageError, match="credentials must allow s3:ListBucket"):
        Ledger.open(s3.storage, "demo", create=True)


def test_a_closed_pack_is_gone_at_once_and_its_rest_is_removed_by_the_next_driver(
    s3: Any, ledger: Ledger
) -> None:
    for pack_id in ("abc1", "abc2"):
        ledger.write_pack(pack_id, {"trials": []})
        ledger.save_checkpoint(pack_id, 5, lambda file: file.write(b"good"))
    (ledger.pack_dir("abc1") / "pack.json").unlink()  # killed after the first deletion
    fresh = Ledger.open(s3.storage, "demo", create=True)
    assert (
        fresh.pack_ids() == ["abc2"] and list(fresh.open_packs()) == ["abc2"] and not fresh.has_pack("abc1")
    )
    with fresh.exclusive():
        assert not fresh.pack_dir("abc1").exists()
    assert fresh.load_checkpoint("abc2") == (5, b"good")


def test_an_object_that_is_written_anew_while_it_is_moved_aside_stays(
    s3: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.write_record(make_record(), ROWS)
    path = ledger.root / "trials" / make_record().trial_id / "record.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    store = object_store.connection()
    real = store._client.copy_object

    def meanwhile(**options: Any) -> Any:
        answer = real(**options)
        if options["Key"].endswith("record.json"):
            path.write_bytes(whole)  # another worker has trained it again
        return answer

    monkeypatch.setattr(store._client, "copy_object", meanwhile)
    reader = Ledger(ledger.root)
    assert reader.record(make_record().trial_id) is None
    assert path.read_bytes() == whole and "could not be moved aside" in reader.warnings[0]


MANY = 130
"""Trials enough for an object of the index."""


def test_many_records_are_one_listing_and_are_read_once(s3: Any, ledger: Ledger) -> None:
    ledger.write_records((make_record(seed), ROWS) for seed in range(MANY))
    ids = {make_record(seed).trial_id for seed in range(MANY)}
    s3.faults()
    first = Ledger(ledger.root)
    assert {record.trial_id for record in first.records()} == ids
    asked = s3.seen()
    assert sum("list-type" in line and "trials" in line for line in asked) == 1
    assert sum("record.json" in line for line in asked) == MANY
    s3.faults()
    assert {record.trial_id for record in Ledger(ledger.root).records()} == ids
    asked = s3.seen()
    assert sum("record.json" in line for line in asked) == 2  # those that came after the index
    assert len(asked) == 6  # and the marker, two listings, the index
    assert first.done() == ids
    s3.faults()
    first.done()
    assert len(s3.seen()) == 1


def test_trials_of_many_pages_are_listed_side_by_side(
    s3: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.write_records((make_record(seed), ROWS) for seed in range(60))
    (ledger.root / "trials" / "Z-not-a-trial").write_bytes(b"")
    at_once = StoredTrials(ledger.root).listing()
    assert len(at_once) == 60 and all(len(own) == 2 for own in at_once.values())
    monkeypatch.setattr(object_store, "MOST_LISTED", 7)
    s3.faults({"method": "GET", "kind": "slow", "seconds": 0.3})
    began = time.monotonic()
    assert list(StoredTrials(ledger.root).listing().items()) == list(at_once.items())
    took, asked = time.monotonic() - began, len(s3.seen())
    assert asked > 18 and took < 0.3 * asked / 3
    s3.faults({"method": "GET", "key": s3.bucket, "kind": "503", "skip": 5, "times": 4})
    assert StoredTrials(ledger.root).listing() == at_once


def test_whoever_reads_few_records_at_a_time_makes_an_index_too(s3: Any, ledger: Ledger) -> None:
    reader = Ledger(ledger.root)
    for start in range(0, MANY, 26):
        ledger.write_records((make_record(seed), ROWS) for seed in range(start, start + 26))
        reader.done()
    s3.faults()
    assert len(Ledger(ledger.root).done()) == MANY
    assert sum("record.json" in line for line in s3.seen()) == 2


def test_the_index_is_never_trusted_blindly(s3: Any, ledger: Ledger) -> None:
    ledger.write_records((make_record(seed), ROWS) for seed in range(MANY))
    list(Ledger(ledger.root).records())
    (index,) = (ledger.root / "index").iterdir()
    path = ledger.root / "trials" / make_record(3).trial_id / "record.json"
    path.write_bytes(path.read_bytes().replace(b'"x": 0.5', b'"x": 9.5'))  # another version of one
    found = {record.seed: record for record in Ledger(ledger.root).records()}
    assert found[3].readings["x"] == 9.5 and found[4].readings["x"] == 0.5
    content = index.read_bytes()
    text = gzip.decompress(content)
    lie = text.replace(b'\\"x\\": 0.5', b'\\"x\\": 7.5')
    assert lie != text
    for damaged in (gzip.compress(lie), gzip.compress(b"[1]"), content[: len(content) // 2], b"x", b""):
        index.write_bytes(damaged)
        found = {record.seed: record for record in Ledger(ledger.root).records()}
        assert len(found) == MANY and found[4].readings["x"] == 0.5
        index.write_bytes(content)


def test_a_store_that_names_versions_otherwise_has_no_index(
    s3: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some encrypted buckets give versions that are not the MD5 of what was written."""
    from bnsweep.sweep import stored_trials

    ledger.write_records((make_record(seed), ROWS) for seed in range(MANY))
    monkeypatch.setattr(stored_trials, "_version", lambda text: "other")
    assert len(Ledger(ledger.root).done()) == MANY
    assert list((ledger.root / "index").iterdir()) == []


def test_a_listing_made_while_a_trial_is_committed_does_not_condemn_it(
    s3: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a listing in pages, an early one may lack the curves and a later one have the record."""
    ledger.write_record(make_record(), ROWS)
    reader = Ledger(ledger.root)
    store, real = object_store.connection(), object_store.ObjectStore.list

    def without_curves(self: Any, *words: Any, **options: Any) -> Any:
        objects, folders = real(self, *words, **options)
        return [facts for facts in objects if not facts.key.endswith("curves.parquet")], folders

    monkeypatch.setattr(type(store), "list", without_curves)
    assert [record.trial_id for record in reader.records()] == [
        make_record().trial_id
    ] and reader.warnings == []


def test_a_child_process_has_a_connection_of_its_own(s3: Any, ledger: Ledger) -> None:
    mine = object_store.connection()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        same = object_store.connection() is mine
        os.write(write, b"same" if same else Ledger(ledger.root).name.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"demo"
