import json

import numpy as np
import pytest
import torch
from made_up import MadeUp, pictures, store_of, use

from ambient_sweep.config import DataConfig
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.store import name_line, open_store, verify_store
from ambient_sweep.errors import UserError

ARRAYS = ["index.npy", "train_index.npy", "heldout_index.npy", "labels.npy", "sigma.npy"]
FILES = [*ARRAYS, "images.bin", "names.txt", "duplicates.json"]


@pytest.fixture
def source():
    return MadeUp(
        pictures(60), labels=np.arange(60) % 4, classes=("a", "b", "c", "d"),
        sigma=np.where(np.arange(60) % 2, 0.5, np.nan).astype(np.float32),
    )  # fmt: skip


@pytest.fixture
def config(source, monkeypatch):
    return use(monkeypatch, source, train_size=40, heldout_size=15, split_seed=2)


def same(one, other):
    """Whether two ImageData hold the same images, labels and levels."""
    for name in ("train", "heldout"):
        assert torch.equal(getattr(one, name).all(), getattr(other, name).all())
        assert torch.equal(getattr(one, f"{name}_index"), getattr(other, f"{name}_index"))
        labels = getattr(one, f"{name}_labels"), getattr(other, f"{name}_labels")
        assert (labels[0] is None and labels[1] is None) or torch.equal(*labels)
    np.testing.assert_array_equal(one.train_sigma, other.train_sigma)
    assert (one.fingerprint, one.shape, one.class_names) == (other.fingerprint, other.shape, other.class_names)
    for index in one.train_index.tolist():
        assert one.name(index) == other.name(index)
    return True


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_store_is_its_source(tmp_path, source, config, dtype):
    source.images = pictures(60, dtype=dtype)
    direct, stored = load_data(config), load_data(store_of(tmp_path / "store", config))
    assert same(direct, stored)
    assert np.isnan(direct.train_sigma).any()
    assert stored.split() == {
        "fingerprint": direct.fingerprint, "store": str(tmp_path / "store"), "train_size": 40, "heldout_size": 15
    }  # fmt: skip


def test_the_digits_are_the_same_from_a_store(tmp_path):
    config = DataConfig(train_size=100)
    assert same(load_data(config), load_data(store_of(tmp_path / "store", config)))


@pytest.mark.parametrize("sizes", [{"train_size": 25}, {"heldout_size": 5}, {"train_size": 3, "heldout_size": 2}])
def test_smaller_sizes_are_those_of_the_source(tmp_path, config, sizes):
    stored = store_of(tmp_path / "store", config)
    assert same(load_data(config.model_copy(update=sizes)), load_data(stored.model_copy(update=sizes)))


def test_more_than_the_store_has_is_refused(tmp_path, config):
    stored = store_of(tmp_path / "store", config)
    for part, there in (("train", 40), ("heldout", 15)):
        with pytest.raises(
            UserError, match=rf"data\.{part}_size: {there + 1} is more than the {there} in .*store; lower"
        ):
            load_data(stored.model_copy(update={f"{part}_size": there + 1}))


@pytest.mark.parametrize("change", [{"image_size": 16}, {"channels": 1}, {"split_seed": 0}])
def test_another_form_than_the_stores_is_refused_with_the_keys_to_set(tmp_path, config, change):
    stored = store_of(tmp_path / "store", config)
    with pytest.raises(UserError, match=r"store differs; set data\.image_size=8 data\.channels=3 data\.split_seed=2"):
        load_data(stored.model_copy(update=change))


# -- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"sigma_column": "level"}, {"label_column": "breed"}, {"label_column": None}])
def test_columns_are_not_read_from_a_store(tmp_path, config, change):
    stored = store_of(tmp_path / "store", config)
    (key,) = change
    with pytest.raises(
        UserError, match=rf"^data\.{key}: a store keeps the labels and levels it was prepared with; set"
    ):
        load_data(stored.model_copy(update=change))


