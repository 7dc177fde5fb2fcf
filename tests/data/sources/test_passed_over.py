"""Every file of a tree is an image read, a corrupt one named, or one passed over and counted."""

import json
import os
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import ambient_sweep, bad, good
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pictures import complaint, encoded, noise, opened, pack, read_all

from ambient_sweep.data.store import read_info
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.running import cluster

PIXELS = noise(8)
PNG, JPEG = encoded(PIXELS[0]), encoded(PIXELS[1], "JPEG")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ANNEXED = b"/annex/objects/SHA256E-s1--4d7a.png\n"
DATA = ("data.image_size=8", "data.channels=3")


def tree(root, content):
    """Writes files, and links where the content is a path."""
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(data) if isinstance(data, str) else (root / name).write_bytes(data)
    return root


def photos(root, count=30, **more):
    """Images of two classes, and other files."""
    return tree(root, {f"{'ab'[i % 2]}/{i:03}.png": encoded(image) for i, image in enumerate(noise(count))} | more)


# -- by content -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("name", ["1", "1.jfif", "1.dat", "v1.0/1", "1.", "é.JPE"])
def test_images_are_recognized_by_content_whatever_their_names_end_in(tmp_path, form, name):
    data = encoded(PIXELS[0], form)
    for found in (
        opened("folder", tree(tmp_path / "photos", {name: data})),
        opened("zip", pack(tmp_path / "x.zip", {"x/1": data, f"x/{name}": data})),
    ):
        assert (name in found.names, found.passed, read_all(found)[1]) == (True, {}, {})


def test_a_deep_image_without_an_ending_makes_the_source_float(tmp_path):
    found = opened("folder", tree(tmp_path / "x", {"1.png": PNG, "2": encoded(np.full((8, 8), 999, np.uint16))}))
    assert (found.depth8, read_all(found)[1]) == (False, {})


def test_other_files_are_passed_over_by_kind(tmp_path):
    others = {
        "notes.txt": b"BM is a bitmap", "README": b"x", "a/1.HEIC": b"\0\0\0\x18ftypheic", "a/empty": b"", "a/1.xmp": b"<",
        "inner.zip": b"PK\x03\x04", "set.tar.gz": b"\x1f\x8b", "raw.NEF": encoded(PIXELS[0], "TIFF"), "clip.thm": JPEG,
        "1.0001": b"x", ".hidden.png": PNG, ".git/x/1.png": PNG, "\n.txt": b"x",
    }  # fmt: skip
    kinds = {
        "notes.txt": ".txt", "README": "without ending", "a/1.HEIC": ".heic", "a/empty": "without ending",
        "a/1.xmp": ".xmp", "inner.zip": ".zip (not unpacked)", "set.tar.gz": ".gz (not unpacked)", "raw.NEF": ".nef",
        "clip.thm": ".thm", "1.0001": "without ending", ".hidden.png": "hidden", ".git/x/1.png": "hidden",
        "\n.txt": ".txt",
    }  # fmt: skip
    folder, path = tree(tmp_path / "photos", others | {"a/1.png": PNG}), tmp_path / "x.zip"
    for found in (opened("folder", folder), opened("zip", pack(path, others | {"a/1.png": PNG, "b.png": PNG}))):
        assert found.passed == kinds
        (line,) = found.lines()
        assert line.startswith(
            "passed over 13 files (3 without ending: 1.0001; 2 .txt: \\n.txt; 2 hidden: .git/x/1.png; "
        )
    os.mkfifo(folder / "pipe.png")
    os.close(os.open(os.fsencode(folder) + b"/\xff.txt", os.O_CREAT))
    found = opened("folder", folder)
    assert (found.names, found.passed["pipe.png"], len(found.passed)) == (["a/1.png"], "pipe, socket or device", 15)
    found.lines()[0].encode()  # can be printed


