import json

import numpy as np
import pytest
import torch
from made_up import MadeUp, pictures, store_of, use

from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.store import verify_store
from ambient_sweep.errors import UserError
from ambient_sweep.storage import sha256

ARRAYS = ["index.npy", "train_index.npy", "heldout_index.npy", "labels.npy", "sigma.npy"]
FILES = [*ARRAYS, "images.bin", "names.json", "duplicates.json"]


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
        assert torch.equal(getattr(one, name)[:], getattr(other, name)[:])
        assert torch.equal(getattr(one, f"{name}_index"), getattr(other, f"{name}_index"))
        assert torch.equal(getattr(one, f"{name}_labels"), getattr(other, f"{name}_labels"))
    np.testing.assert_array_equal(one.train_sigma, other.train_sigma)
    assert (one.fingerprint, one.shape, one.classes) == (other.fingerprint, other.shape, other.classes)
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
        ({"image_size": 16, "channels": 1}, "store: a store keeps the size, the seed of the split, the labels and the"),
        ({"image_size": 16, "split_seed": 0}, "with; set data.image_size=8 data.split_seed=2, or prepare it anew"),
        ({"sigma_column": "level"}, "set data.sigma_column=null"),
        ({"label_column": None}, "set data.label_column=auto"),
        ({"path": "/tmp"}, "/tmp: not a store (it holds no store.json); `ambient-sweep prepare` makes one"),
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
    message = f"{file}: damaged (truncated: {len(whole) - 1:,} bytes, store.json says {len(whole):,}); prepare the"
    assert message in complaint(stored)
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
    "newer": (lambda d: d.update(format=2), "damaged (or of another version: format)"),
    "unknown key": (lambda d: d.update(more=1), "damaged (or of another version: more)"),
    "word for a number": (lambda d: d.update(count="many"), "damaged (or of another version: count)"),
    "fewer": (lambda d: d.update(count=54), "damaged (its count, shape or files are wrong: images.bin is larger)"),
    "encoding": (lambda d: d.update(encoding="unit"), "damaged (its count, shape or files are wrong"),
    "no images": (lambda d: d["files"].pop("images.bin"), "damaged (its count, shape or files are wrong"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_store_json_that_makes_no_sense_is_refused(stored, tmp_path, change, message):
    file = tmp_path / "store" / "store.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    assert f"{file}: {message}" in complaint(stored)
    for content in (b"", b"[]", b"\xff\xfe"):
        file.write_bytes(content)
        assert "store.json: damaged" in complaint(stored)


def test_no_pickle_is_ever_read(stored, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    file, info = tmp_path / "store" / "labels.npy", tmp_path / "store" / "store.json"
    np.save(file, np.array([Trap()] * 55, dtype=object), allow_pickle=True)
    document = json.loads(info.read_text())
    document["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    info.write_text(json.dumps(document))
    assert "store.json: damaged" in complaint(stored)
