import zipfile

import numpy as np
import pytest
from pictures import Trap, complaint, noise, opened, read_all

PIXELS = noise(10)
GREY = noise(10, channels=1)


def npy(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    return tmp_path / "x.npy"


def npz(tmp_path, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


def test_every_layout_holds_the_same_images(tmp_path):
    for array in (PIXELS, PIXELS.transpose(0, 3, 1, 2), np.asfortranarray(PIXELS)):
        for path in (npy(tmp_path, array), npz(tmp_path, image=array), npz(tmp_path, True, image=array)):
            found = opened("array", path)
            assert (found.depth8, found.labels) == (True, None)
            assert found.names == [f"{path.name}#{i}" for i in range(10)]
            for size in (3, 100):
                images, corrupt = read_all(found, size)
                np.testing.assert_array_equal(images, PIXELS)
                assert not corrupt
    for array in (GREY, GREY[..., 0], GREY.transpose(0, 3, 1, 2)):
        np.testing.assert_array_equal(read_all(opened("array", npy(tmp_path, array), channels=1))[0], GREY)
        np.testing.assert_array_equal(read_all(opened("array", npy(tmp_path, array)))[0], GREY.repeat(3, axis=3))


def test_images_are_cropped_and_averaged_as_files_are(tmp_path):
    pixels = noise(3, 16, 20)
    expected = pixels[:, :, 2:18].reshape(3, 8, 2, 8, 2, 3).mean((2, 4))
    np.testing.assert_array_equal(read_all(opened("array", npy(tmp_path, pixels)))[0], np.rint(expected))
    unit = read_all(opened("array", npy(tmp_path, pixels / 255)))[0]
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, expected / 255, atol=1e-6)


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2"])
@pytest.mark.parametrize("signed", [False, True])
def test_floats_lie_in_either_range(tmp_path, kind, signed):
    values = PIXELS / 127.5 - 1 if signed else PIXELS / 255
    found = opened("array", npy(tmp_path, values.astype(kind)))
    images, corrupt = read_all(found)
    assert (found.depth8, corrupt) == (False, {})
    np.testing.assert_allclose(images, PIXELS / 255, atol=1e-3 if kind == "<f2" else 1e-6)
    single = values.astype(kind).astype(np.float32)
    np.testing.assert_array_equal(images, (single + 1) / 2 if signed else single)  # to the bit, as older versions


def test_one_bad_image_does_not_change_what_the_others_mean(tmp_path):
    """A value below 0 in a set of [0, 1] must not be taken for a sign that the set lies in [-1, 1]."""
    values = (PIXELS / 255).astype(np.float32)
    for row, value in ((0, -0.5), (2, np.nan), (3, np.inf), (4, 7), (5, -np.inf)):
        values[row, 3, 3] = value
    values[6, 3, 3] = -1e-4  # what an interpolation leaves
    images, corrupt = read_all(opened("array", npy(tmp_path, values)))
    assert list(corrupt) == [f"x.npy#{row}" for row in (0, 2, 3, 4, 5)]
    assert "-0.5 to" in corrupt["x.npy#0"]
    assert corrupt["x.npy#2"] == "holds NaN or infinity"
    assert images[6].min() == 0
    np.testing.assert_array_equal(images[7:], values[7:])
    signed = (PIXELS / 127.5 - 1).astype(np.float32)
    signed[0] = 0.5  # an image without dark pixels
    signed[1, 0, 0] = -1.5
    images, corrupt = read_all(opened("array", npy(tmp_path, signed)))
    assert list(corrupt) == ["x.npy#1"]
    assert (images[0] == 0.75).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            PIXELS.astype(np.int64),
            "is int64 with values from 0 to 255; say what is black and white, as in data.range=[0,255]",
        ),
        (np.zeros(3, np.dtype([("a", "u1")])), "images must be uint8"),
        (np.zeros((2, 8), np.uint8), "has the shape [2, 8]"),
        (np.zeros((2, 8, 8, 4), np.uint8), "with 1 or 3 channels"),
        (np.zeros((2, 8, 8, 3, 1), np.uint8), "has the shape"),
        (np.zeros((8, 8, 3), np.uint8), "sides of at least 4"),
        (np.zeros((2, 3, 8, 3), np.uint8), "sides of at least 4"),
        (np.zeros((0, 8, 8), np.uint8), "has the shape [0, 8, 8]"),
        (PIXELS.astype(np.float32), "values from 0 to 255"),
        (np.full((2, 8, 8), np.nan), "holds NaN or infinity in all images"),
        (np.where(np.arange(10) == 3, np.inf, GREY[..., 0].T).T, "values from 0 to 255; float images must lie in"),
    ],
)
def test_other_types_shapes_and_ranges_are_refused(tmp_path, array, message):
    for path in (npy(tmp_path, array), npz(tmp_path, image=array)):
        line = complaint(opened, "array", path)
        assert message in line
        assert path.name in line