@pytest.mark.parametrize(
    "name",
    ["@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/1.png", "$RECYCLE.BIN/1.png", "@Recycle/1.png", "lost+found/1.png",
     "System Volume Information/1.png", "__MACOSX/1.png", "a/Thumbs.db", "desktop.ini", ".Trashes/1.png", ".DS_Store",
     ".thumbnails/1.png", ".Trash-1000/files/1.png", ".@__thumb/1.png", "LOST.DIR/1", "FOUND.000/1.png", "~snapshot/1.png",
     "@sharesnap/1.png", "@__thumb/1.png", "Recycled/1.png"],
)  # fmt: skip
def test_thumbnails_and_trash_of_systems_are_passed_over(tmp_path, name):
    content = {"a/1.png": PNG, "b/1.png": PNG, name: JPEG}
    for found in (
        opened("folder", tree(tmp_path / "photos", content)),
        opened("zip", pack(tmp_path / "x.zip", content)),
    ):
        assert (found.names, [*found.passed], found.classes) == (["a/1.png", "b/1.png"], [name], ("a", "b"))


def test_a_system_folder_that_may_not_be_read_is_no_hindrance(tmp_path, monkeypatch):
    root, scandir = tree(tmp_path / "photos", {"1.png": PNG, "lost+found/1.png": PNG}), os.scandir

    def closed(path):
        if "lost+found" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert opened("folder", root).names == ["1.png"]


def test_files_that_a_source_uses_are_not_passed_over(tmp_path):
    content = {
        "1.png": PNG,
        "dataset.json": b'{"labels": null}',
        "metadata.csv": b"file_name\n1.png\n",
        "levels.csv": b"",
    }
    zipped = {f"set/{name}": data for name, data in content.items()} | {"dataset.json": b"another"}
    for found, top, more in (
        (opened("folder", tree(tmp_path / "photos", content)), "", {}),
        (opened("zip", pack(tmp_path / "x.zip", zipped)), "set/", {"set/dataset.json": ".json"}),
    ):
        assert found.passed == {f"{top}levels.csv": ".csv"} | more


def test_a_tree_without_images_says_what_there_is(tmp_path):
    line = complaint(opened, "folder", tree(tmp_path / "x", {"train.zip": b"PK\x03\x04", "a/1.heic": b"x"}))
    assert line.endswith("passed over 2 files (1 .heic: a/1.heic; 1 .zip (not unpacked): train.zip)")


def test_files_beside_parquet_files_are_passed_over(tmp_path):
    table = pa.table({"image": [encoded(image) for image in PIXELS]})
    tree(tmp_path, {"README.md": b"x", "1.png": PNG, ".cache/0.parquet": b"x", "a/_SUCCESS": b""})
    pq.write_table(table, tmp_path / "a" / "0.parquet")
    found = opened("parquet", tmp_path)
    assert found.passed == {
        "README.md": ".md", "1.png": "image", ".cache/0.parquet": "hidden", "a/_SUCCESS": "without ending",
    }  # fmt: skip
    tree(tmp_path, {"a/1.parquet": "nowhere"})
    assert "1.parquet: cannot be read" in complaint(opened, "parquet", tmp_path)


# -- links and pointers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("b/9.png", "nowhere.png", "a link that leads nowhere"),
        ("c", "/nowhere/c", "a link that leads nowhere"),
        ("b/self", "self", "a link that leads nowhere"),
        ("b/9.png", "../.git/annex/objects/X/1.png", "an annexed file that is not here; `git annex get`"),
        ("b/9.png", ANNEXED, "an annexed file that is not here; `git annex get`"),
        ("b/9.png", LFS, "a Git LFS pointer; `git lfs pull`"),
        ("b/9.jfif", LFS, "a Git LFS pointer; `git lfs pull`"),
        ("b/9", ANNEXED, "an annexed file that is not here; `git annex get`"),
        ("b/9.png", LFS.replace(b"git-lfs", b"hawser"), "a Git LFS pointer; `git lfs pull`"),
    ],
)
def test_what_stands_for_a_file_that_is_not_here_is_corrupt(tmp_path, name, data, reason):
    folder = photos(tmp_path / "photos", **{name: data})
    line = bad("prepare", tmp_path / "store", "data.source=folder", f"data.path={folder}", *DATA)
    assert f"1 of 31 images cannot be read ({name}: {reason}" in line
    assert not (tmp_path / "store").exists()
    if isinstance(data, bytes):
        assert reason in read_all(opened("zip", pack(tmp_path / "x.zip", {"b/1.png": PNG, name: data})))[1][name[2:]]


