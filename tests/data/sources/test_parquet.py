import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import complaint, encoded, noise, opened, outcome, read_all

PIXELS = noise(10)
BYTES = [encoded(image) for image in PIXELS]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def structs(images):
    return pa.array([{"bytes": data, "path": "x.png"} for data in images], STRUCT)


def save(path, group=3, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
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
    assert (found.depth8, found.labels, found.classes, found.sigma) == (True, None, (), None)
    for size in (4, 100):
        images, corrupt = read_all(found, size)
        np.testing.assert_array_equal(images, PIXELS)
        assert not corrupt


def test_shards_are_read_by_name_and_blocks_cross_them(tmp_path):
    for number, rows in ((1, slice(3, 10)), (0, slice(0, 3)), (2, slice(0, 0))):
        part = {"image": structs(BYTES[rows]), "label": pa.array(range(10)[rows]), "sigma": pa.array([0.5] * 10)[rows]}
        save(tmp_path / "data" / f"train-{number}.parquet", **part)
    save(tmp_path / ".cache" / "y.parquet", image=structs(BYTES))
    found = opened("parquet", tmp_path, sigma_column="sigma")
    np.testing.assert_array_equal(read_all(found, 2)[0], PIXELS)
    first, second = (f"data/train-{number}.parquet" for number in (0, 1))
    assert found.names == [f"{first}#{row}" for row in range(3)] + [f"{second}#{row}" for row in range(7)]
    assert found.labels.tolist() == list(range(10))
    assert (found.sigma == np.float32(0.5)).all()


def test_labels_by_number_and_name(path):
    images = structs(BYTES[:3])
    found = opened("parquet", save(path, image=images, label=pa.array([2, 0, 2], pa.int8())))
    assert (found.labels.tolist(), found.labels.dtype, found.classes) == ([2, 0, 2], np.int64, ("0", "1", "2"))
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        save(path, image=images, breed=pa.array(["pug", "cur", "pug"], kind))
        found = opened("parquet", path, label_column="breed")
        assert (found.labels.tolist(), found.classes) == ([1, 0, 1], ("cur", "pug"))
    assert opened("parquet", path).labels is None
    assert opened("parquet", save(path, image=images, label=[1.5] * 3), label_column=None).labels is None


def test_dictionaries_of_shards_may_differ(tmp_path):
    for name, values in (("a", ["x", "y"]), ("b", ["z", "x"])):
        save(tmp_path / f"{name}.parquet", image=structs(BYTES[:2]), label=pa.array(values).dictionary_encode())
    found = opened("parquet", tmp_path)
    assert (found.labels.tolist(), found.classes) == ([0, 1, 2, 0], ("x", "y", "z"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, None, 1]}, "is float64; labels must be whole numbers or strings, none missing"),
        ({"label": [0.0, 1.0, 2.0]}, "is float64; labels must be whole numbers or strings"),
        ({"label": [0, -1, 2]}, "the label -1 is out of range"),
        ({"label": [0, 10**12, 2]}, "the label 1000000000000 is out of range; class numbers are 0 to 999,999"),
        ({"sigma": list("abc")}, "is object; noise levels must be numbers"),
        ({"level": [1, 2, 3]}, "has no column sigma; it has image, level"),
        ({"sigma": [0.1, -0.1, 0.1]}, "the noise level of x.parquet#1 is -0.1"),
        ({"image": ["x"] * 3}, "column image is string; data.image_column must hold encoded images"),
        ({"image": [[1, 2]] * 3}, "must hold encoded images"),
        ({"image": [{"path": "x"}] * 3}, "must hold encoded images"),
    ],
)
def test_bad_columns_are_refused(path, columns, message):
    save(path, **{"image": structs(BYTES[:3])} | columns)
    line = complaint(
        opened, "parquet", path, sigma_column=None if "label" in columns or "image" in columns else "sigma"
    )
    assert message in line
    assert "x.parquet" in line


def test_noise_levels_may_be_missing(path):
    save(path, image=structs(BYTES[:4]), sigma=pa.array([0.5, None, float("nan"), 0.0]), whole=[0, 1, 2, 3])
    sigma = opened("parquet", path, sigma_column="sigma").sigma
    np.testing.assert_array_equal(sigma, np.float32([0.5, np.nan, np.nan, 0]))
    assert opened("parquet", path, sigma_column="whole").sigma.tolist() == [0, 1, 2, 3]


def test_images_that_are_not_there_are_corrupt_with_their_reason(path):
    values = [BYTES[0], None, b"", BYTES[1][:50], BYTES[2]]
    found = opened("parquet", save(path, image=pa.array([None, *({"bytes": each} for each in values)], STRUCT)))
    images, corrupt = read_all(found)
    assert list(corrupt) == [f"x.parquet#{row}" for row in (0, 2, 3, 4)]
    assert [*corrupt.values()][:3] == ["the file is empty"] * 3
    np.testing.assert_array_equal(images[[1, 5]], PIXELS[[0, 2]])


def test_the_beginning_of_a_file_tells_the_depth(path):
    deep = encoded(np.full((8, 8), 1000, np.uint16))
    found = opened("parquet", save(path, image=structs([BYTES[0], deep])))
    images, corrupt = read_all(found)
    assert (found.depth8, corrupt) == (False, {})
    np.testing.assert_array_equal(images[0], PIXELS[0].astype(np.float32) / 255)
    np.testing.assert_allclose(images[1], 1000 / 65535, rtol=1e-6)
    found = opened("parquet", save(path, image=structs([BYTES[0]] * 20 + [deep])))
    assert found.depth8
    assert "deeper than 8 bits" in read_all(found)[1]["x.parquet#20"]


def test_shards_that_disagree_and_files_that_cannot_be_read_are_refused(tmp_path, path):
    assert "holds no rows of Parquet files" in complaint(opened, "parquet", tmp_path)
    save(path, img=structs(BYTES[:2]), label=[0, 1])
    assert "has no column image; it has img, label" in complaint(opened, "parquet", path)
    for columns, message in (
        ({"label": ["0", "1"]}, "label: is object; labels must be whole numbers or strings"),
        ({}, "y.parquet: has no column label"),
    ):
        save(tmp_path / "y.parquet", img=structs(BYTES[:2]), **columns)
        assert message in complaint(opened, "parquet", tmp_path, image_column="img")
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"no parquet", b""):
        path.write_bytes(data)
        assert "x.parquet: cannot be read as a Parquet file" in complaint(opened, "parquet", path)


def test_a_damaged_page_is_refused_when_it_is_read(path):
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    pq.write_table(pa.table({"image": BYTES * 20}), path, row_group_size=100, **options)
    data = bytearray(path.read_bytes())
    data[data.rindex(BYTES[9]) + 40] ^= 1
    path.write_bytes(data)
    found = opened("parquet", path)  # the damaged page lies beyond the images whose headers are read
    assert "x.parquet: cannot be read as a Parquet file (" in complaint(read_all, found)


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
