"""Folders and zip files: every zip test has a folder as its judge, or damage that only a zip file can have."""

import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from pictures import complaint, encoded, noise, opened, pack, read_all

from ambient_sweep.data.sources import files, source
from ambient_sweep.data.sources.decode import decode

NAMES = ["a/deep/1.png", "b/1.png", "b/10.png", "b/2.PNG"]
PIXELS = noise(4)
FILES = {name: encoded(image) for name, image in zip(NAMES, PIXELS, strict=True)}


def write(root, content):
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else encoded(data))
    return root


@pytest.fixture
def classes(tmp_path):
    return write(tmp_path / "photos", FILES)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.zip"


# -- what both hold -------------------------------------------------------------------------------------------------


def test_a_tree_is_read_in_the_order_of_names(classes, path):
    for found in (opened("folder", classes), opened("zip", pack(path, dict(reversed(FILES.items()))))):
        assert found.names == NAMES
        assert found.labels.tolist() == [0, 1, 1, 1]
        assert found.classes == ("a", "b")
        assert found.sigma is None
        images, corrupt = read_all(found)
        np.testing.assert_array_equal(images, PIXELS)
        assert not corrupt


def test_a_zip_reads_as_the_folder_it_was_made_of(tmp_path, path):
    content = FILES | {
        "metadata.csv": "file_name,sigma\nb/1.png,0.5\n",
        "deep.tif": encoded(np.full((9, 9), 1000, np.uint16), "TIFF"),
        "gone.png": b"no image",
        "__MACOSX/b/1.png": FILES["b/1.png"],
        "b/._1.png": b"",
        ".x/1.png": FILES["b/1.png"],
    }
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(pack(path, content, method)) as archive:
            archive.extractall(tmp_path / "folder")
        found = opened("zip", path, sigma_column="sigma")
        folder = opened("folder", tmp_path / "folder", sigma_column="sigma")
        assert found.names == folder.names == sorted([*NAMES, "deep.tif", "gone.png"])
        np.testing.assert_array_equal(found.sigma, folder.sigma)
        assert found.depth8 == folder.depth8 is False
        images, corrupt = read_all(found, 2)
        np.testing.assert_array_equal(images, read_all(folder)[0])
        assert list(corrupt) == ["gone.png"]


@pytest.mark.parametrize("threads", [1, 5])
def test_blocks_are_the_same_whatever_their_size_and_the_threads(tmp_path, path, monkeypatch, threads):
    monkeypatch.setattr(source, "THREADS", threads)
    pixels = noise(41, 12, 9)
    content = {f"{i:02}.png": encoded(image) for i, image in enumerate(pixels)} | {"20.png": b"broken", "40.png": b""}
    write(tmp_path / "many", content)
    pack(path, content)
    expected = np.stack([decode(encoded(image), 8, 3) for image in pixels])
    expected[[20, 40]] = 0
    for found in (opened("folder", tmp_path / "many"), opened("zip", path)):
        for size in (1, 7, 1000):
            images, corrupt = read_all(found, size)
            np.testing.assert_array_equal(images, expected)
            assert list(corrupt) == ["20.png", "40.png"]


def test_one_deep_image_makes_the_source_float_and_changes_no_other(classes):
    deep = np.full((16, 16), 1000, np.uint16)
    write(classes, {"b/3.jpg": deep})
    found = opened("folder", classes)  # a name of 8 bits: corrupt rather than rounded
    assert found.depth8
    assert "deeper than 8 bits" in read_all(found)[1]["b/3.jpg"]
    write(classes, {"b/3.png": deep})
    images, corrupt = read_all(opened("folder", classes))
    assert not corrupt
    np.testing.assert_array_equal(images[:4], PIXELS.astype(np.float32) / 255)
    np.testing.assert_allclose(images[4:], 1000 / 65535, rtol=1e-6)


# -- folders --------------------------------------------------------------------------------------------------------