@pytest.fixture
def stored(tmp_path, config):
    return store_of(tmp_path / "store", config)


def complaint(stored):
    with pytest.raises(UserError) as caught:
        load_data(stored)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(stored, tmp_path, name):
    (tmp_path / "store" / name).unlink()
    assert f"{name}: cannot be read: No such file" in complaint(stored)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_size_is_named(stored, tmp_path, name):
    file = tmp_path / "store" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert f"{name}: damaged (truncated: {len(whole) - 1:,} bytes, store.json says {len(whole):,})" in complaint(stored)
    file.write_bytes(whole + b"x")
    assert f"{name}: damaged" in complaint(stored)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_damaged_array_is_named(stored, tmp_path, name):
    file = tmp_path / "store" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert f"{name}: damaged (its sha256 is not the one in store.json)" in complaint(stored)


@pytest.mark.parametrize("name", FILES)
def test_verify_reads_every_byte(stored, tmp_path, name):
    assert verify_store(tmp_path / "store").count == 55
    file = tmp_path / "store" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: damaged"):
        verify_store(tmp_path / "store")


def test_what_is_no_store_says_so(stored, tmp_path):
    (tmp_path / "store" / "store.json").unlink()
    assert "not a store (it holds no store.json); `ambient-sweep prepare` makes one" in complaint(stored)
    assert "not a store" in complaint(stored.model_copy(update={"path": str(tmp_path / "nowhere")}))


CHANGES = {
    "newer": (lambda d: d.update(format=2), "has format 2, this version reads 1; use a newer version"),
    "newer and other": (lambda d: (d.clear(), d.update(format=9)), "has format 9, this version reads 1"),
    "no format": (lambda d: d.pop("format"), "damaged"),
    "key missing": (lambda d: d.pop("fingerprint"), "damaged"),
    "unknown key": (lambda d: d.update(more=1), "damaged"),
    "word for a number": (lambda d: d.update(count="many"), "damaged"),
    "count": (
        lambda d: d.update(count=54),
        "damaged (its count and shape contradict the size of images.bin)",
    ),
    "shape": (lambda d: d.update(shape=[3, 8, 9]), "damaged (its count and shape"),
    "encoding": (lambda d: d.update(encoding="unit"), "damaged (its count and shape"),
    "kind": (lambda d: d.update(kind="observed"), "damaged (its kind)"),
    "no images": (lambda d: d["files"].pop("images.bin"), "damaged (its list of files)"),
    "elsewhere": (lambda d: d["files"].update({"../x": {"bytes": 1, "sha256": ""}}), "damaged (its list of files)"),
    "split": (
        lambda d: d["split"].update(train_size=39),
        "train_index.npy: damaged (int64 [40] instead of 39 numbers)",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_store_json_that_makes_no_sense_is_refused(stored, tmp_path, change, message):
    file = tmp_path / "store" / "store.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    found = complaint(stored)
    assert message in found
    assert "store" in found.split(":")[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_store_json_that_cannot_be_read_is_refused(stored, tmp_path, content):
    (tmp_path / "store" / "store.json").write_bytes(content)
    assert "store.json: " in complaint(stored)


def replace_array(folder, name, array, **options):
    """Puts an array in its place, with a store.json that agrees."""
    from ambient_sweep.storage import sha256

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


# -- names ----------------------------------------------------------------------------------------------------------


def test_names_come_back_whatever_they_hold(tmp_path):
    names = [
        "plain.png",
        "a/b c.png",
        "back\\slash",
        "\\n is no line end",
        "two\nlines\r\n",
        "",
        "ä\u2028ö",
        "\udcff raw",
    ]
    source.images = source.images[: len(names)]
    source.labels = source.sigma = None
    source.own_names = names
    store = open_store(Path(store_of(tmp_path / "store", use(monkeypatch, source)).path))
    assert store.names == names
    (tmp_path / "store" / "names.txt").write_bytes(b"".join(map(name_line, [*names[1:], "x", ""]))[:-1])
