import os
import pickle
import tracemalloc

import numpy as np
import pytest
from pictures import Trap, complaint, damaged, noise, opened, outcome, read_all

from ambient_sweep.data.sources.cifar10 import CLASSES

PIXELS = noise(12, 32, 32)
LABELS = [i % 10 for i in range(12)]
BATCHES = {"data_batch_1": slice(0, 4), "data_batch_2": slice(4, 8), "test_batch": slice(8, 12)}


def flat(rows):
    """CIFAR-10's rows: all of red, then green, then blue."""
    return np.ascontiguousarray(PIXELS[rows].transpose(0, 3, 1, 2)).reshape(-1, 3072)


def binary(folder):
    folder.mkdir(exist_ok=True)
    for name, rows in BATCHES.items():
        labels = np.array(LABELS[rows], np.uint8)[:, None]
        (folder / f"{name}.bin").write_bytes(np.hstack([labels, flat(rows)]).tobytes())
    (folder / "batches.meta.txt").write_text("airplane\n")
    return folder


def python(folder, protocol=2, encode=str):
    folder.mkdir(exist_ok=True)
    for name, rows in BATCHES.items():
        content = {encode("batch_label"): "x", encode("data"): flat(rows), encode("labels"): LABELS[rows]}
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    (folder / "batches.meta").write_bytes(b"never opened")
    return folder


def check(found):
    assert found.names == [f"train-{i:05d}" for i in range(8)] + [f"test-{i:05d}" for i in range(4)]
    assert found.labels.tolist() == LABELS
    assert found.classes == CLASSES
    assert len(CLASSES) == 10
    assert found.depth8
    assert found.sigma is None
    for size in (1, 5, 100):
        images, corrupt = read_all(found, size)
        np.testing.assert_array_equal(images, PIXELS)
        assert not corrupt


def test_the_binary_version(tmp_path):
    check(opened("cifar10", binary(tmp_path / "cifar-10-batches-bin"), image_size=32))
    check(opened("cifar10", tmp_path, image_size=32))


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("encode", [str, str.encode])
def test_the_python_version(tmp_path, protocol, encode):
    check(opened("cifar10", python(tmp_path / "cifar-10-batches-py", protocol, encode), image_size=32))
    check(opened("cifar10", tmp_path, image_size=32))


def test_a_batch_as_python_2_wrote_it(tmp_path):
    """The official files: strings by the opcodes of Python 2's str, which Python 3 no longer writes."""

    def text(value):
        return b"T" + len(value).to_bytes(4, "little") + value

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01" + b"M\x04\x00" + b"M\x00\x0c\x86" + dtype + b"\x89" + text(flat(slice(0, 4)).tobytes()) + b"tb"
    labels = b"](K\x00K\x01K\x02K\x03e"
    content = b"\x80\x02}(U\x04data" + array + state + b"U\x06labels" + labels + b"u."
    assert pickle.loads(content, encoding="bytes")[b"data"].shape == (4, 3072)  # noqa: S301  as numpy reads it
    (tmp_path / "data_batch_1").write_bytes(content)
    found = opened("cifar10", tmp_path, image_size=32)
    np.testing.assert_array_equal(read_all(found)[0], PIXELS[:4])
    assert found.labels.tolist() == [0, 1, 2, 3]


def test_the_binary_version_is_preferred_and_sizes_are_changed(tmp_path):
    binary(tmp_path / "cifar-10-batches-bin")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"never opened")
    images, _ = read_all(opened("cifar10", tmp_path, image_size=16))
    np.testing.assert_array_equal(images, np.rint(PIXELS.reshape(12, 16, 2, 16, 2, 3).mean((2, 4))))


@pytest.mark.parametrize("version", [binary, python])
def test_a_file_cut_off_between_two_records_is_refused(tmp_path, monkeypatch, version):
    folder = version(tmp_path / "cifar")
    monkeypatch.setitem(BATCHES, "data_batch_2", slice(4, 7))
    version(folder)
    told = complaint(opened, "cifar10", folder)
    name = "data_batch_2.bin" if version is binary else "data_batch_2"
    assert told == (
        f"{folder / name}: holds 3 records instead of 4; it is cut off or not CIFAR-10's, fetch it anew"
    )  # fmt: skip


