import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from pictures import complaint, damaged, encoded, noise, opened, outcome, read_all

from ambient_sweep.data.sources import source

NAMES = ["a/deep/1.png", "b/1.png", "b/10.png", "b/2.PNG"]
PIXELS = dict(zip(NAMES, noise(4), strict=True))
FILES = {name: encoded(image) for name, image in PIXELS.items()}


def pack(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.zip"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_reads_as_the_folder_it_was_made_of(tmp_path, path, method):
    files = FILES | {
        "levels.csv": "name,sigma\nb/1.png,0.5\n",
        "deep.tif": encoded(np.full((9, 9), 1000, np.uint16), "TIFF"),
        "gone.png": b"no image",
        "__MACOSX/b/1.png": FILES["b/1.png"],
        "b/._1.png": b"",
        ".x/1.png": FILES["b/1.png"],
    }
    pack(path, files, method)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    found, folder = (
        opened(source, place, sigma_column="sigma")
        for source, place in (("zip", path), ("folder", tmp_path / "folder"))
    )
    assert found.names == folder.names == sorted([*NAMES, "deep.tif", "gone.png"])
    np.testing.assert_array_equal(found.sigma, folder.sigma)
    assert found.depth8 == folder.depth8 is False
    for size in (2, 100):
        images, corrupt = read_all(found, size)
        expected, _ = read_all(folder)
        np.testing.assert_array_equal(images, expected)
        assert list(corrupt) == ["gone.png"]


def test_an_entry_without_a_name_is_passed_over(path):
    with zipfile.ZipFile(pack(path, FILES), "a") as archive:
        archive.writestr("NAMELESS", b"")
    content = path.read_bytes()
    header, directory = (content.rindex(b"NAMELESS", 0, end) for end in (content.rindex(b"NAMELESS"), len(content)))
    content = bytearray(content)
    content[directory - 46 + 28] = 0  # the name's length in the directory
    content[directory - 46 + 30] = 8  # its bytes are an extra field now
    content[directory : directory + 8] = b"\xff\xff\x04\x00abcd"
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [*NAMES, ""]
    assert header < directory
    assert opened("zip", path).names == sorted(NAMES)


def test_images_and_labels(path):
    found = opened("zip", pack(path, FILES))
    assert found.depth8
    assert found.labels.tolist() == [0, 1, 1, 1]
    assert found.classes == ("a", "b")
    np.testing.assert_array_equal(read_all(found)[0], np.stack([PIXELS[name] for name in NAMES]))


@pytest.mark.parametrize("prefix", ["", "set/", "./set/"])
def test_a_folder_that_holds_everything_is_the_root(path, prefix):
    """As in `zip -r set.zip set`, with the labels that EDM's dataset tool writes, or by the folders below."""
    files = {prefix + name: data for name, data in FILES.items()}
    found = opened("zip", pack(path, files))
    assert found.names == [prefix.removeprefix("./") + name for name in NAMES]
    assert found.classes == ("a", "b")
    labels = json.dumps({"labels": [[name, 3] for name in NAMES]})
    levels = "name,level\nb/2.PNG,0.25\n"
    pack(path, files | {prefix + "dataset.json": labels, prefix + "levels.csv": levels})
    found = opened("zip", path, sigma_column="level")
    assert found.labels.tolist() == [3, 3, 3, 3]
    np.testing.assert_array_equal(found.sigma, np.float32([np.nan, np.nan, np.nan, 0.25]))


def test_of_entries_of_one_name_the_last_counts(path):
    pack(path, {"1.png": FILES["b/1.png"], "2.png": FILES["b/1.png"]})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("1.png", FILES["b/10.png"])
    images, _ = read_all(opened("zip", path))
    np.testing.assert_array_equal(images, [PIXELS["b/10.png"], PIXELS["b/1.png"]])


def test_zip64_and_leading_bytes(path):
    with zipfile.ZipFile(path, "w") as archive, archive.open("1.png", "w", force_zip64=True) as entry:
        entry.write(FILES["b/1.png"])
    path.write_bytes(b"#!/bin/sh\n" * 9 + path.read_bytes())
    np.testing.assert_array_equal(read_all(opened("zip", path))[0], [PIXELS["b/1.png"]])


def test_one_damaged_entry_costs_one_image(path):
    pack(path, FILES, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(FILES["b/1.png"]) + 60] ^= 1
    path.write_bytes(data)
    images, corrupt = read_all(opened("zip", path))
    assert corrupt == {"b/1.png": "its size or checksum in the zip file is wrong"}
    np.testing.assert_array_equal(images[2], PIXELS["b/10.png"])


def patched(path, name, offset, form, value):
    """Overwrites a field of the entry's record in the directory."""
    data = bytearray(path.read_bytes())
    record = data.rindex(name.encode()) - 46
    assert data[record : record + 4] == b"PK\x01\x02"
    struct.pack_into(form, data, record + offset, value)
    path.write_bytes(data)


def test_an_absurd_size_is_refused_before_it_is_unpacked(path):
    pack(path, FILES)
    patched(path, "b/1.png", 24, "<I", 2**31)
    assert "declares 2147483648 bytes" in read_all(opened("zip", path))[1]["b/1.png"]


def test_an_entry_that_unpacks_to_more_than_declared_is_stopped(path):
    pack(path, {"1.png": b"\0" * 10_000_000, "2.png": FILES["b/1.png"]})
    patched(path, "1.png", 24, "<I", 100)
    found = opened("zip", path)
    tracemalloc.start()
    assert read_all(found)[1] == {"1.png": "its size or checksum in the zip file is wrong"}
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_a_wrong_place_is_corrupt(path):
    pack(path, FILES)
    patched(path, "b/1.png", 42, "<I", 7)
    assert "no entry where its directory says" in read_all(opened("zip", path))[1]["b/1.png"]


def test_what_cannot_be_read_at_all_is_refused(tmp_path, path):
    assert "cannot be opened" in complaint(opened, "zip", path)
    assert "cannot be read as a zip file" in complaint(opened, "zip", tmp_path)
    path.write_bytes(b"no zip")
    assert "cannot be read as a zip file" in complaint(opened, "zip", path)
    assert "holds no image" in complaint(opened, "zip", pack(path, {"x.txt": "x"}))
    whole = pack(path, FILES).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as a zip file" in complaint(opened, "zip", path)
    pack(path, FILES)
    patched(path, "b/1.png", 8, "<H", 1)
    assert "b/1.png: is encrypted" in complaint(opened, "zip", path)
    pack(path, FILES, zipfile.ZIP_BZIP2)
    assert "a/deep/1.png: is packed by method 12" in complaint(opened, "zip", path)
    pack(path, FILES | {"dataset.json": "{"})
    assert "x.zip/dataset.json: is not JSON" in complaint(opened, "zip", path)
    pack(path, FILES | {"dataset.json": b"\xff"})
    assert "dataset.json: cannot be read" in complaint(opened, "zip", path)


def test_damage_is_refused_or_listed_and_raises_nothing_else(path):
    whole = pack(path, FILES | {"levels.csv": "name,sigma\n"}).read_bytes()
    outcomes = set()
    for seed in range(250):
        # the directory, at the end, is where damage tells
        data = damaged(whole, seed) if seed % 2 else whole[:-400] + damaged(whole[-400:], seed)
        path.write_bytes(data)
        outcomes.add(outcome("zip", path, sigma_column="sigma"))
    assert outcomes == {"refused", "listed", "read"}


def test_threads_do_not_mix_up_entries(path, monkeypatch):
    pixels = noise(300)
    pack(path, {f"{i:03}.png": encoded(image) for i, image in enumerate(pixels)})
    monkeypatch.setattr(source, "THREADS", 8)
    np.testing.assert_array_equal(read_all(opened("zip", path), 300)[0], pixels)
