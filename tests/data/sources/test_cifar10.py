import numpy as np
import pytest
from pictures import complaint, noise, opened, read_all

PIXELS = noise(12, 32, 32)
LABELS = [i % 10 for i in range(12)]
BATCHES = {"data_batch_1": slice(0, 4), "data_batch_2": slice(4, 8), "test_batch": slice(8, 12)}


@pytest.fixture
def folder(tmp_path):
    """CIFAR-10's rows: a label, all of red, then green, then blue."""
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name, rows in BATCHES.items():
        planes = PIXELS[rows].transpose(0, 3, 1, 2).reshape(4, 3072)
        records = np.hstack([np.array(LABELS[rows], np.uint8)[:, None], planes])
        (tmp_path / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(records.tobytes())
    return tmp_path / "cifar-10-batches-bin"


def test_the_batches_are_one_source(folder):
    for place in (folder, folder.parent):
        found = opened("cifar10", place, image_size=32)
        assert found.names == [f"train-{i:05d}" for i in range(8)] + [f"test-{i:05d}" for i in range(4)]
        assert found.labels.tolist() == LABELS
        assert (len(found.classes), found.classes[3], found.depth8, found.sigma) == (10, "cat", True, None)
        np.testing.assert_array_equal(read_all(found, 5)[0], PIXELS)
        assert found.notes == tuple(f"CIFAR-10 is not complete: data_batch_{n}.bin is missing" for n in (3, 4, 5))


def test_its_own_split_may_be_used(folder):
    found = opened("cifar10", folder, image_size=32, split={"train": "train", "heldout": "test"})
    assert found.published.tolist() == [True] * 8 + [False] * 4
    assert found.labels.tolist() == LABELS


def test_bad_files_are_refused(folder):
    file = folder / "data_batch_2.bin"
    whole = file.read_bytes()
    for data, message in (
        (b"", "cannot be read (it is cut off); give the folder of CIFAR-10's .bin files"),
        (whole[:-1], "cannot be read (it is cut off)"),
        (b"\x0a" + whole[1:], "cannot be read (a label is out of range)"),
    ):
        file.write_bytes(data)
        assert f"data.path: {file} {message}" in complaint(opened, "cifar10", folder)
    file.write_bytes(whole)
    assert "has no column sigma; it has label" in complaint(opened, "cifar10", folder, sigma_column="sigma")
    (folder / "test_batch.bin").unlink()
    assert "No such file" in complaint(opened, "cifar10", folder)