@pytest.mark.parametrize("count", [9_999, 10_001])
def test_beside_a_file_of_the_published_length_another_is_refused(tmp_path, count):
    for number, records in ((1, 10_000), (2, count)):
        np.zeros((records, 3073), np.uint8).tofile(tmp_path / f"data_batch_{number}.bin")
    told = complaint(opened, "cifar10", tmp_path)
    assert f"data_batch_2.bin: holds {count} records instead of 10000" in told


class Call:
    """Asks for a call of any function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (Trap(), f"{os.mkdir.__module__}.mkdir"),
        (Call(os.system, "touch sprung"), f"{os.system.__module__}.system"),
        (Call(eval, "open('sprung', 'w')"), "eval"),
        (Call(getattr, "x", "upper"), "getattr"),
        (Call(np.load, "x"), "load"),
        (np.frombuffer, "frombuffer"),
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused(tmp_path, monkeypatch, protocol, value, asked):
    monkeypatch.chdir(tmp_path)
    folder = python(tmp_path / "cifar-10-batches-py")
    for content in (
        {"data": value, "labels": [0]},
        value,
        {"data": flat(slice(0, 4)), "labels": LABELS[:4], "x": [value]},
    ):
        (folder / "data_batch_2").write_bytes(pickle.dumps(content, protocol))
        line = complaint(opened, "cifar10", tmp_path)
        assert f"{asked}, which is refused" in line
        assert "data_batch_2" in line
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"data": 5, "labels": [0]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [0]},
        {"data": np.zeros((1, 3000), np.uint8), "labels": [0]},
        {"data": np.zeros((1, 3072), np.float32), "labels": [0]},
        {"data": np.zeros((1, 3072), object), "labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [10]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [-1]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [2**70]},
        {"data": np.zeros((0, 3072), np.uint8), "labels": []},
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_contents_are_refused(tmp_path, content, protocol):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content, protocol))
    line = complaint(opened, "cifar10", tmp_path)
    assert "is not CIFAR-10" in line
    assert "data_batch_1" in line


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_damage_raises_nothing_else(tmp_path, protocol):
    content = {"data": np.zeros((1, 3072), np.uint8), "labels": [0]}
    whole = pickle.dumps(content, protocol)
    outcomes = set()
    for seed in range(300):
        (tmp_path / "data_batch_1").write_bytes(damaged(whole, seed))
        outcomes.add(outcome("cifar10", tmp_path))
    assert "refused" in outcomes <= {"refused", "read"}


@pytest.mark.parametrize("content", [b"r\xff\xff\xff\x00", b"\x96" + (2**28).to_bytes(8, "little")])
def test_a_pickle_cannot_fill_the_memory(tmp_path, content):
    """A place in the memo, and a length, for which Python's readers take 256 MB (and could be made to take all)."""
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x05N" + content + b".")
    tracemalloc.start()
    assert "is not CIFAR-10" in complaint(opened, "cifar10", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_bad_folders_are_named(tmp_path):
    assert "holds no data_batch_1" in complaint(opened, "cifar10", tmp_path)
    folder = binary(tmp_path / "cifar-10-batches-bin")
    assert "holds no noise levels" in complaint(opened, "cifar10", tmp_path, sigma_column="sigma")
    (folder / "test_batch.bin").write_bytes(b"\0" * 3072)
    assert "3072 bytes are no multiple of 3073" in complaint(opened, "cifar10", tmp_path)
    (folder / "test_batch.bin").write_bytes(b"\x0a" * 3073)
    assert "test_batch.bin: is not CIFAR-10: its labels" in complaint(opened, "cifar10", tmp_path)
    (folder / "data_batch_1.bin").rename(folder / "data_batch_4.bin")
    assert "data_batch_1.bin is missing" in complaint(opened, "cifar10", tmp_path)
