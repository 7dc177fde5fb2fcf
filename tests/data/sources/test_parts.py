"""`data.split`: the publisher's split by folders, files, patterns, arrays and a column."""

import posixpath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import complaint, encoded, noise, opened, pack, read_all

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources import open_source

PIXELS = noise(8)
IMAGES = [encoded(image) for image in PIXELS]


def split(train, heldout):
    return {"split": {"train": train, "heldout": heldout}}


def tree(path, *names):
    for name, image in zip(names, IMAGES, strict=False):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(image)
    return path


def taken(source):
    """Names of the training and of the held-out images."""
    rows = source.published.tolist()
    return tuple([name for name, row in zip(source.names, rows, strict=True) if row is part] for part in (True, False))


LAYOUT = [
    "test/cats/1.png",
    "test/dogs/1.png",
    "train/cats/1.png",
    "train/cats/2.png",
    "train/dogs/1.png",
    "val/cats/1.png",
]


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "names", [("train", "test"), ("./train/", "test/"), ("train/*", "*/[cd]*s/1.png"), ("train", "te*")]
)
def test_folders_and_patterns_are_parts_and_classes_lie_below_folders(tmp_path, kind, names):
    path = tree(tmp_path / "x", *LAYOUT)
    if kind == "zip":
        path = pack(tmp_path / "x.zip", dict(zip(LAYOUT, IMAGES, strict=False)))
    if names[1].startswith("*"):
        assert "(train/cats/1.png, train/dogs/1.png); name parts that do not" in complaint(
            opened, kind, path, **split(*names)
        )
        return
    found = opened(kind, path, **split(*names))
    assert taken(found) == (LAYOUT[2:5], LAYOUT[:2])
    assert found.notes == (
        f"publisher's split by name: 3 images in {posixpath.normpath(names[0])}, 2 in {posixpath.normpath(names[1])}",
        "1 images are in neither part of data.split and are left out (val/cats/1.png)",
    )
    np.testing.assert_array_equal(read_all(found)[0], PIXELS[:5])
    if "*" not in "".join(names):
        assert (found.labels.tolist(), found.classes) == ([0, 1, 0, 0, 1], ("cats", "dogs"))


def test_names_of_folders_and_files_may_tell_the_part_below_the_classes(tmp_path):
    path = tree(
        tmp_path, "cats/train/1.png", "cats/test/1.png", "dogs/train_1.png", "dogs/test-1.png", "dogs/trainer.png"
    )
    found = opened("folder", path, **split("train", "test"))
    assert taken(found) == (["cats/train/1.png", "dogs/train_1.png"], ["cats/test/1.png", "dogs/test-1.png"])
    assert found.classes == ("cats", "dogs")


def test_zip_files_are_parts_with_their_own_metadata_and_class_folders(tmp_path):
    (tmp_path / "sub").mkdir()
    pack(tmp_path / "sub" / "train.zip", {"set/cats/1.png": IMAGES[0], "set/dogs/1.png": IMAGES[1]})
    rows = "file_name,group\ndogs/2.png,p7\ncats/1.png,p1\n"
    pack(tmp_path / "test.zip", {"cats/1.png": IMAGES[2], "dogs/2.png": IMAGES[3], "metadata.csv": rows})
    found = opened("zip", tmp_path, **split("sub/train.zip", "test.zip"))
    assert taken(found) == (
        ["sub/train.zip/cats/1.png", "sub/train.zip/dogs/1.png"],
        ["test.zip/cats/1.png", "test.zip/dogs/2.png"],
    )
    assert (found.labels.tolist(), found.classes) == ([0, 1, 0, 1], ("cats", "dogs"))
    np.testing.assert_array_equal(read_all(found)[0], PIXELS[:4])
    assert "test.zip" in found.notes[0]
    assert "gone.zip cannot be opened" in complaint(opened, "zip", tmp_path, **split("sub/train.zip", "gone.zip"))


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), ("train", "test")),
        (("plain/train/0000.parquet", "plain/test/0000.parquet"), ("train", "test")),
        (("train.parquet", "test.parquet"), ("train.parquet", "test.parquet")),
        (("a-train.parquet", "a-test.parquet"), ("*-train*", "*-test*")),
    ],
)
def test_parquet_files_are_parts(tmp_path, files, names):
    for file, rows in zip((*files, "z.parquet"), (slice(0, 3), slice(3, 5), slice(5, 6)), strict=True):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": IMAGES[rows], "label": list("abcabc")[rows]}), tmp_path / file)
    found = opened("parquet", tmp_path, **split(*names))
    assert taken(found) == ([f"{files[0]}#{row}" for row in range(3)], [f"{files[1]}#{row}" for row in range(2)])
    order = [3, 4, 0, 1, 2]  # by name
    np.testing.assert_array_equal(read_all(found)[0], PIXELS[order])
    assert found.labels.tolist() == [order[row] % 3 for row in range(5)]