def test_pickled_objects_are_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = np.empty(2, dtype=object)
    array[:] = [Trap(), 0]
    for path in (npy(tmp_path, array), npz(tmp_path, image=array)):
        assert "np.save(path, np.stack(images))" in complaint(opened, "array", path)
    path = npz(tmp_path, image=PIXELS, breed=array)
    assert "np.save(path, np.stack(images))" in complaint(opened, "array", path, label_column="breed")
    np.testing.assert_array_equal(read_all(opened("array", npz(tmp_path, x=PIXELS, other=array)))[0], PIXELS)
    assert "pickled objects are never loaded" in opened("array", npz(tmp_path, image=PIXELS, label=array)).unlabelled
    (tmp_path / "x.npy").write_bytes(array.dumps())
    assert "pickled objects are never loaded" in complaint(opened, "array", tmp_path / "x.npy")
    assert not (tmp_path / "sprung").exists()
    np.load(npy(tmp_path, array), allow_pickle=True)
    assert (tmp_path / "sprung").exists()  # so the trap works


def test_the_array_of_images_is_named_or_the_only_one(tmp_path):
    labels = np.arange(10)
    for arrays in ({"image": PIXELS, "x": GREY}, {"arr_0": PIXELS, "label": labels}, {"x": PIXELS}):
        path = npz(tmp_path, **arrays)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("readme.txt", "hello")  # is passed over
        np.testing.assert_array_equal(read_all(opened("array", path))[0], PIXELS)
    path = npz(tmp_path, train_images=PIXELS, val_images=GREY[:5], train_labels=labels[:, None] % 3)
    told = "name the array of images by data.image_column; it has train_images [10, 8, 8, 3]"
    assert told in complaint(opened, "array", path)
    found = opened("array", path, image_column="train_images", label_column="train_labels")
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert "has no array pictures; it has train_images" in complaint(opened, "array", path, image_column="pictures")


def test_labels_and_levels_of_arrays(tmp_path):
    path = npz(tmp_path, image=PIXELS, label=np.array(list("abcabcabca")), sigma=np.full((10, 1), 0.5))
    found = opened("array", path, sigma_column="sigma")
    assert (found.labels.tolist(), found.classes) == ([0, 1, 2, 0, 1, 2, 0, 1, 2, 0], ("a", "b", "c"))
    assert (found.sigma == np.float32(0.5)).all()
    assert opened("array", npz(tmp_path, image=PIXELS, label=np.zeros(3)), label_column=None).labels is None
    for label, message in (
        (np.arange(9), "breed: has the shape [9]; one value per image: [10]"),
        (np.zeros((10, 2), int), "has the shape [10, 2]"),
        (np.zeros(10), "is float64; labels must be whole numbers or strings"),
        (np.full(10, -1), "the label -1 is out of range"),
    ):
        path = npz(tmp_path, image=PIXELS, breed=label)
        assert message in complaint(opened, "array", path, label_column="breed")
    bad = npz(tmp_path, image=PIXELS, sigma=np.array([-1.0] * 10), text=np.array(["x"] * 10))
    for path, keys, message in (
        (bad, {"label_column": "breed"}, "x.npz: has no column breed; it has image, sigma, text"),
        (bad, {"sigma_column": "sigma"}, "sigma: the noise level of x.npz#0 is -1.0"),
        (bad, {"sigma_column": "text"}, "text: is <U1; noise levels must be numbers"),
        (npy(tmp_path, PIXELS), {"sigma_column": "x"}, "x.npy: has no column x; it has image"),
    ):
        assert message in complaint(opened, "array", path, **keys)


def test_damaged_files_are_refused(tmp_path):
    whole = npy(tmp_path, PIXELS).read_bytes()
    for data in (whole[:-1], whole[:20], b"", b"PK no zip", b"text"):
        (tmp_path / "x.npy").write_bytes(data)
        assert "x.npy: cannot be read as a .npy or .npz file" in complaint(opened, "array", tmp_path / "x.npy")
    assert "cannot be read" in complaint(opened, "array", tmp_path)
    path = npz(tmp_path, image=PIXELS)
    data = bytearray(path.read_bytes())
    data[data.index(PIXELS[5].tobytes())] ^= 1  # which the checksum at the end tells
    path.write_bytes(data)
    assert "x.npz: cannot be read as the array image (Bad CRC-32" in complaint(opened, "array", path)