def test_only_image_files_are_found_and_each_once(classes, tmp_path):
    others = (".x.png", "b/.hidden/1.png", ".checkpoints/1.png", "__MACOSX/b/1.png", "b/._1.png")
    write(classes, dict.fromkeys(others, FILES["b/1.png"]) | {"notes.txt": b"", "png": b""})
    (classes / "folder.png").mkdir()
    os.mkfifo(classes / "pipe.png")
    elsewhere = write(tmp_path / "elsewhere", {"1.png": PIXELS[0]})
    (classes / "c").symlink_to(elsewhere)
    (classes / "c2").symlink_to(elsewhere)
    (classes / "b" / "loop").symlink_to(classes)
    assert opened("folder", classes).names == [*NAMES, "c/1.png"]
    write(classes, {"top.JPEG": FILES["b/1.png"]})  # an image outside all folders: so there are no classes
    found = opened("folder", classes)
    assert (len(found), found.labels, found.classes) == (6, None, ())


def test_images_that_cannot_be_read_are_listed_with_their_reason(classes, monkeypatch):
    write(classes, {"b/2.PNG": FILES["b/2.PNG"][:100], "b/10.png": b"plain text"})
    found = opened("folder", classes)
    (classes / "b" / "1.png").unlink()
    images, corrupt = read_all(found)
    for name, reason in (("b/2.PNG", "truncated"), ("b/10.png", "not an image"), ("b/1.png", "No such file")):
        assert reason in corrupt[name]
    np.testing.assert_array_equal(images[0], PIXELS[0])
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    assert "larger than 100 bytes" in read_all(found)[1]["a/deep/1.png"]


def test_labels_of_edms_dataset_tool_come_first(classes):
    entries = [[name, label] for name, label in zip(["./" + NAMES[0], *NAMES[1:]], (2, 0, 5, 0), strict=True)]
    text = json.dumps({"labels": [*entries, ["elsewhere.png", 9]]})
    (classes / "dataset.json").write_text("\ufeff" + text, encoding="utf-8")
    found = opened("folder", classes)
    assert (found.labels.tolist(), found.labels.dtype) == ([2, 0, 5, 0], np.int64)
    assert found.classes == ("0", "1", "2", "3", "4", "5")
    (classes / "dataset.json").write_text(json.dumps({"labels": None}))
    assert opened("folder", classes).labels is None  # the folders are no classes there


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset.json", "{", "cannot be read"),
        pytest.param("dataset.json", "[" * 100_000, "cannot be read as {\"labels\"", id="deep"),
        ("dataset.json", '[{"name": "b/1.png"}]', "cannot be read"),
        ("dataset.json", '{"labels": {}}', "label: is object; labels must be whole numbers or strings, none missing"),
        ("dataset.json", '{"labels": [["a/deep/1.png", 0]]}', "labels must be whole numbers or strings, none missing"),
        *(("dataset.json", json.dumps({"labels": [[name, bad] for name in NAMES]}), message) for bad, message in
          ((0.5, "is object"), (None, "none missing"), (True, "is object"), ([0.1, 1], "holds lists"), (-1, "-1 is out"))),
        ("dataset.json", "\xff\xfe", "dataset.json"),
    ],
)  # fmt: skip
def test_bad_labels_are_refused_where_a_key_asks_for_them_and_else_left_out(classes, name, content, message):
    (classes / name).write_bytes(content.encode("latin-1"))
    line = complaint(opened, "folder", classes, label_column="label")
    assert message in line
    assert name in line
    found, reason = opened("folder", classes), line.removeprefix("data.label_column: ")
    assert (found.labels, found.unlabelled, found.notes) == (None, reason, (f"labels are left out: {reason}",))


def test_bad_folders_are_named(tmp_path, monkeypatch):
    assert "holds no image" in complaint(opened, "folder", tmp_path)
    write(tmp_path, {"a/1.png": PIXELS[0]})
    assert "1.png is not a folder" in complaint(opened, "folder", tmp_path / "a" / "1.png")
    (tmp_path / "a.zip").touch()
    assert "a.zip is not a folder; data.source=zip reads it" in complaint(opened, "folder", tmp_path / "a.zip")
    (tmp_path / "a.zip").unlink()
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.png", os.O_CREAT))
    assert "not UTF-8" in complaint(opened, "folder", tmp_path)

    def forbidden(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "scandir", forbidden)
    assert "cannot be read (Permission denied)" in complaint(opened, "folder", tmp_path)


