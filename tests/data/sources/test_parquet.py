import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import complaint, damaged, encoded, noise, opened, outcome, read_all

PIXELS = noise(10)
BYTES = [encoded(image) for image in PIXELS]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def structs(images, path="x.png"):
    return pa.array([{"bytes": data, "path": path} for data in images], STRUCT)


def save(path, metadata=None, group=3, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.parquet"


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), STRUCT, pa.struct([("bytes", pa.binary())])]
)
def test_every_kind_of_image_column_is_read(path, kind):
    values = BYTES if not pa.types.is_struct(kind) else [{"bytes": data} for data in BYTES]
    found = opened("parquet", save(path, image=pa.array(values, kind)))
    assert found.depth8
    assert found.labels is None
    assert found.classes == ()
    assert found.sigma is None
    for size in (1, 4, 100):
        images, corrupt = read_all(found, size)
        np.testing.assert_array_equal(images, PIXELS)
        assert not corrupt


def test_shards_are_read_by_name_and_blocks_cross_them(tmp_path):
    for number, rows in ((1, slice(3, 10)), (0, slice(0, 3)), (2, slice(0, 0))):
        part = {"image": structs(BYTES[rows]), "label": pa.array(range(10)[rows]), "sigma": pa.array([0.5] * 10)[rows]}
        save(tmp_path / "data" / f"train-0000{number}-of-00003.parquet", **part)
    save(tmp_path / ".cache" / "y.parquet", image=structs(BYTES))
    found = opened("parquet", tmp_path, sigma_column="sigma")
    for size in (2, 5, 10):
        np.testing.assert_array_equal(read_all(found, size)[0], PIXELS)
    assert found.names[0] == "data/train-00000-of-00003.parquet#0"
    assert found.names[3] == "data/train-00001-of-00003.parquet#0"
    assert found.names[-1] == "data/train-00001-of-00003.parquet#6"
    assert len(set(found.names)) == 10
    assert found.labels.tolist() == list(range(10))
    assert (found.sigma == np.float32(0.5)).all()


def test_labels_by_number_name_and_class_label(path):
    images = structs(BYTES[:3])
    found = opened("parquet", save(path, image=images, label=pa.array([2, 0, 2], pa.int8())))
    assert found.labels.tolist() == [2, 0, 2]
    assert found.labels.dtype == np.int64
    assert found.classes == ("0", "1", "2")
    names = {"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}
    assert opened("parquet", save(path, names, image=images, label=[1, 0, 1])).classes == ("cat", "dog", "eel")
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        found = opened(
            "parquet", save(path, image=images, breed=pa.array(["pug", "cur", "pug"], kind)), label_column="breed"
        )
        assert found.labels.tolist() == [1, 0, 1]
        assert found.classes == ("cur", "pug")
    assert opened("parquet", path).labels is None
    assert opened("parquet", save(path, image=images, label=[1.5] * 3), label_column=None).labels is None


def test_dictionaries_of_shards_may_differ(tmp_path):
    for name, values in (("a", ["x", "y"]), ("b", ["z", "x"])):
        save(tmp_path / f"{name}.parquet", image=structs(BYTES[:2]), label=pa.array(values).dictionary_encode())
    found = opened("parquet", tmp_path)
    assert found.labels.tolist() == [0, 1, 2, 0]
    assert found.classes == ("x", "y", "z")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, None, 1], "row 1 has no label"),
        ([0.0, 1.0, 2.0], "is double; labels must be whole numbers or strings"),
        ([True, False, True], "is bool"),
        ([[0], [1], [2]], "is list"),
        ([0, -1, 2], "the label -1 is negative"),
        ([0, 10**12, 2], "the label 1000000000000 is too large for 1,000,000 classes"),
    ],
)
def test_bad_labels_are_refused(path, label, message):
    line = complaint(opened, "parquet", save(path, image=structs(BYTES[:3]), label=label))
    assert message in line
    assert "x.parquet" in line


def test_class_names_must_cover_the_labels_and_agree(tmp_path, path):
    def names(*classes):
        return {"info": {"features": {"label": {"names": list(classes)}}}}

    save(path, names("cat"), image=structs(BYTES[:2]), label=[0, 1])
    assert "the label 1 is too large for 1 classes" in complaint(opened, "parquet", path)
    save(path, names("cat", "dog"), image=structs(BYTES[:2]), label=[0, 1])
    save(tmp_path / "y.parquet", names("dog", "cat"), image=structs(BYTES[:2]), label=[0, 1])
    assert "y.parquet: column label has other class names" in complaint(opened, "parquet", tmp_path)
    save(path, [1, 2], image=structs(BYTES[:2]), label=[0, 1])
    assert "its metadata under the key huggingface" in complaint(opened, "parquet", path)


