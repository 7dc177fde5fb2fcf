import json

import numpy as np
import pytest
import torch
from made_up import MadeUp, pictures, store_of, use

from ambient_sweep.config import DataConfig
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.store import open_store, verify_store
from ambient_sweep.errors import UserError
from ambient_sweep.storage import sha256

ARRAYS = ["index.npy", "train_index.npy", "heldout_index.npy", "labels.npy", "sigma.npy"]
FILES = [*ARRAYS, "images.bin", "names.txt", "duplicates.json"]


@pytest.fixture
def source():
    sigma = np.where(np.arange(60) % 2, 0.5, np.nan).astype(np.float32)
    return MadeUp(pictures(60), np.arange(60) % 4, ("a", "b", "c", "d"), sigma)


@pytest.fixture
def config(source, monkeypatch):
    return use(monkeypatch, source, train_size=40, heldout_size=15, split_seed=2)


@pytest.fixture
def stored(tmp_path, config):
    return store_of(tmp_path / "store", config)


def assert_same(one, other):
    """Two ImageData hold the same images, labels and levels."""
    for name in ("train", "heldout"):
        assert torch.equal(getattr(one, name).all(), getattr(other, name).all())
        assert torch.equal(getattr(one, f"{name}_index"), getattr(other, f"{name}_index"))
        assert torch.equal(getattr(one, f"{name}_labels"), getattr(other, f"{name}_labels"))
    np.testing.assert_array_equal(one.train_sigma, other.train_sigma)
    assert (one.fingerprint, one.shape, one.class_names) == (other.fingerprint, other.shape, other.class_names)
    assert [*map(one.name, one.train_index.tolist())] == [*map(other.name, one.train_index.tolist())]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_store_and_its_smaller_sizes_are_those_of_its_source(tmp_path, source, config, dtype):
    source.images = pictures(60, dtype=dtype)
    source.name = "two\nlines\r, back\\slash, \\n, ä\u2028 \udcff {:03d}.png"  # names come back whatever they hold
    stored = store_of(tmp_path / "store", config)
    for sizes in ({}, {"train_size": 25}, {"heldout_size": 5}, {"train_size": 3, "heldout_size": 2}):
        assert_same(load_data(config.model_copy(update=sizes)), load_data(stored.model_copy(update=sizes)))
    direct = load_data(config)
    assert load_data(stored).split() == {
        "fingerprint": direct.fingerprint, "store": str(tmp_path / "store"), "train_size": 40, "heldout_size": 15
    }  # fmt: skip


def test_the_digits_are_the_same_from_a_store(tmp_path):
    config = DataConfig(train_size=100)
    assert_same(load_data(config), load_data(store_of(tmp_path / "store", config)))


def complaint(stored):
    with pytest.raises(UserError) as caught:
        load_data(stored)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_size": 41}, "data.train_size: 41 is more than the 40 in "),
        ({"heldout_size": 16}, "data.heldout_size: 16 is more than the 15 in "),
        ({"image_size": 16}, "store differs; set data.image_size=8 data.channels=3 data.split_seed=2"),
        ({"channels": 1}, "store differs; set data.image_size=8 data.channels=3 data.split_seed=2"),
        ({"split_seed": 0}, "store differs; set data.image_size=8 data.channels=3 data.split_seed=2"),
        ({"sigma_column": "level"}, "data.sigma_column: a store keeps the labels and levels"),
        ({"label_column": None}, "data.label_column: a store keeps the labels and levels"),
        ({"path": "/nowhere"}, "/nowhere: not a store (it holds no store.json); `ambient-sweep prepare` makes one"),
    ],
)
def test_keys_that_do_not_fit_the_store_are_refused_with_those_to_set(stored, change, message):
    assert message in complaint(stored.model_copy(update=change))


# -- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_damaged_file_is_named(stored, tmp_path, name):
    file = tmp_path / "store" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    told = f"{file}: damaged (truncated: {len(whole) - 1:,} bytes, store.json says {len(whole):,}); prepare the store"
    assert told in complaint(stored)
    file.write_bytes(whole + b"x")
    assert f"{file}: damaged (too long: " in complaint(stored)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"{file}: damaged \(its sha256 is not the one in store\.json\)"):
        verify_store(tmp_path / "store")
    if name in ARRAYS:
        assert f"{file}: damaged (its sha256" in complaint(stored)
    file.unlink()
    assert f"{file}: cannot be read: No such file" in complaint(stored)


CHANGES = {
    "newer": (lambda d: d.update(format=2), "has format 2, this version reads 1; use a newer version"),
    "newer and other": (lambda d: (d.clear(), d.update(format=9)), "has format 9, this version reads 1"),
    "no format": (lambda d: d.pop("format"), "damaged"),
    "unknown key": (lambda d: d.update(more=1), "damaged"),
    "word for a number": (lambda d: d.update(count="many"), "damaged"),
    "count": (lambda d: d.update(count=54), "damaged (its count and shape contradict the size of images.bin)"),
    "encoding": (lambda d: d.update(encoding="unit"), "damaged (its count and shape"),
    "kind": (lambda d: d.update(kind="observed"), "damaged (its kind)"),
    "no images": (lambda d: d["files"].pop("images.bin"), "damaged (its list of files)"),
    "elsewhere": (lambda d: d["files"].update({"../x": {"bytes": 1, "sha256": ""}}), "damaged (its list of files)"),
    "split": (lambda d: d["split"].update(train_size=39), "damaged (int64 [40] instead of 39 numbers)"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_store_json_that_makes_no_sense_is_refused(stored, tmp_path, change, message):
    file = tmp_path / "store" / "store.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    assert message in complaint(stored)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe"])
def test_a_store_json_that_cannot_be_read_is_refused(stored, tmp_path, content):
    (tmp_path / "store" / "store.json").write_bytes(content)
    assert "store.json: damaged" in complaint(stored)


def replace_array(folder, name, array, **options):
    """Puts an array in its place, with a store.json that agrees."""
    np.save(folder / name, array, **options)
    document = json.loads((folder / "store.json").read_text())
    document["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    (folder / "store.json").write_text(json.dumps(document))


def test_a_split_of_images_that_are_not_there_is_refused(stored, tmp_path):
    index = open_store(tmp_path / "store").train_index
    for wrong in (np.where(index == index[3], 10**6, index), np.where(index == index[3], index[4], index)):
        replace_array(tmp_path / "store", "train_index.npy", wrong)
        assert "its split names images that the store lacks" in complaint(stored)


def test_no_pickle_is_ever_read(stored, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    replace_array(tmp_path / "store", "labels.npy", np.array([Trap()] * 55, dtype=object), allow_pickle=True)
    assert "labels.npy: damaged (not an array of numbers)" in complaint(stored)