# -- zip files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "set/", "./set/"])
def test_a_folder_that_holds_everything_is_the_root(path, prefix):
    """As in `zip -r set.zip set`, with the labels that EDM's dataset tool writes, or by the folders below."""
    content = {prefix + name: data for name, data in FILES.items()}
    found = opened("zip", pack(path, content))
    assert found.names == NAMES
    assert found.classes == ("a", "b")
    labels = json.dumps({"labels": [[name, 3] for name in NAMES]})
    pack(path, content | {prefix + "dataset.json": labels, prefix + "metadata.csv": "file_name,level\nb/2.PNG,0.25\n"})
    found = opened("zip", path, sigma_column="level")
    assert found.labels.tolist() == [3, 3, 3, 3]
    np.testing.assert_array_equal(found.sigma, np.float32([np.nan, np.nan, np.nan, 0.25]))


def test_files_that_say_something_of_the_images_lie_at_the_root(path):
    """As EDM's dataset tool packs up to 1,000 images: all in one folder, with the labels beside it."""
    images = {f"00000/{row}.png": data for row, data in enumerate(FILES.values())}
    labels = json.dumps({"labels": [[name, row % 2] for row, name in enumerate(images)]})
    rows = "file_name, label\n" + "".join(f"{name},{row % 2}\n" for row, name in enumerate(images))
    for more in ({"dataset.json": labels}, {"metadata.csv": rows}):
        found = opened("zip", pack(path, images | more))
        assert (found.names, found.labels.tolist(), found.passed) == (list(images), [0, 1, 0, 1], {})


def patched(path, name, offset, form, value):
    """Overwrites a field of the entry's record in the directory."""
    data = bytearray(path.read_bytes())
    record = data.rindex(name.encode()) - 46
    assert data[record : record + 4] == b"PK\x01\x02"
    struct.pack_into(form, data, record + offset, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [(24, "<I", 2**31, "larger than 1073741824 bytes"), (42, "<I", 7, "cannot be read"), (8, "<H", 1, "encrypted"),
     (10, "<H", 99, "cannot be read"), (16, "<I", 0, "Bad CRC-32")],
    ids=["size", "place", "encrypted", "method", "sum"],
)  # fmt: skip
def test_an_entry_that_cannot_be_unpacked_costs_one_image(path, offset, form, value, reason):
    pack(path, FILES)
    patched(path, "b/1.png", offset, form, value)
    images, corrupt = read_all(opened("zip", path))
    assert list(corrupt) == ["b/1.png"]
    assert reason in corrupt["b/1.png"]
    np.testing.assert_array_equal(images[2], PIXELS[2])


def test_an_entry_that_unpacks_to_more_than_declared_is_stopped(path):
    pack(path, {"1.png": b"\0" * 10_000_000, "2.png": FILES["b/1.png"]})
    patched(path, "1.png", 24, "<I", 100)
    found = opened("zip", path)
    tracemalloc.start()
    assert list(read_all(found)[1]) == ["1.png"]
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_zip_files_that_cannot_be_read_are_refused(tmp_path, path):
    assert "cannot be read as a zip file" in complaint(opened, "zip", tmp_path)
    whole = pack(path, FILES).read_bytes()
    for data in (b"no zip", whole[: len(whole) // 2]):
        path.write_bytes(data)
        assert "cannot be read as a zip file" in complaint(opened, "zip", path)
    assert "holds no image" in complaint(opened, "zip", pack(path, {"x.txt": "x"}))
    pack(path, FILES | {"dataset.json": "{"})
    assert "x.zip/dataset.json: cannot be read" in complaint(opened, "zip", path, label_column="label")
    patched(path, "dataset.json", 8, "<H", 1)
    assert "dataset.json: cannot be read" in complaint(opened, "zip", path, label_column="label")
