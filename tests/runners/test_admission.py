"""What must hold on every machine of a cluster, judged by what machines answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bnsweep.errors import BnsweepError
from bnsweep.runners import admission, node_probe
from bnsweep.sweep.places import place
from bnsweep.trial import TrialConfig

Answers = dict[str, dict[str, Any]]


def machine(host: str, **said: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a machine that looks around as a real one does, on this disk, and says some things otherwise."""

    def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        return node_probe.look_around({"packages": ("torch",), "answer": host, **request}) | {
            "host": host,
            **said,
        }

    return answer


def cluster(
    *machines: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> Callable[[Mapping[str, Any]], Answers]:
    def look(request: Mapping[str, Any]) -> Answers:
        found = [each(request) for each in machines]
        return {one["host"]: one for one in found}

    return look


def elsewhere(folder: Path) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a machine that has a disk of its own under the same name."""

    def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        if "folder" in request:
            request = {**request, "folder": str(folder / Path(request["folder"]).name)}
        return machine("far")(request)

    return answer


def test_a_shared_folder_is_written_everywhere_and_nothing_is_left(tmp_path: Path) -> None:
    admission.check_shared(cluster(machine("a"), machine("b")), tmp_path / "new" / "results", "The folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    admission.check_shared(cluster(machine("a")), tmp_path / "there", "The folder")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_a_machine_with_a_disk_of_its_own_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    with pytest.raises(BnsweepError, match=r"^The folder must be shared .* far says No such file") as error:
        admission.check_shared(cluster(machine("near"), elsewhere(tmp_path / "far")), folder, "The folder")
    assert "near" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_a_machine_writes_must_be_seen_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "SEEN_SECONDS", 0.3)

    def silent(request: Mapping[str, Any]) -> dict[str, Any]:
        return {"host": "far", "shared": ""}

    with pytest.raises(BnsweepError, match="what far writes there is not seen here"):
        admission.check_shared(cluster(machine("near"), silent), tmp_path / "results", "The folder")


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        BnsweepError, match=r"The folder must be writable, but writing in .* failed: Not a dir"
    ):
        admission.check_shared(cluster(), tmp_path / "file" / "results", "The folder")


def test_a_store_is_shared_unless_it_forgets_conditions(s3: Any) -> None:
    folder = place(s3.storage)
    admission.check_shared(cluster(machine("a"), machine("b")), folder, "The folder")
    assert list(folder.walk()) == []
    s3.faults({"method": "PUT", "key": "probe", "kind": "unconditional"})
    with pytest.raises(BnsweepError, match="two drivers could not be kept apart"):
        admission.check_shared(cluster(machine("a")), folder, "The folder")
    assert list(folder.walk()) == []


def test_results_and_a_sqlite_store_are_looked_at_apart(tmp_path: Path) -> None:
    asked: list[str] = []

    def look(request: Mapping[str, Any]) -> Answers:
        asked.append(str(Path(request["folder"]).parent))
        return cluster(machine("a"))(request)

    results, store = tmp_path / "results", tmp_path / "store"
    admission.check_storage(look, str(results), f"sqlite:///{store}/mlflow.db")
    admission.check_storage(look, str(results), f"sqlite:///{results}/mlflow.db")
    admission.check_storage(look, str(results), "http://127.0.0.1:5000")
    assert asked == [str(results), str(store), str(results), str(results)]
    for storage, uri in (("results", None), (str(results), "sqlite:///mlflow.db")):
        with pytest.raises(BnsweepError, match="must be an absolute folder that all machines share"):
            admission.check_storage(look, storage, uri)


def test_data_that_some_machines_lack_are_refused(tmp_path: Path) -> None:
    images = [TrialConfig.create({"dataset": "cifar10", "model": "mlp", "depth": 1})]
    digits = [TrialConfig.create({"dataset": "digits", "model": "mlp", "depth": 1})]
    some = cluster(machine("a"), machine("b", data=False), machine("c", data=False))
    with pytest.raises(BnsweepError, match=rf"but {tmp_path} is absent on b, c\. Mount it there"):
        admission.check_data(some, str(tmp_path), images)
    admission.check_data(some, str(tmp_path), digits)
    admission.check_data(some, None, images)
    admission.check_data(cluster(machine("a")), str(tmp_path), images)
    nowhere = cluster(machine("a"), machine("b"))
    admission.check_data(nowhere, str(tmp_path / "absent"), images)  # the preflight says what is missing


def test_versions_that_differ_are_shown_as_a_table() -> None:
    own = {
        "host": "d",
        "python": "3.11.7",
        "packages": {"torch": "2.15.0+cpu", "numpy": "2.4.6"},
        "source": "1a",
    }
    same = {**own, "host": "w1", "packages": {"torch": "2.15.0+cu130", "numpy": "2.4.6"}}
    assert admission._differences(own, [same]) == []
    other = {**own, "host": "w2", "packages": {"torch": "2.14.0", "numpy": "absent"}}
    assert admission._differences(own, [same, other]) == [
        ("", "driver", "w1", "w2"),
        ("torch", "2.15.0", "2.15.0", "2.14.0"),
        ("numpy", "2.4.6", "2.4.6", "absent"),
    ]


def test_machines_with_other_versions_are_shown_in_a_table() -> None:
    own = node_probe.look_around({"packages": node_probe.PACKAGES})
    admission.check_versions({"1": own, "2": {**own, "host": "far"}})
    other = {**own, "host": "far", "packages": {**own["packages"], "torch": "2.0.1"}}
    with pytest.raises(
        BnsweepError, match=r"these differ:\n +driver +\S+ +far\n +torch +\S+ +\S+ +2\.0\.1\n"
    ):
        admission.check_versions({"1": own, "2": other})
