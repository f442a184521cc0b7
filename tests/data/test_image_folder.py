"""Image folders: found, decoded once, read back, and refused with the odd file named."""

import json
import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from bnsweep.data import load_dataset, prepare_image_folder, read_fingerprint
from bnsweep.errors import DataError
from bnsweep.names import DataFacts

CLASSES = ("ape", "bee", "cow")


def write_images(folder, n, mode="RGB", size=(6, 6), ending="png", seed=0):
    """Write n random images and return them as ``[n, C, H, W]``."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    width, height = size
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    arrays = random.integers(0, 256, (n, height, width, channels)).astype(np.uint8)
    for i, array in enumerate(arrays):
        Image.fromarray(array[..., 0] if channels == 1 else array).save(folder / f"{i:03}.{ending}")
    return arrays.transpose(0, 3, 1, 2)


@pytest.fixture
def split_folder(tmp_path):
    """train and test of three classes, and the pixels of every class folder."""
    path = tmp_path / "pets"
    pixels = {}
    for half, n in (("train", 4), ("test", 2)):
        for seed, name in enumerate(CLASSES):
            pixels[half, name] = write_images(path / half / name, n, seed=seed + n)
    return path, pixels


def files_in(path):
    return {file.name for file in path.iterdir() if file.is_file()}


def test_round_trip(split_folder):
    path, pixels = split_folder
    facts = prepare_image_folder(path)
    assert facts == DataFacts(3, 6, 3, 12, 6, facts.fingerprint) == read_fingerprint(path)
    assert len(facts.fingerprint) == 16
    dataset = load_dataset("image_folder", {"inputs": "raw"}, root=path, fingerprint=facts.fingerprint)
    for half, x, y in (("train", dataset.train_x, dataset.train_y), ("test", dataset.test_x, dataset.test_y)):
        expected = np.concatenate([pixels[half, name] for name in CLASSES])
        np.testing.assert_array_equal((x * 255).round(), expected)
        assert y.tolist() == [label for label in range(3) for _ in range(len(x) // 3)]
    assert files_in(path) == {"images.pt", "fingerprint.json"}


def test_fingerprint_file_can_be_read_without_torch(split_folder):
    path, _ = split_folder
    facts = prepare_image_folder(path)
    content = json.loads((path / "fingerprint.json").read_text())
    assert content.pop("listing")
    assert content == {
        "schema": 1,
        "channels": 3,
        "size": 6,
        "classes": 3,
        "train": 12,
        "test": 6,
        "fingerprint": facts.fingerprint,
        "class_names": list(CLASSES),
    }


def test_grey_images_have_one_channel(tmp_path):
    for name in CLASSES[:2]:
        pixels = write_images(tmp_path / "all" / name, 5, mode="L", seed=3)
    assert prepare_image_folder(tmp_path / "all").channels == 1
    x = load_dataset("image_folder", {"inputs": "raw"}, root=tmp_path / "all").test_x
    np.testing.assert_array_equal((x[1] * 255).round(), pixels[4])


def test_grey_and_transparent_images_among_colour_are_colour(tmp_path):
    grey = write_images(tmp_path / "train" / "ape", 2, mode="L")
    clear = write_images(tmp_path / "train" / "bee", 2, mode="RGBA")
    for name in CLASSES[:2]:
        write_images(tmp_path / "test" / name, 1, mode="L")
    assert prepare_image_folder(tmp_path).channels == 3
    x = (load_dataset("image_folder", {"inputs": "raw"}, root=tmp_path).train_x * 255).round()
    np.testing.assert_array_equal(x[:2], grey.repeat(3, axis=1))
    np.testing.assert_array_equal(x[2:], clear[:, :3])


def test_without_halves_every_fifth_image_of_a_class_is_for_testing(tmp_path):
    pixels = {name: write_images(tmp_path / name, n, seed=n) for name, n in (("ape", 11), ("bee", 3))}
    facts = prepare_image_folder(tmp_path)
    assert (facts.train, facts.test) == (9 + 3, 2)
    dataset = load_dataset("image_folder", {"inputs": "raw"}, root=tmp_path)
    np.testing.assert_array_equal((dataset.test_x * 255).round(), pixels["ape"][[4, 9]])
    train = np.concatenate([np.delete(pixels["ape"], [4, 9], axis=0), pixels["bee"]])
    np.testing.assert_array_equal((dataset.train_x * 255).round(), train)
    assert dataset.test_y.tolist() == [0, 0]


def test_contents_alone_make_the_fingerprint(split_folder, tmp_path):
    path, _ = split_folder
    first = prepare_image_folder(path)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    for file in copy.rglob("*.png"):
        os.utime(file, (1, 1))
    (copy / "train" / "ape" / ".hidden.png").write_text("not an image")
    (copy / "train" / "ape" / "notes.txt").write_text("not an image")
    assert prepare_image_folder(copy) == first
    write_images(tmp_path / "other", 1, seed=99)
    shutil.move(tmp_path / "other" / "000.png", copy / "train" / "ape" / "000.png")
    assert prepare_image_folder(copy).fingerprint != first.fingerprint


def test_size_crops_the_middle_and_resizes(tmp_path):
    for name in CLASSES[:2]:
        folder = tmp_path / name
        folder.mkdir()
        for i in range(5):
            array = np.zeros((8, 16, 3), np.uint8)
            array[:, 4:12] = 200  # the middle square
            Image.fromarray(array).save(folder / f"{i}.png")
    with pytest.raises(DataError, match="16x8 pixels; give a size"):
        prepare_image_folder(tmp_path)
    assert prepare_image_folder(tmp_path, size=4).size == 4
    x = load_dataset("image_folder", {"inputs": "raw"}, root=tmp_path).train_x
    assert x.shape == (8, 3, 4, 4)
    assert torch.equal((x * 255).round(), torch.full_like(x, 200))


# --- what is refused


def truncated(path, cut):
    file = path / "train" / "bee" / "001.jpg"
    write_images(path / "spare", 1, ending="jpg")
    content = (path / "spare" / "000.jpg").read_bytes()
    shutil.rmtree(path / "spare")
    file.write_bytes(content[:-cut])
    return file


def not_an_image(path):
    file = path / "test" / "bee" / "zzz.png"
    file.write_text("not an image")
    return file


def odd_size(path):
    file = path / "test" / "cow" / "odd.png"
    Image.new("RGB", (7, 7)).save(file)
    return file


def oblong(path):
    file = path / "train" / "ape" / "odd.png"
    Image.new("RGB", (7, 6)).save(file)
    return file


def sixteen_bits(path):
    file = path / "train" / "ape" / "deep.png"
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(file)
    return file


def one_class(path):
    for half in ("train", "test"):
        for name in CLASSES[1:]:
            shutil.rmtree(path / half / name)
    return path / "train"


def class_in_one_half(path):
    shutil.rmtree(path / "test" / "bee")
    return path


def no_test(path):
    shutil.rmtree(path / "test")
    return path


def empty_class(path):
    (path / "train" / "dog").mkdir()
    return path / "train" / "dog"


def few_images(path):
    for half in ("train", "test"):
        shutil.move(path / half, path.parent / f"was-{half}")
    shutil.copytree(path.parent / "was-train", path, dirs_exist_ok=True)
    return path


def no_classes(path):
    for half in ("train", "test"):
        shutil.rmtree(path / half)
    return path


def no_folder(path):
    shutil.rmtree(path)
    return path


REFUSED = {
    "truncated image": (partial(truncated, cut=30), "must be whole and readable.*truncated"),
    "truncated header": (partial(truncated, cut=500), "must be whole and readable"),
    "not an image": (not_an_image, "must be whole and readable"),
    "odd size": (odd_size, "equal in size, but .* is 7x7 pixels and .* is 6x6"),
    "oblong image": (oblong, "must be square, but .* is 7x6"),
    "sixteen bits": (sixteen_bits, "8 bits a channel"),
    "one class": (one_class, "at least two class folders to tell apart, but found only ape"),
    "class in one half": (class_in_one_half, "same classes, but bee"),
    "no test": (no_test, "both train and test, or class folders alone, but found train alone"),
    "empty class": (empty_class, "must hold images"),
    "too few to split": (few_images, "at least 5 images"),
    "no classes": (no_classes, "two class folders to tell apart, but found none"),
    "no folder": (no_folder, "but is not there"),
}


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_folder_is_refused_and_nothing_written(split_folder, spoil, message):
    path, _ = split_folder
    named = spoil(path)
    with pytest.raises(DataError, match=message) as caught:
        prepare_image_folder(path)
    assert str(named) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not path.exists() or not files_in(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "train" / "ape" / "000.png").unlink(),
        lambda path: shutil.copy(path / "train" / "ape" / "000.png", path / "test" / "bee" / "new.png"),
        lambda path: os.utime(path / "test" / "cow" / "001.png", (5, 5)),
    ],
    ids=["removed", "added", "touched"],
)
def test_change_after_preparing_is_noticed(split_folder, change):
    path, _ = split_folder
    prepare_image_folder(path)
    change(path)
    with pytest.raises(DataError, match="changed since; run bnsweep data prepare"):
        load_dataset("image_folder", {}, root=path)
    prepare_image_folder(path)
    load_dataset("image_folder", {}, root=path)


def test_prepared_files_alone_will_do(split_folder, tmp_path):
    path, _ = split_folder
    facts = prepare_image_folder(path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("images.pt", "fingerprint.json"):
        shutil.copy(path / name, elsewhere)
    assert load_dataset("image_folder", {}, root=elsewhere).facts == facts


def replace_image(path):
    parts = torch.load(path / "images.pt", weights_only=True)
    parts["train_x"][0] = 0
    torch.save(parts, path / "images.pt")


SPOILED = {
    "truncated tensors": (lambda p: os.truncate(p / "images.pt", 700), r"images.pt must hold"),
    "empty tensors": (lambda p: (p / "images.pt").write_bytes(b""), r"images.pt must hold"),
    "text for tensors": (lambda p: (p / "images.pt").write_text("hello"), r"images.pt must hold"),
    "no tensors": (lambda p: (p / "images.pt").unlink(), r"images.pt must hold"),
    "other content": (lambda p: torch.save([1, 2], p / "images.pt"), r"images.pt must hold"),
    "other keys": (lambda p: torch.save({"x": torch.ones(2)}, p / "images.pt"), r"images.pt must hold"),
    "other images": (replace_image, r"must have the fingerprint .* but has"),
    "truncated facts": (lambda p: os.truncate(p / "fingerprint.json", 20), r"must be a JSON object"),
    "other schema": (lambda p: (p / "fingerprint.json").write_text('{"schema": 2}'), r"object of schema 1"),
    "list for facts": (lambda p: (p / "fingerprint.json").write_text("[]"), r"object of schema 1"),
    "no sizes": (lambda p: (p / "fingerprint.json").write_text('{"schema": 1}'), r"channels in .* must be"),
    "not prepared": (lambda p: (p / "fingerprint.json").unlink(), r"must be prepared before"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED)
def test_damaged_preparation_is_named(split_folder, spoil, message):
    path, _ = split_folder
    prepare_image_folder(path)
    spoil(path)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("image_folder", {}, root=path)
    assert f"run bnsweep data prepare {path}" in str(caught.value)


def test_pickled_code_in_the_cache_is_not_run(split_folder):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(split_folder[0] / "evil"),))

    path, _ = split_folder
    prepare_image_folder(path)
    torch.save({"train_x": Evil()}, path / "images.pt")
    with pytest.raises(DataError, match=r"images.pt must hold"):
        load_dataset("image_folder", {}, root=path)
    assert not (path / "evil").exists()


def test_folder_must_be_given():
    with pytest.raises(DataError, match="must be told which folder"):
        load_dataset("image_folder", {})


@pytest.mark.parametrize("size", [0, -3])
def test_impossible_size_is_refused(split_folder, size):
    with pytest.raises(DataError, match="at least 1 pixel"):
        prepare_image_folder(split_folder[0], size=size)