@pytest.mark.parametrize("kind", ["parquet", "array", "folder"])
def test_values_of_the_column_split_are_parts(tmp_path, kind):
    values = ["train", "validation", "train", "test"]
    if kind == "parquet":
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"image": IMAGES[:4], "split": pa.array(values).dictionary_encode()}), path)
    elif kind == "array":
        path = tmp_path / "x.npz"
        np.savez(path, image=PIXELS[:4], split=np.array(values))
    else:
        path = tree(
            tmp_path / "x", "train.png", "1.png", "2.png", "3.png"
        )  # in this order of rows, and another of names
        rows = zip(["1.png", "2.png", "3.png", "train.png"], values, strict=True)
        (path / "metadata.csv").write_text("file_name,split\n" + "".join(f"{name},{value}\n" for name, value in rows))
    found = opened(kind, path, **split("train", "test"))
    assert found.published.tolist() == [True, True, False]
    assert found.notes[0] == "publisher's split by the column split: 2 images in train, 1 in test"
    assert "neither part" in found.notes[1]
    line = complaint(opened, kind, path, **split("train", "dev"))
    assert "data.split: " in line
    assert line.endswith("test, train, validation")


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (("train_images", "test_images"), {"label_column": "labels"}),  # MedMNIST
        (("train", "test"), {"image_column": "images", "label_column": "labels"}),
        (("x_train", "x_test"), {"label_column": "y"}),  # Keras
        (("train", "test"), {"image_column": "x", "label_column": "y"}),
    ],
)
def test_arrays_of_one_file_are_parts(tmp_path, names, keys):
    train, test = PIXELS[:5], PIXELS[5:]
    x, y = ("x_{}", "y_{}") if "x" in names[0] + keys.get("image_column", "") else ("{}_images", "{}_labels")
    np.savez(tmp_path / "x.npz", **{
        x.format("train"): train, y.format("train"): np.arange(5)[:, None],
        x.format("test"): test, y.format("test"): [3, 1, 2],
        x.format("val"): test,
    })  # fmt: skip
    found = opened("array", tmp_path / "x.npz", **split(*names), **keys)
    assert found.published.tolist() == [True] * 5 + [False] * 3
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 3, 1, 2]
    assert found.names[4:6] == [f"{names[0]}/x.npz#4", f"{names[1]}/x.npz#0"]
    images, corrupt = read_all(found)
    assert not corrupt
    np.testing.assert_array_equal(images, PIXELS)
    line = complaint(opened, "array", tmp_path / "x.npz", **split(names[0], "gone"), **keys)
    assert "x.npz: has no array gone; it has " in line


def test_array_files_are_parts_of_their_own_type(tmp_path):
    np.save(tmp_path / "train.npy", PIXELS[:5])
    np.save(tmp_path / "test.npy", PIXELS[5:] / 255)
    found = opened("array", tmp_path, **split("train.npy", "test.npy"))
    assert found.published.sum() == 5
    np.testing.assert_allclose(read_all(found)[0], PIXELS / 255, atol=1e-6)
    assert "gone.npy cannot be opened" in complaint(opened, "array", tmp_path, **split("train.npy", "gone.npy"))


def test_values_of_the_column_split_may_be_numbers_with_gaps(tmp_path):
    pq.write_table(pa.table({"image": IMAGES[:4], "split": [0, 1, None, 0]}), tmp_path / "x.parquet")
    assert opened("parquet", tmp_path / "x.parquet", **split("0", "1")).published.tolist() == [True, False, True]
    assert complaint(opened, "parquet", tmp_path / "x.parquet", **split("0", "2")).endswith("name x.parquet or 0, 1")


def test_parts_that_name_nothing_are_refused_with_what_there_is(tmp_path):
    path = tree(tmp_path, *LAYOUT)
    assert complaint(opened, "folder", path, **split("train", "dev")) == (
        f"data.split: dev names no image of {path}; name test, train, val"
    )
    np.save(tmp_path / "x.npy", PIXELS)
    for kind in ("folder", "array"):
        assert "x.npy cannot be both; name a part" in complaint(opened, kind, tmp_path, **split("x.npy", "./x.npy"))
    line = complaint(open_source, DataConfig(split={"train": "train", "heldout": "test"}))
    assert line.startswith("data.split: train names no image of digits; name digit-0000, ")
