import json
import os
import threading

import numpy as np
import pytest
from pictures import complaint, encoded, noise, opened, read_all

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources import folder, open_source, source, tree
from ambient_sweep.data.sources.decode import decode

PIXELS = noise(4)


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else encoded(data))
    return root


@pytest.fixture
def classes(tmp_path):
    files = dict(zip(["b/2.PNG", "a/deep/1.png", "b/1.png", "b/10.png"], PIXELS, strict=True))
    return write(tmp_path, files)


def test_a_tree_is_read_in_the_order_of_names(classes):
    found = opened("folder", classes)
    assert found.names == ["a/deep/1.png", "b/1.png", "b/10.png", "b/2.PNG"]
    assert found.labels.tolist() == [0, 1, 1, 1]
    assert found.classes == ("a", "b")
    assert found.sigma is None
    images, corrupt = read_all(found)
    np.testing.assert_array_equal(images, PIXELS[[1, 2, 3, 0]])
    assert not corrupt


@pytest.mark.parametrize("threads", [1, 5])
def test_blocks_are_the_same_whatever_their_size_and_the_threads(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(source, "THREADS", threads)
    pixels = noise(41, 12, 9)
    write(tmp_path, {f"{i:02}.png": image for i, image in enumerate(pixels)} | {"20.png": b"broken", "40.png": b""})
    expected = np.stack([decode(encoded(image), 8, 3) for image in pixels])
    expected[[20, 40]] = 0
    for size in (1, 7, 41, 1000):
        images, corrupt = read_all(opened("folder", tmp_path), size)
        np.testing.assert_array_equal(images, expected)
        assert list(corrupt) == ["20.png", "40.png"]


def test_labels_need_two_folders_that_hold_every_image(classes):
    write(classes, {"top.png": PIXELS[0]})
    found = opened("folder", classes)
    assert found.labels is None
    assert found.classes == ()
    (classes / "top.png").unlink()
    (classes / "a" / "deep" / "1.png").unlink()
    assert opened("folder", classes).labels is None


def test_hidden_and_foreign_files_are_passed_over(classes):
    image = encoded(PIXELS[0])
    others = (".x.png", "notes.txt", "b/.hidden/1.png", ".checkpoints/1.png", "__MACOSX/b/1.png", "b/._1.png", "png")
    write(classes, dict.fromkeys(others, image))
    (classes / "folder.png").mkdir()
    assert len(opened("folder", classes)) == 4


def test_links_are_followed_and_loops_are_not(classes, tmp_path_factory):
    elsewhere = write(tmp_path_factory.mktemp("elsewhere"), {"1.png": PIXELS[0]})
    (classes / "c").symlink_to(elsewhere)
    (classes / "c2").symlink_to(elsewhere)
    (classes / "b" / "loop").symlink_to(classes)
    (classes / "b" / "gone.png").symlink_to(classes / "nowhere.png")
    names = opened("folder", classes).names
    assert names == ["a/deep/1.png", "b/1.png", "b/10.png", "b/2.PNG", "c/1.png"]


def test_a_pipe_is_no_image(classes):
    os.mkfifo(classes / "pipe.png")
    assert len(opened("folder", classes)) == 4


def test_every_format_is_found(tmp_path):
    forms = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF"}
    forms |= {"tif": "TIFF", "tiff": "TIFF"}
    flat = np.full((8, 8, 3), 200, np.uint8)
    write(tmp_path, {f"x.{suffix}": encoded(flat, form) for suffix, form in forms.items()})
    found = opened("folder", tmp_path)
    assert len(found) == len(forms) == len(tree.SUFFIXES)
    images, corrupt = read_all(found)
    assert not corrupt
    np.testing.assert_allclose(images, 200.0, atol=3)


def test_one_deep_image_makes_the_source_float_and_changes_no_other(tmp_path):
    pixels = noise(1, 16, 16)[0]
    write(tmp_path, {"1.png": pixels})
    flat, _ = read_all(opened("folder", tmp_path))
    write(tmp_path, {"2.png": np.full((16, 16), 1000, np.uint16)})
    found = opened("folder", tmp_path)
    assert not found.depth8
    images, corrupt = read_all(found)
    assert not corrupt
    np.testing.assert_array_equal(images[0], flat[0].astype(np.float32) / 255)
    np.testing.assert_allclose(images[1], 1000 / 65535, rtol=1e-6)


def test_a_deep_image_under_a_name_of_8_bits_is_corrupt_rather_than_rounded(tmp_path):
    write(tmp_path, {"1.png": PIXELS[0], "2.jpg": np.full((8, 8), 1000, np.uint16)})
    found = opened("folder", tmp_path)
    assert found.depth8
    assert "deeper than 8 bits" in read_all(found)[1]["2.jpg"]


def test_images_that_cannot_be_read_are_listed_with_their_reason(classes, monkeypatch):
    whole = (classes / "b" / "2.PNG").read_bytes()
    write(classes, {"b/2.PNG": whole[: len(whole) // 2], "b/10.png": b"plain text"})
    found = opened("folder", classes)
    (classes / "b" / "1.png").unlink()
    images, corrupt = read_all(found)
    assert "truncated" in corrupt["b/2.PNG"]
    assert "not an image" in corrupt["b/10.png"]
    assert "No such file" in corrupt["b/1.png"]
    np.testing.assert_array_equal(images[0], PIXELS[1])
    monkeypatch.setattr(folder, "MAX_BYTES", 100)
    assert "larger than 100 bytes" in read_all(found)[1]["a/deep/1.png"]


def test_an_abandoned_reading_leaves_no_threads(classes):
    before = threading.active_count()
    blocks = opened("folder", classes).blocks(1)
    next(blocks)
    blocks.close()
    assert threading.active_count() == before


def test_labels_of_edms_dataset_tool_come_first(classes):
    names = ["a/deep/1.png", "b/1.png", "b/10.png", "b/2.PNG"]
    entries = [[name, label] for name, label in zip(names, (2, 0, 5, 0), strict=True)]
    (classes / "dataset.json").write_text(json.dumps({"labels": [*entries, ["elsewhere.png", 9]]}))
    found = opened("folder", classes)
    assert found.labels.tolist() == [2, 0, 5, 0]
    assert found.labels.dtype == np.int64
    assert found.classes == ("0", "1", "2", "3", "4", "5")
    (classes / "dataset.json").write_text(json.dumps({"labels": None}))
    assert opened("folder", classes).labels is None  # the folders are no classes there


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must be"),
        ('{"labels": {}}', "must be a list"),
        ('{"labels": [["a/deep/1.png", 0]]}', "has no label for b/1.png"),
        ('{"labels": [["a/deep/1.png", 0.5]]}', "is not [name, class number]"),
        ('{"labels": [["a/deep/1.png", true]]}', "is not [name, class number]"),
        ('{"labels": [["a/deep/1.png", 1e400]]}', "is not [name, class number]"),
        ('{"labels": [["a/deep/1.png", 99999999999999999999]]}', "is not [name, class number]"),
        ('{"labels": [["a/deep/1.png", -1], ["b/1.png", 0], ["b/10.png", 0], ["b/2.PNG", 0]]}', "label -1"),
    ],
)
def test_bad_label_files_are_refused(classes, content, message):
    (classes / "dataset.json").write_text(content)
    line = complaint(opened, "folder", classes)
    assert message in line
    assert "dataset.json" in line


def test_noise_levels_come_from_levels_csv(classes):
    (classes / "levels.csv").write_text(
        "\ufeffname,sigma,note\nb/1.png,0.5,x\nb/2.PNG,0,\nb/10.png,,\n", encoding="utf-8"
    )
    assert opened("folder", classes).sigma is None
    sigma = opened("folder", classes, sigma_column="sigma").sigma
    assert sigma.dtype == np.float32
    np.testing.assert_array_equal(sigma, np.float32([np.nan, 0.5, np.nan, 0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("", "no column name; it has none"),
        ("name,level\n", "no column sigma; it has name, level"),
        ("name,sigma\nb/1.png,much\n", "line 2 cannot be read"),
        ("name,sigma\nb/1.png,-0.1\n", "b/1.png has the noise level -0.1; 0, or 1e-06 to 100, is needed"),
        ("name,sigma\nb/1.png,inf\n", "b/1.png has the noise level inf"),
        ("name,sigma\nb/1.png,0.1\nb/1.png,0.2\n", "names b/1.png twice"),
        ("name,sigma\n1.png,0.1\n", "names 1.png, which is no image here"),
        ('name,sigma\n"b/1.png,0.1\n', "cannot be read"),
    ],
)
def test_bad_levels_are_refused(classes, content, message):
    if content is not None:
        (classes / "levels.csv").write_text(content)
    line = complaint(opened, "folder", classes, sigma_column="sigma")
    assert message in line
    assert "levels.csv" in line


def test_bad_folders_are_named(tmp_path, monkeypatch):
    assert "data.path: missing" in complaint(open_source, DataConfig(source="folder"))
    assert "missing-folder cannot be opened" in complaint(opened, "folder", tmp_path / "missing-folder")
    assert "is no path" in complaint(opened, "folder", "a\0b")
    assert "holds no image" in complaint(opened, "folder", tmp_path)
    write(tmp_path, {"a/1.png": PIXELS[0]})
    assert "1.png is not a folder" in complaint(opened, "folder", tmp_path / "a" / "1.png")
    (tmp_path / "dataset.json").write_bytes(b"\xff\xfe")
    assert "dataset.json: cannot be read" in complaint(opened, "folder", tmp_path)
    (tmp_path / "dataset.json").unlink()
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.png", os.O_CREAT))
    assert "not UTF-8" in complaint(opened, "folder", tmp_path)

    def forbidden(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder.os, "scandir", forbidden)
    assert "cannot be read (Permission denied)" in complaint(opened, "folder", tmp_path)