def test_noise_levels(path):
    save(
        path,
        image=structs(BYTES[:4]),
        sigma=pa.array([0.5, None, float("nan"), 0.0]),
        whole=[0, 1, 2, 3],
        text=list("abcd"),
    )
    np.testing.assert_array_equal(
        opened("parquet", path, sigma_column="sigma").sigma, np.float32([0.5, np.nan, np.nan, 0])
    )
    assert opened("parquet", path, sigma_column="whole").sigma.tolist() == [0, 1, 2, 3]
    assert "is string; noise levels must be numbers" in complaint(opened, "parquet", path, sigma_column="text")
    assert "has no column level; it has image, sigma" in complaint(opened, "parquet", path, sigma_column="level")
    for bad in (-0.1, float("inf"), 1e39):
        save(path, image=structs(BYTES[:2]), sigma=[0.1, bad])
        assert "the noise level of x.parquet#1 is" in complaint(opened, "parquet", path, sigma_column="sigma")


def test_images_that_are_not_there_are_corrupt_with_their_reason(path):
    values = [{"bytes": BYTES[0], "path": None}, None, {"bytes": None, "path": "x.png"}, {"bytes": None, "path": None}]
    values += [{"bytes": b"", "path": None}, {"bytes": BYTES[1][:50], "path": None}, {"bytes": BYTES[2], "path": "y"}]
    images, corrupt = read_all(opened("parquet", save(path, image=pa.array(values, STRUCT))))
    reasons = {int(name.split("#")[1]): reason for name, reason in corrupt.items()}
    assert set(reasons) == {1, 2, 3, 4, 5}
    assert reasons[1] == reasons[2] == reasons[3] == "holds no bytes (null)"
    assert reasons[4] == "the file is empty"
    np.testing.assert_array_equal(images[[0, 6]], PIXELS[[0, 2]])
    _, corrupt = read_all(opened("parquet", save(path, image=pa.array([None, BYTES[0]], pa.binary()))))
    assert list(corrupt.values()) == ["holds no bytes (null)"]


def test_the_beginning_of_a_file_tells_the_depth(path):
    deep = encoded(np.full((8, 8), 1000, np.uint16))
    found = opened("parquet", save(path, image=structs([BYTES[0], deep])))
    assert not found.depth8
    images, corrupt = read_all(found)
    assert not corrupt
    np.testing.assert_array_equal(images[0], PIXELS[0].astype(np.float32) / 255)
    np.testing.assert_allclose(images[1], 1000 / 65535, rtol=1e-6)
    found = opened("parquet", save(path, image=structs([BYTES[0]] * 20 + [deep])))
    assert found.depth8
    assert "deeper than 8 bits" in read_all(found)[1]["x.parquet#20"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [(["x"], pa.string()), ([[1, 2]], pa.list_(pa.uint8())), ([{"path": "x"}], pa.struct([("path", pa.string())]))],
)
def test_columns_without_encoded_images_are_refused(path, values, kind):
    assert "must hold encoded images (binary)" in complaint(opened, "parquet", save(path, image=pa.array(values, kind)))


def test_what_cannot_be_read_at_all_is_refused(tmp_path, path):
    assert "holds no rows of Parquet files" in complaint(opened, "parquet", tmp_path)
    save(path, img=structs(BYTES), id=range(10))
    assert "no column data.image_column=image; it has img, id" in complaint(opened, "parquet", path)
    assert "no column breed; it has img, id" in complaint(
        opened, "parquet", path, image_column="img", label_column="breed"
    )
    assert len(opened("parquet", path, image_column="img")) == 10
    save(tmp_path / "y.parquet", img=structs(BYTES), id=[str(i) for i in range(10)])
    assert "is string, but int64 in other files" in complaint(
        opened, "parquet", tmp_path, image_column="img", label_column="id"
    )
    save(tmp_path / "y.parquet", img=structs(BYTES))
    assert "y.parquet: has no column id" in complaint(
        opened, "parquet", tmp_path, image_column="img", label_column="id"
    )
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"no parquet", b""):
        path.write_bytes(data)
        assert "x.parquet: cannot be read as a Parquet file" in complaint(opened, "parquet", path)


def test_a_damaged_page_is_refused_when_it_is_read(path):
    table = pa.table({"image": BYTES * 10})
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    pq.write_table(table, path, row_group_size=50, **options)
    data = bytearray(path.read_bytes())
    data[data.rindex(BYTES[9]) + 40] ^= 1
    path.write_bytes(data)
    found = opened("parquet", path)  # the damaged page is beyond those that the depth is told by
    assert "x.parquet: cannot be read as a Parquet file (" in complaint(read_all, found)


@pytest.mark.parametrize("seeds", [range(50), pytest.param(range(50, 500), marks=pytest.mark.slow)], ids=["few", "all"])
def test_damage_raises_nothing_else(path, seeds):
    whole = save(path, image=structs(BYTES), label=range(10), sigma=[0.5] * 10).read_bytes()
    outcomes = set()
    for seed in seeds:
        path.write_bytes(damaged(whole, seed))
        outcomes.add(outcome("parquet", path, sigma_column="sigma"))
    assert outcomes == {"refused", "listed", "read"}


@pytest.mark.slow
@pytest.mark.parametrize("bit", [1, 2])
def test_no_bit_of_the_footer_can_mislead(path, bit):
    """Among them are the numbers of rows, of the file and of its row groups."""
    pq.write_table(pa.table({"image": BYTES[:4]}), path, row_group_size=2, store_schema=False, write_statistics=False)
    whole = path.read_bytes()
    outcomes = set()
    for place in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        outcomes.add(outcome("parquet", path))
    assert outcomes >= {"refused", "read"}