@pytest.mark.parametrize(
    ("source", "file"),
    [("zip", ""), ("parquet", ""), ("array", ""), ("zip", "test"), ("array", "test"), ("parquet", "1.parquet"),
     ("cifar10", "test_batch.bin"), ("cifar10", "data_batch_3.bin")],
)  # fmt: skip
def test_a_source_that_is_a_pointer_says_so(tmp_path, source, file):
    tree(tmp_path / "x" if file else tmp_path, {file or "x": LFS})
    keys = {"split": {"train": "test", "heldout": "train"}} if file == "test" else {}
    line = complaint(opened, source, tmp_path / "x", **keys)
    assert line == f"data.path: {tmp_path / 'x' / file} is a Git LFS pointer; `git lfs pull` fetches the file"


@pytest.mark.parametrize("file", ["metadata.csv", "a/metadata.jsonl", "metadata.parquet", "dataset.json"])
def test_a_pointer_beside_the_images_is_none_of_them(tmp_path, file):
    found = opened("folder", tree(tmp_path / "x", {"a/1.png": PNG, file: LFS}))
    assert (found.names, found.passed) == (["a/1.png"], {})
    assert found.lines() == (
        f"metadata is left out: {tmp_path / 'x' / file}: a Git LFS pointer; `git lfs pull` fetches the file",
    )


def test_links_that_lead_back_end_nowhere(tmp_path):
    content = {
        "a/1.png": PNG,
        "b/1.png": PNG,
        "a/up": "..",
        "b/here": ".",
        "b/a": "../a",
        "above": "../..",
        ".x/y": "../b",
    }
    tree(tmp_path, {"elsewhere.png": PNG})
    found = opened("folder", tree(tmp_path / "photos" / "set", content))
    assert (found.names, found.passed) == (["a/1.png", "b/1.png"], {})


# -- zip files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a/1.png", "./a/1.png", "a/./1.png", "x/../a/1.png", "../a/1.png", "a\\1.png", "//a/1.png"]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_replaces_another_is_counted(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for each, pixels in (("a/1.png", PIXELS[0]), ("b/1.png", PIXELS[1]), (name, PIXELS[2])):
            archive.writestr(each, encoded(pixels))
    found = opened("zip", tmp_path / "x.zip")
    assert (found.names, found.classes) == (["a/1.png", "b/1.png"], ("a", "b"))
    assert [*found.passed.values()] == ["replaced by an entry of the same name"]
    np.testing.assert_array_equal(read_all(found)[0], PIXELS[[2, 1]])


def test_names_that_only_some_systems_take_for_one_are_images_of_their_own(tmp_path):
    names = ["1.PNG", "1.png", "e\u0301.png", "\u00e9.png"]
    found = opened("zip", pack(tmp_path / "x.zip", dict.fromkeys(names, PNG)))
    assert (found.names, found.passed) == (names, {})


# -- parts of a data set --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        ("train test", "train test"),
        ("TRAIN Val Test", "TRAIN Test"),
        ("training validation holdout", "training validation"),
        ("train valid masks", "train valid"),
        ("dev eval", "dev eval"),
        ("test val", "val test"),
        ("train2017 val2017", "train2017 val2017"),
        ("trainA trainB testA testB", "trainA testB"),
        ("Training PublicTest PrivateTest", "Training PublicTest"),
        ("seg_train seg_test seg_pred", "seg_train seg_test"),
        ("train held-out", "train held-out"),
        ("train bus car", None),
        ("cats dogs", None),
        ("train_station train_depot", None),
        ("bullet_train test_tube cat dog bird", None),
        ("latest trained", None),
        ("train", None),
        ("imagesTr imagesTs", "imagesTr imagesTs"),
        ("traindata testdata", "traindata testdata"),
        ("trainval test", "trainval test"),
        ("trn tst vld", "trn vld"),
        ("train unlabeled", "train unlabeled"),
        ("development test", "development test"),
        ("train test masks depth edges", "train test"),
    ],
)
def test_parts_of_a_data_set_are_no_classes(tmp_path, folders, split):
    content = {f"{folder}/{row}.png": PNG for folder in folders.split() for row in range(2)}
    found = opened("folder", tree(tmp_path / "photos", content))
    if split is None:
        assert (found.lines(), len(found.classes)) == ((), len(folders.split()) if " " in folders else 0)
        return
    train, heldout = split.split()
    (line,) = found.lines()
    assert (found.labels, found.classes) == (None, ())
    assert "parts of a data set, not classes" in line
    assert f"data.split: {{train: {train}, heldout: {heldout}}}" in line
    labels = json.dumps({"labels": [[name, 1] for name in content]})  # which says so itself
    assert opened("folder", tree(tmp_path / "photos", {"dataset.json": labels.encode()})).classes == ("0", "1")


