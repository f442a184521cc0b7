"""One copy of a data set for all workers of a machine."""

import os
import re
import subprocess
import sys
import time

import pytest
import torch

from bnsweep.data import load_dataset, node_copies, prepare_image_folder
from bnsweep.data.node_copies import UNUSED_SECONDS, load_node_copy
from bnsweep.errors import DataError

SPLITS = ("train_x", "train_y", "test_x", "test_y")


@pytest.fixture(autouse=True)
def held():
    """Let go at the end of what a test holds."""
    before = set(node_copies._held)
    yield
    for path in node_copies._held.keys() - before:
        os.close(node_copies._held.pop(path))


@pytest.fixture
def reads(monkeypatch):
    """Count how often a data set is read from its source."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return load_dataset(*args, **kwargs)

    monkeypatch.setattr(node_copies, "load_dataset", counted)
    return calls


def copies(folder):
    return sorted(folder.glob("*.pt"))


def same(a, b):
    return a.facts == b.facts and all(torch.equal(getattr(a, s), getattr(b, s)) for s in SPLITS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("digits", {"inputs": "half"}), ("digits", {"inputs": "standardized"}), ("gaussian", {"features": 10})],
)
def test_a_copy_has_the_bits_of_what_was_read(tmp_path, reads, name, parameters, dtype):
    plain = load_dataset(name, parameters, dtype=dtype)
    made, mapped = (load_node_copy(name, parameters, dtype=dtype, folder=tmp_path / "c") for _ in range(2))
    assert same(made, plain) and same(mapped, plain)
    assert made.train_x.dtype == dtype
    assert len(reads) == 1


def test_what_differs_has_a_copy_of_its_own(tmp_path, reads):
    for inputs in ("half", "raw"):
        for dtype in (torch.float32, torch.float64):
            load_node_copy("digits", {"inputs": inputs}, dtype=dtype, folder=tmp_path / "c")
    assert len(copies(tmp_path / "c")) == len(reads) == 4


def test_processes_read_the_source_once_and_share_pages(tmp_path):
    """Eight processes at once on a data set of 40 MB: one reads it, and no page of it is anybody's own."""
    script = f"""
import re, sys, time
from pathlib import Path
import torch
from bnsweep.data import node_copies
from bnsweep.data.contents import Dataset
from bnsweep.names import DATASETS
def read(name, parameters, **_):
    print("read", flush=True)
    x = torch.arange(10_000_000, dtype=torch.float32).view(-1, 10)
    return Dataset(name, DATASETS["gaussian"], x, x[:10], x[:10], x[:10])
node_copies.load_dataset = read
data = node_copies.load_node_copy("gaussian", {{}}, folder=Path({str(tmp_path / "c")!r}))
total = data.train_x.sum(dtype=torch.float64).item()  # every page is touched
sizes = Path("/proc/self/smaps").read_text().split(".pt\\n")[1]
own = sum(int(kb) for kb in re.findall(r"Anonymous: +(\\d+) kB", sizes.split("VmFlags")[0]))
print("own", own, total, flush=True)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(8)
    ]
    said = "".join(process.communicate(timeout=200)[0] for process in started)
    assert [process.returncode for process in started] == [0] * 8
    assert said.count("read") == 1
    assert set(re.findall("own .*", said)) == {f"own 0 {sum(range(10_000_000)):.1f}"}


def test_a_source_that_is_gone_is_not_missed(tmp_path):
    images = tmp_path / "images"
    from PIL import Image

    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (4, 4), 20 * i).save(images / name / f"{i}.png")
    print_ = prepare_image_folder(images).fingerprint
    first = load_node_copy("image_folder", {}, root=images, fingerprint=print_, folder=tmp_path / "c")
    (images / "images.pt").unlink()
    again = load_node_copy("image_folder", {}, root=images, fingerprint=print_, folder=tmp_path / "c")
    assert same(first, again)
    with pytest.raises(DataError):  # other contents are another data set
        load_node_copy("image_folder", {}, root=images, fingerprint="0" * 16, folder=tmp_path / "c")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_copy_is_made_anew(tmp_path, reads, damage):
    folder = tmp_path / "c"
    load_node_copy("digits", {}, folder=folder)
    (path,) = copies(folder)
    content = path.read_bytes()
    middle = len(content) // 2
    path.unlink()
    path.write_bytes(
        {
            "cut": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "empty": b"",
            "foreign": b"not ours",
        }[damage]
    )
    assert same(load_node_copy("digits", {}, folder=folder), load_dataset("digits", {}))
    assert len(reads) == 2
    assert copies(folder)[0].read_bytes() == content


def test_writing_to_a_data_set_changes_nobody_elses(tmp_path):
    one, other = (load_node_copy("digits", {}, folder=tmp_path / "c") for _ in range(2))
    one.train_x.zero_()
    assert same(other, load_dataset("digits", {}))
    assert same(load_node_copy("digits", {}, folder=tmp_path / "c"), other)


def test_a_folder_of_others_is_not_used(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    for name in ("open", "link", "file"):
        assert same(load_node_copy("digits", {}, folder=tmp_path / name), load_dataset("digits", {}))
    assert not copies(tmp_path / "open") and not copies(tmp_path / "real")


def test_no_room_is_no_reason_to_stop(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    assert same(load_node_copy("digits", {}, folder=tmp_path / "c"), load_dataset("digits", {}))
    assert os.listdir(tmp_path / "c") == ["lock"]


def test_what_nobody_uses_goes_and_what_somebody_holds_stays(tmp_path):
    folder = tmp_path / "c"
    load_node_copy("digits", {"inputs": "raw"}, folder=folder)
    (kept,) = copies(folder)
    old = time.time() - UNUSED_SECONDS - 10
    for name in ("0123.4567.pt", "99.part"):
        (folder / name).write_bytes(b"left by a process that was killed")
        os.utime(folder / name, (old, old))
    os.utime(kept, (old, old))
    load_node_copy("digits", {"inputs": "half"}, folder=folder)
    names = {path.name for path in folder.iterdir()}
    assert kept.name in names and len(names) == 3  # both copies and the lock
    for path in copies(folder):
        os.close(node_copies._held.pop(path))
    os.utime(kept, (old, old))
    load_node_copy("gaussian", {}, folder=folder)
    assert kept not in copies(folder)


def test_a_process_that_loads_again_and_again_opens_one_file(tmp_path):
    load_node_copy("digits", {"inputs": "raw"}, folder=tmp_path / "c")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        load_node_copy("digits", {"inputs": "raw"}, folder=tmp_path / "c")
    assert len(os.listdir("/proc/self/fd")) == before
