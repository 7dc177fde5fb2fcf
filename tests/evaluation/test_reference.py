import dataclasses
import json
from pathlib import Path

import pytest
import torch

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.pixels import Pixels
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation import Reference, evaluate, nearest, reference_key
from ambient_sweep.evaluation.reference import SETTINGS_FILE, TENSORS_FILE, TRAIN_FILE, to_uint8

PIXELS = EvaluationConfig()


def replace(data: ImageData, **values: object) -> ImageData:
    return dataclasses.replace(data, **values)  # type: ignore[arg-type]


def test_to_uint8_clips_and_rounds() -> None:
    values = torch.tensor([-7.0, -1.0, -0.9999, 0.0, 0.0041, 1.0, 1.5])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 128, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every.float() / 127.5 - 1), every)


def test_loaded_is_saved_to_the_bit(digits: ImageData, reference: Reference, saved: Path) -> None:
    loaded = Reference.load(saved)
    assert loaded.settings == reference.settings
    assert loaded.threshold == reference.threshold
    samples = digits.heldout[:60]
    assert evaluate(samples, loaded) == evaluate(samples, reference)


def test_save_leaves_one_folder_and_replaces_what_is_there(reference: Reference, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "reference"
    folder.mkdir(parents=True)
    (folder / "old").touch()
    reference.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [SETTINGS_FILE, TENSORS_FILE, TRAIN_FILE]
    assert list(folder.parent.iterdir()) == [folder]


def test_save_where_one_cannot(reference: Reference, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/reference: cannot be written"):
        reference.save(tmp_path / "file" / "reference")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    for name in (SETTINGS_FILE, TENSORS_FILE, TRAIN_FILE):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", [SETTINGS_FILE, TENSORS_FILE, TRAIN_FILE])
def test_a_missing_file_is_named(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name}: cannot be read: No such file"):
        Reference.load(copy)


@pytest.mark.parametrize("name", [TENSORS_FILE, TRAIN_FILE])
def test_damaged_tensors_are_named(name: str, copy: Path) -> None:
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: damaged"):
        Reference.load(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}'])
def test_damaged_settings_are_named(text: str, copy: Path) -> None:
    (copy / SETTINGS_FILE).write_text(text)
    with pytest.raises(UserError, match=f"{SETTINGS_FILE}: damaged"):
        Reference.load(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", None),
        ("evaluation", {"distances": ["fd_magic"]}),
        ("evaluation", 3),
        ("surprise", 1),
        ("heldout", None),
    ],
)
def test_settings_that_make_no_sense_are_named(key: str, value: object, copy: Path) -> None:
    document = json.loads((copy / SETTINGS_FILE).read_text())
    document[key] = value
    if value is None:
        del document[key]
    (copy / SETTINGS_FILE).write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"{SETTINGS_FILE}: damaged"):
        Reference.load(copy)


def test_another_version_is_named(copy: Path) -> None:
    document = json.loads((copy / SETTINGS_FILE).read_text())
    (copy / SETTINGS_FILE).write_text(json.dumps(document | {"format": 0}))
    with pytest.raises(UserError, match=f"{SETTINGS_FILE}: has format 0"):
        Reference.load(copy)


def test_key_changes_with_what_determines_the_values_and_with_nothing_else(digits: ImageData) -> None:
    key = reference_key(digits, PIXELS)
    same = PIXELS.model_copy(
        update={"samples": 9, "seed": 5, "lengths": (1.0,), "batch_size": 3, "memorization": "mem_ratio"}
    )
    assert reference_key(digits, same) == key
    assert digits.heldout_labels is not None
    others = [
        reference_key(digits, PIXELS.model_copy(update={"quantile": 0.02})),
        reference_key(digits, PIXELS.model_copy(update={"distances": ("fd_pixels", "fd_lite0@32")})),
        reference_key(replace(digits, fingerprint="other"), PIXELS),
        reference_key(replace(digits, heldout_labels=digits.heldout_labels.flip(0)), PIXELS),
    ]
    assert len({key, *others}) == 5


def test_null_is_the_held_out_images_distances(digits: ImageData) -> None:
    reference = Reference.build(digits, PIXELS)
    eight_bits = [
        (to_uint8(images).float() / 127.5 - 1).flatten(1).double()
        for images in (digits.heldout.all(), digits.train.all())
    ]
    expected = torch.cdist(*eight_bits, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    torch.testing.assert_close(reference.heldout_distances, expected, rtol=1e-6, atol=0)
    share = (expected < reference.threshold).double().mean().item()
    assert share == pytest.approx(0.01, abs=1 / len(expected))


def test_nearest_train_finds_the_image(digits: ImageData) -> None:
    reference = Reference.build(digits, PIXELS)
    distances, indices = reference.nearest_train(to_uint8(digits.train[[7, 3]]), 2)
    assert indices[:, 0].tolist() == [7, 3]
    assert (distances[:, 0] == 0).all()
    assert torch.equal(indices, nearest(digits.train[[7, 3]], digits.train.all(), 2)[1])


def test_images_on_both_sides_of_the_split_are_counted(digits: ImageData) -> None:
    clean = Reference.build(digits, PIXELS)
    assert clean.overlap == 0
    heldout = Pixels.of(torch.cat([digits.train[:40], digits.heldout.all()]))
    assert digits.train_labels is not None
    assert digits.heldout_labels is not None
    labels = torch.cat([digits.train_labels[:40], digits.heldout_labels])
    dirty = Reference.build(replace(digits, heldout=heldout, heldout_labels=labels), PIXELS)
    assert dirty.settings.heldout == clean.settings.heldout  # they count nowhere
    assert torch.equal(dirty.statistics["fd_pixels"].mean, clean.statistics["fd_pixels"].mean)
    assert dirty.overlap == 40
    assert dirty.threshold == clean.threshold


def test_too_few_images(digits: ImageData) -> None:
    with pytest.raises(UserError, match="at least 2 training and 2 held-out images, there are 500 and 1"):
        Reference.build(replace(digits, heldout=Pixels.of(digits.heldout[:1])), PIXELS)
    with pytest.raises(UserError, match="there are 1 and 1297"):
        Reference.build(replace(digits, train=Pixels.of(digits.train[:1])), PIXELS)
    with pytest.raises(UserError, match=r"evaluation.quantile: 0\.01 needs at least 99 held-out images, there are 50"):
        Reference.build(replace(digits, heldout=Pixels.of(digits.heldout[:50])), PIXELS)


def test_classifier_distance_without_labels(digits: ImageData) -> None:
    config = EvaluationConfig(distances=("fd_classifier",), fidelity="fd_classifier")
    with pytest.raises(UserError, match="fd_classifier needs labels"):
        Reference.build(replace(digits, heldout_labels=None), config)
