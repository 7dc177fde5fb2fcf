"""The metadata file beside the images of a folder or a zip file, and the same columns elsewhere."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import complaint, encoded, noise, opened, pack

NAMES = ["a/1.png", "a/2.png", "b/1.png", "b/10.png"]
FILES = {name: encoded(image) for name, image in zip(NAMES, noise(4), strict=True)}
ROWS = [
    {"file_name": "b/1.png", "label": 7, "sigma": 0.5, "group": "p1", "text": "a cat,\n\"asleep\""},
    {"file_name": "a/1.png", "label": 3, "sigma": 0, "group": "p2", "text": None},
    {"file_name": "./b/10.png", "label": 3, "sigma": None, "group": "p1", "text": "a dog"},
    {"file_name": "a/2.png", "label": 4, "sigma": None, "group": None, "text": "a pug"},
]  # fmt: skip
KEYS = {"sigma_column": "sigma", "group_column": "group"}


@pytest.fixture
def photos(tmp_path):
    for name, data in FILES.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    return tmp_path / "photos"


def as_csv(rows, newline="\r\n"):
    cell = lambda value: "" if value is None else '"' + str(value).replace('"', '""') + '"'  # noqa: E731
    lines = [",".join(rows[0]), *(",".join(map(cell, row.values())) for row in rows)]
    return ("\ufeff" + newline.join(lines) + newline).encode()


def as_jsonl(rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_parquet(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


FORMS = {"metadata.csv": as_csv, "metadata.jsonl": as_jsonl, "metadata.parquet": as_parquet}


@pytest.mark.parametrize("file", FORMS)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_its_columns_are_read_whatever_its_form(photos, kind, file):
    (photos / file).write_bytes(FORMS[file](ROWS))
    path = photos if kind == "folder" else pack(photos.parent / "x.zip", FILES | {file: FORMS[file](ROWS)})
    found = opened(kind, path, **KEYS)
    assert found.names == NAMES
    assert (found.labels.tolist(), found.classes[3:]) == ([3, 4, 7, 3], ("3", "4", "5", "6", "7"))
    np.testing.assert_array_equal(found.sigma, np.float32([0, np.nan, 0.5, np.nan]))
    assert found.groups.tolist() == [0, 1, 2, 2]
    assert found.columns.read("text").tolist() == [None, "a pug", 'a cat,\n"asleep"', "a dog"]
    assert found.notes == ("1 images are in no group; each counts as a group of its own",)


def test_files_in_subfolders_are_relative_to_these_and_what_does_not_match_is_counted(photos):
    (photos / "a" / "metadata.csv").write_text("file_name,label\n1.png,x\n3.png,y\n")
    (photos / "b" / "metadata.jsonl").write_text('{"file_name": "10.png", "label": "z"}\n\n')
    found = opened("folder", photos, label_column=None)
    assert found.notes == (
        "2 images have no row in a/metadata.csv and 1 more (a/2.png, b/1.png)",
        "1 rows name no image of this set in a/metadata.csv and 1 more (a/3.png)",
    )
    (photos / "a" / "metadata.csv").write_text("file_name,label\n1.png,x\n2.png,y\n")
    (photos / "b" / "metadata.jsonl").write_text(
        '{"file_name": "10.png", "label": "z"}\n{"file_name": "1.png", "label": "x"}'
    )
    found = opened("folder", photos)
    assert (found.labels.tolist(), found.classes, found.notes) == ([0, 1, 0, 2], ("x", "y", "z"), ())


def test_labels_of_folders_remain_where_it_has_none_and_what_is_not_used_is_said(photos):
    (photos / "metadata.csv").write_text(
        "file_name,split,group,sigma\n" + "".join(f"{name},test,1,0.1\n" for name in NAMES)
    )
    found = opened("folder", photos)
    assert (found.classes, found.sigma, found.groups, found.published) == (("a", "b"), None, None, None)
    assert found.notes == (
        "the column sigma is not used; data.sigma_column=sigma uses it",
        "the column group is not used; data.group_column=group uses it",
        "the column split is not used; data.split={train: VALUE, heldout: VALUE} uses it",
    )
    (photos / "metadata.csv").write_text("id,label\n1,2\n")  # of another kind
    found = opened("folder", photos)
    assert (found.classes, found.notes) == (("a", "b"), ("metadata.csv is not used: it has no column file_name",))


def test_blanks_after_commas_do_not_count(photos):
    (photos / "metadata.csv").write_text(
        "\nfile_name, label\n" + "".join(f"{name}, {row}\n" for row, name in enumerate(NAMES))
    )
    assert opened("folder", photos).classes == ("0", "1", "2", "3")


def test_names_of_groups_are_told_apart_as_they_are_written(photos):
    (photos / "metadata.csv").write_text("file_name,group\na/1.png,7\na/2.png,07\nb/1.png,7.0\nb/10.png,7\n")
    assert opened("folder", photos, group_column="group").groups.tolist() == [0, 1, 2, 0]
    rows = [{"file_name": name, "group": group} for name, group in zip(NAMES, (1, None, 1, 2), strict=True)]
    (photos / "metadata.csv").unlink()
    (photos / "metadata.parquet").write_bytes(as_parquet(rows))
    assert opened("folder", photos, group_column="group").groups.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metadata.csv", b"", "metadata.csv: has no column sigma; it has none"),
        ("metadata.csv", b"file_name,level\nb/1.png,1\n", "metadata.csv: has no column sigma; it has level"),
        ("metadata.csv", b"file_name,sigma\nb/1.png,much\n", "sigma: is object; noise levels must be numbers"),
        ("metadata.csv", b"file_name,sigma\nb/1.png,-0.1\n", "the noise level of b/1.png is -0.1; it must be 0, or from"),
        ("metadata.csv", b"file_name,sigma\nb/1.png,1\n./b/1.png,2\n", "names b/1.png twice"),
        ("metadata.csv", b"file_name,sigma\n,1\n", "file_name is None in a row"),
        ("metadata.csv", b"file_name,sigma\nb/1.png,1,2\n", "rows of different lengths"),
        ("metadata.csv", b"file_name,sigma,sigma\nb/1.png,1,2\n", "two columns of one name"),
        ("metadata.csv", b"file_name,sigma\n\xff,1\n", "cannot be read ('utf-8'"),
        ("metadata.csv", b'file_name,sigma\n"b/1.png,1\n', "cannot be read (unexpected end of data"),
        ("metadata.jsonl", b'{"file_name": "b/1.png", "sigma": 1\n', "cannot be read (Expecting"),
        ("metadata.jsonl", b"[1]\n", "cannot be read (cannot convert"),
        ("metadata.jsonl", b'{"file_name": 3, "sigma": 1}\n', "file_name is 3 in a row"),
        ("metadata.jsonl", b"[" * 100_000, "cannot be read"),
        ("metadata.parquet", b"PAR1", "cannot be read"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(photos, file, content, message):
    (photos / file).write_bytes(content)
    line = complaint(opened, "folder", photos, sigma_column="sigma")
    assert message in line
    assert str(photos) in line
    found = opened("folder", photos)  # nothing that it says is asked for
    assert (found.classes, found.sigma) == (("a", "b"), None)
    assert any("metadata" in note for note in found.notes)


def test_two_files_in_one_folder_are_refused(photos):
    for file in ("metadata.csv", "metadata.jsonl"):
        (photos / file).write_bytes(FORMS[file](ROWS))
    assert "metadata.csv: lies beside metadata.jsonl; keep one" in complaint(opened, "folder", photos, **KEYS)
    assert opened("folder", photos).notes[0].endswith("metadata.csv: lies beside metadata.jsonl; keep one of them")
    (photos / "metadata.csv").rename(photos / "a" / "metadata.csv")
    (photos / "a" / "metadata.csv").write_text("file_name,label\n1.png,3\n")
    assert "names a/1.png twice; give each image one row" in complaint(opened, "folder", photos, **KEYS)


def test_parquet_and_npz_have_the_same_columns(tmp_path):
    groups, text = ["p1", "p2", None, "p1"], ["one", None, "three", "four"]
    table = pa.table({"image": list(FILES.values()), "group": groups, "text": text, "split": ["train"] * 4})
    pq.write_table(table, tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", image=noise(4), patient=np.array([5, 4, 4, 9]), text=np.array(text[2:] * 2))
    found = opened("parquet", tmp_path / "x.parquet", group_column="group")
    assert (found.groups.tolist(), found.columns.read("text").tolist()) == ([0, 1, 2, 0], text)
    assert found.notes[1:] == ("the column split is not used; data.split={train: VALUE, heldout: VALUE} uses it",)
    found = opened("array", tmp_path / "x.npz", group_column="patient")
    assert (found.groups.tolist(), found.columns.read("text").tolist()) == ([0, 1, 1, 2], text[2:] * 2)


def test_a_column_of_labels_that_is_asked_for_must_exist(photos, tmp_path):
    """`label` too, unlike the default, which reads it where it is there."""
    pq.write_table(pa.table({"image": list(FILES.values())}), tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", image=noise(4))
    for kind, path in (("folder", photos), ("parquet", tmp_path / "x.parquet"), ("array", tmp_path / "x.npz")):
        assert ": has no column label; it has " in complaint(opened, kind, path, label_column="label")
        assert opened(kind, path).unlabelled is None
        assert opened(kind, path, label_column=None).labels is None


def test_groups_may_be_named_by_a_pattern(photos):
    found = opened("folder", photos, group_pattern="^[^/]+/(1)")
    assert (found.groups.tolist(), found.notes[0][:22]) == ([0, 1, 0, 0], "1 images are in no gro")
    line = complaint(opened, "folder", photos, group_pattern="(p[0-9]+)_")
    assert line == "data.group_pattern: (p[0-9]+)_ matches no name, such as a/1.png"
