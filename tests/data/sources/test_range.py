"""data.range and what is said of the pixels; labels that an unconditional model does not need."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pictures import encoded
from PIL import Image

from ambient_sweep.cli import commands
from ambient_sweep.config import DataConfig, build_config
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.sources.source import suggested
from ambient_sweep.data.store import read_info
from ambient_sweep.errors import UserError
from ambient_sweep.trial.setup import image_lines

PICTURES = np.random.default_rng(0).random((220, 8, 8))  # in [0, 1]


def command(*words):
    """What `prepare` prints, its exit code and its error."""
    done = CliRunner().invoke(commands, ["prepare", *map(str, words)])
    return done.output, done.exit_code, str(done.exception)


def array(path, values, **arrays):
    """The keys that read `values`, with other arrays beside them."""
    np.savez(path, image=values, **arrays)
    return ["data.source=array", f"data.path={path}"]


def config(words):
    keys = dict(word.split("=") for word in words)
    values = {key.removeprefix("data."): value for key, value in keys.items()}
    return DataConfig(**{**values, **({"range": json.loads(values["range"])} if "range" in values else {})})


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.int64, np.uint8, np.float32, np.float64])
def test_any_numbers_are_scaled_and_what_lies_outside_is_clipped_and_counted(tmp_path, kind):
    top = 200 if kind == np.uint8 else 3000
    values = np.rint(PICTURES * top).astype(kind)
    words = [*array(tmp_path / "x.npz", values), f"data.range=[{top // 2},{top}]"]
    expected = (2 * (values.astype(np.float64) - top // 2) / (top - top // 2) - 1).clip(-1, 1)
    data = load_data(config(words))
    train = data.train[:].numpy()[:, 0]
    np.testing.assert_allclose(train, expected[data.train_index.numpy()], atol=1e-6)
    outside = (values < top // 2).mean()
    said = f"scaled from [{top // 2}, {top}]; {outside:.2%} of the values lay outside and are clipped"
    assert data.notes == (said,)
    printed, code, _ = command(tmp_path / "store", *words)
    assert code == 0, printed
    assert said in printed.splitlines()
    info = read_info(tmp_path / "store")
    assert info.source["range"] == [top // 2, top]
    mean, std = expected.mean(), expected.std()
    assert f"pixels on [-1, 1]: from -1 to 1, mean {mean:.3g}, standard deviation {std:.3g}" in printed.splitlines()
    stored = load_data(DataConfig(source="store", path=str(tmp_path / "store")))
    assert (stored.train[:].numpy()[:, 0] == train).all()
    assert stored.fingerprint == data.fingerprint


REFUSED = {
    "uint16": (np.uint16, 0, 3900, "is uint16 with values from 0 to 3900; say what is black and white", "[0,4095]"),
    "int16": (np.int16, -1000, 1000, "is int16 with values from -1000 to 1000", "[-1000,1000]"),
    "int64": (np.int64, 0, 255, "is int64 with values from 0 to 255", "[0,255]"),
    "bool": (np.bool_, 0, 1, "is bool with values from 0 to 1", "[0,1]"),
    "float": (
        np.float32,
        0,
        255,
        "values from 0 to 255; float images must lie in [0, 1] or [-1, 1], unless",
        "[0,255]",
    ),
    "negative float": (np.float64, -3, 2, "values from -3 to 2; float images must lie", "[-3,2]"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_numbers_are_refused_with_a_range_that_fits(tmp_path, kind):
    dtype, low, high, message, cure = REFUSED[kind]
    words = array(tmp_path / "x.npz", np.rint(low + (high - low) * PICTURES).astype(dtype))
    _, code, error = command(tmp_path / "store", *words)
    assert code == 1
    assert message in error
    assert f"as in data.range={cure}" in error
    assert "uint8" not in error
    assert not (tmp_path / "store").exists()
    assert command(tmp_path / "store", *words, f"data.range={cure}")[1] == 0


def test_suggestions():
    assert suggested(0, 3913) == "data.range=[0,4095]"
    assert suggested(0, 1.5) == "data.range=[0,3]"
    assert suggested(-1024, 3071) == "data.range=[-1024,3071]"
    assert suggested(0, 0) == "data.range=[0,1]"


def test_scans_of_12_bits_in_16_bit_files_are_warned_of_and_cured(tmp_path):
    (tmp_path / "scans").mkdir()
    for row, image in enumerate(PICTURES):
        Image.fromarray(np.rint(image * 4095).astype(np.uint16)).save(tmp_path / "scans" / f"{row}.png")
    words = ["data.source=folder", f"data.path={tmp_path / 'scans'}"]
    printed, code, _ = command(tmp_path / "dark", *words)
    assert code == 0, printed
    assert (
        "warning: the images use 6.2% of the range from black to white; set data.range=[low,high] to theirs" in printed
    )
    assert "warning: their standard deviation, 0.0361, is far from model.sigma_data=0.5" in printed
    notes = json.loads(CliRunner().invoke(commands, ["prepare", str(tmp_path / "json"), *words, "--json"]).stdout)[
        "notes"
    ]
    assert {line for line in printed.splitlines() if line.startswith(("pixels", "warning"))} <= set(notes)
    printed, code, _ = command(tmp_path / "store", *words, "data.range=[0,4095]")
    assert "from -1 to 1, mean" in printed
    assert "use" not in printed.split("pixels on")[1].splitlines()[0]
    assert "sigma_data" not in printed


def test_run_says_what_the_images_are_like(tmp_path):
    words = array(tmp_path / "x.npz", PICTURES)
    keys = dict(word.split("=") for word in words)
    lines = image_lines(build_config({"model.kind": "mlp", "model.sigma_data": 3.0, **keys}))
    assert lines[0].startswith("pixels on [-1, 1]: from -1 to 1, mean ")
    assert lines[1].startswith("warning: their standard deviation, 0.57")
    assert "is far from model.sigma_data=3;" in lines[1]


def test_files_of_another_depth_count_in_other_units(tmp_path):
    (tmp_path / "scans").mkdir()
    for row, image in enumerate(PICTURES[:20]):
        kind = np.uint8 if row == 7 else np.uint16
        Image.fromarray(np.rint(image * 255).astype(kind)).save(tmp_path / "scans" / f"{row:02d}.png")
    error = command(
        tmp_path / "s", "data.source=folder", f"data.path={tmp_path / 'scans'}", "data.range=[0,255]", "data.channels=1"
    )[2]
    assert "07.png: of 8 bits among deeper images, or the other way around: data.range cannot mean both" in error


def test_a_range_that_cannot_be_is_refused(tmp_path):
    words = array(tmp_path / "x.npz", PICTURES)
    for text, message in (
        ("[1,0]", "data.range: must rise, as in [0, 4095], not [1.0, 0.0]"),
        ("[0]", "data.range"),
        ("5", "data.range"),
        ("[0,.inf]", "data.range"),
    ):
        assert message in command(tmp_path / "store", *words, f"data.range={text}")[2]
    assert "digits have a range of their own" in command(tmp_path / "store", "data.range=[0,1]")[2]
    bad = np.where(np.arange(220)[:, None, None] == 3, np.nan, PICTURES)
    error = command(tmp_path / "store", *array(tmp_path / "x.npz", bad), "data.range=[0,1]")[2]
    assert "1 of 220 images cannot be read (x.npz#3: holds NaN or infinity)" in error


LABELS = {
    "lists": [[1, 2]] * 30,
    "booleans": [True, False] * 15,
    "floats": [0.5, 1.5] * 15,
    "nulls": [None, 1] * 15,
    "only nulls": [None] * 30,
    "structs": [{"a": 1}] * 30,
    "negative": [-1] * 30,
    "bytes": [b"x"] * 30,
}


def table(tmp_path, label, kind="label"):
    """The keys that read a Parquet file of dictionary-encoded images and this column."""
    images = [encoded(np.rint(image * 255).astype(np.uint8)) for image in PICTURES[:30]]
    column = pa.array(images).dictionary_encode()
    pq.write_table(pa.table({"image": column, kind: label}), tmp_path / "x.parquet")
    return ["data.source=parquet", f"data.path={tmp_path / 'x.parquet'}"]


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_cannot_be_used_are_left_out_with_a_note(tmp_path, kind):
    words = table(tmp_path, pa.array(LABELS[kind]))
    printed, code, _ = command(tmp_path / "store", *words)
    assert code == 0, printed
    assert f"labels are left out: {tmp_path / 'x.parquet'}: label: " in printed
    assert "labels.npy" not in read_info(tmp_path / "store").files
    keys = {"model.kind": "mlp", **dict(word.split("=") for word in words)}
    assert image_lines(build_config(keys))[0].startswith("labels are left out: ")
    with pytest.raises(UserError, match=r"^model.conditional: .*x.parquet: label: "):
        image_lines(build_config(keys, {"model.conditional": True}))
    for column in ("label", "breed"):  # asked for by name
        words = table(tmp_path, pa.array(LABELS[kind]), column)
        error = command(tmp_path / "asked", *words, f"data.label_column={column}")[2]
        assert f"x.parquet: {column}: " in error


def test_labels_of_arrays_that_cannot_be_used_are_left_out(tmp_path):
    for label in (np.eye(220), np.zeros(5, int), np.zeros(220), np.array([None] * 220)):
        source = config(array(tmp_path / "x.npz", PICTURES, label=label))
        data = load_data(source)
        assert (data.train_labels, data.classes) == (None, 0)
        assert data.notes == (f"labels are left out: {data.unlabelled}",)


@pytest.mark.parametrize("name", ["label", "text", "group", "split"])
@pytest.mark.parametrize("kind", [*LABELS, "missing in a part", "doubled"])
def test_columns_of_any_kind_end_in_a_line(tmp_path, kind, name):
    """Left out with a note where no key asks for them; else one line, or a column of these values."""
    values = pa.array(LABELS.get(kind, ["a", "b", None] * 10))
    words = table(tmp_path, values, name)
    if kind == "missing in a part":
        (tmp_path / "x.parquet").rename(tmp_path / "0.parquet")
        table(tmp_path, values, "other")
        words[1] = f"data.path={tmp_path}"
    elif kind == "doubled":
        found = pq.read_table(tmp_path / "x.parquet")
        pq.write_table(found.append_column(name, values), tmp_path / "x.parquet")
    _, code, error = command(tmp_path / "store", *words)
    assert code == 0, error
    key = {"group": "data.group_column=group", "split": "data.split={train: a, heldout: b}"}.get(name)
    if key is not None:
        _, code, error = command(tmp_path / "asked", *words, key)
        assert code == 0 or f"{name}" in error
        assert "\n" not in error


def test_held_out_copies_alone_are_no_error(tmp_path):
    printed, code, error = command(tmp_path / "store", *array(tmp_path / "x.npz", np.repeat(PICTURES[:1], 20, 0)))
    assert (code, "mem_excess cannot be measured" in printed) == (0, True), error


def test_parts_of_arrays_are_scaled(tmp_path):
    scans = np.rint(PICTURES * 4095).astype(np.uint16)
    np.savez(tmp_path / "x.npz", train_images=scans[:100], test_images=scans[100:])
    np.save(tmp_path / "train.npy", scans[:100])
    np.save(tmp_path / "test.npy", scans[100:])
    for path, parts in (("x.npz", ("train_images", "test_images")), ("", ("train.npy", "test.npy"))):
        split = {"train": parts[0], "heldout": parts[1]}
        data = load_data(DataConfig(source="array", path=str(tmp_path / path), range=(0, 4095), split=split))
        expected = scans[data.train_index.numpy()] / 4095 * 2 - 1
        np.testing.assert_allclose(data.train[:].numpy()[:, 0], expected, atol=1e-6)