# -- what commands say ----------------------------------------------------------------------------------------------

LINE = "passed over 3 files (2 .txt: a/000.txt; 1 hidden: .x.png)"
MORE = {"a/000.txt": b"", "b/001.txt": b"", ".x.png": PNG}


def test_prepare_counts_and_a_store_keeps_the_counts(tmp_path):
    folder, store, noisy = photos(tmp_path / "photos", **MORE), tmp_path / "store", tmp_path / "noisy"
    keys = ("data.source=folder", f"data.path={folder}", *DATA)
    assert LINE in good("prepare", store, *keys).splitlines()
    named = [
        {"name": name, "kind": kind}
        for name, kind in ((".x.png", "hidden"), *((f"{n}", ".txt") for n in sorted(MORE)[1:]))
    ]
    assert read_info(store).passed == {"count": 3, "kinds": {"hidden": 1, ".txt": 2}, "first": named}
    good("prepare", noisy, *keys, "--observed-only", "0.1")
    assert read_info(noisy).passed == {"count": 3}
    assert all(b"001.txt" not in file.read_bytes() for file in noisy.glob("*.json"))


def test_train_and_run_say_what_they_pass_over_and_skip(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", 150, **MORE, **{"b/9.png": LFS})
    config = {
        "data": {"source": "folder", "path": str(folder), "image_size": 8, "channels": 3, "on_corrupt": "skip"},
        "data.train_size": 20,
        "model": {"kind": "mlp", "width": 8, "blocks": 1}, "training": {"images": 32, "batch_size": 8},
        "evaluation": {"samples": 8, "lengths": [1.0], "memorization": "mem_ratio"}, "sampling": {"steps": 2},
        "objective": {"kind": "denoising"},
    }  # fmt: skip
    (tmp_path / "x.yaml").write_text(json.dumps(config))
    (tmp_path / "sweep.yaml").write_text(
        json.dumps({"name": "sweep", "base": config, "space": {"observed.sigma": {"choice": [0.1, 0.2]}}})
    )

    def refuse(**_):
        raise UserError("no Ray in this test")

    monkeypatch.setattr(cluster, "ray_session", refuse)
    skipped = "skipped: 1 of 151 images cannot be read (b/9.png: a Git LFS pointer; `git lfs pull` fetches the file)"
    for command, file in (("train", "x.yaml"), ("run", "sweep.yaml")):
        code, out, err = ambient_sweep(command, tmp_path / file, "--storage", tmp_path / command)
        assert {LINE, skipped} <= set(out.splitlines()), (code, err)


def test_measure_says_what_it_passes_over(tmp_path):
    for seed, part in enumerate(("generated", "train", "heldout")):
        tree(tmp_path / part, {f"{i}.png": encoded(image) for i, image in enumerate(noise(120, seed=seed))})
    tree(tmp_path / "train", MORE)
    words = [word for part in ("generated", "train", "heldout") for word in (f"--{part}", tmp_path / part)]
    words += ["evaluation.distances=[fd_pixels]", "--without", "sim_excess"]
    note = f"--train {tmp_path / 'train'}: {LINE}"
    assert note in good("measure", *words).splitlines()
    assert json.loads(good("measure", *words, "--json"))["notes"] == [note]


# -- nothing is lost ------------------------------------------------------------------------------------------------

FOLDERS = st.lists(st.sampled_from(["a", "B", "train", "test", "é", ".h", "@eaDir", "x y", "x.png"]), max_size=3)
NAMES = st.sampled_from(["1.png", "2.JPG", "3", "4.txt", "5.jfif", ".6.png", "Thumbs.db", "7.zip", "8.nef", "9\n.txt"])
KINDS = {
    "image": PNG,
    "photo": JPEG,
    "text": b"text",
    "empty": b"",
    "cut off": PNG[:40],
    "lfs": LFS,
    "annexed": ANNEXED,
}
PATHS = st.tuples(FOLDERS, NAMES).map(lambda each: "/".join([*each[0], each[1]]))
LINKS = st.sampled_from(["dead link", "link", "loop", "pipe"])
FEW = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def fate(name, kind):
    """What must become of a file, by rules of its own: "read", "corrupt" or "passed"."""
    if re.search(r"(^|/)(\.|@eaDir/|Thumbs\.db$)", name) or kind == "pipe":
        return "passed"
    by_name, closed = re.search(r"(?i)\.(png|jpg)$", name), re.search(r"\.(zip|nef)$", name)
    if closed:
        return "passed"
    if kind in ("image", "photo", "link"):
        return "read"
    return "corrupt" if by_name or kind in ("cut off", "lfs", "annexed", "dead link") else "passed"


def check(source, path, expected, replaced=0):
    """Every file of `expected`, names and fates, met its fate, and `replaced` more were passed over."""
    there = {fate: {name for name, each in expected.items() if each == fate} for fate in ("read", "corrupt", "passed")}
    if not there["read"] | there["corrupt"]:
        line = complaint(opened, source, path)
        assert f"passed over {len(expected) + replaced} files (" in line or not expected
        return
    found = opened(source, path)
    corrupt = set(read_all(found, 50)[1])
    assert len(found) + len(found.passed) == len(expected) + replaced
    assert corrupt == there["corrupt"]
    assert set(found.names) - corrupt == there["read"]
    assert all("\n" not in line for line in found.lines())


@FEW
@given(st.dictionaries(PATHS, st.one_of(st.sampled_from([*KINDS]), LINKS), max_size=8))
@example({"a/1.png": "loop", "a/3": "dead link", "B/3": "image"})
def test_every_file_of_a_folder_is_read_corrupt_or_passed_over(content):
    with tempfile.TemporaryDirectory() as place:
        root, expected = Path(place) / "root", {}
        root.mkdir()
        (Path(place) / "elsewhere").write_bytes(PNG)
        for name, kind in content.items():
            file = root / name
            if any(parent.is_file() or parent.is_symlink() for parent in file.parents) or os.path.lexists(file):
                continue
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError:
                continue
            match kind:
                case "dead link":
                    file.symlink_to("nowhere")
                case "link":
                    file.symlink_to(Path(place) / "elsewhere")
                case "loop":
                    file.symlink_to("..")
                case "pipe":
                    os.mkfifo(file)
                case _:
                    file.write_bytes(KINDS[kind])
            if kind != "loop":
                expected[name] = fate(name, kind)
        assert len(expected) == sum(len(files) for _, _, files in os.walk(root))
        check("folder", root, expected)


@FEW
@given(
    st.lists(st.tuples(st.sampled_from(["", "./", "../", "x/../", "/"]), PATHS, st.sampled_from([*KINDS])), max_size=8)
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_every_entry_of_a_zip_is_read_corrupt_or_passed_over(entries):
    with tempfile.TemporaryDirectory() as place:
        path, expected = Path(place) / "x.zip", {"0.png": "read"}  # beside all folders, so that none is the root
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("0.png", PNG)
            archive.writestr("a/", b"")
            for prefix, name, kind in entries:
                archive.writestr(prefix + name, KINDS[kind])
                expected[name] = fate(name, kind)
        check("zip", path, expected, replaced=len(entries) + 1 - len(expected))
