import dataclasses
from pathlib import Path

import pytest
import torch

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.pixels import Pixels, to_uint8
from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.evaluation.evaluator import evaluate
from ambient_sweep.evaluation.reference import Reference, load_reference, reference_key, save_reference
from ambient_sweep.evaluation.required_images import COPIES
from ambient_sweep.training.files import write_tensors

PIXELS = EvaluationConfig()
FILES = ["reference.json", "reference.safetensors"]


def replace(data: ImageData, **values: object) -> ImageData:
    return dataclasses.replace(data, **values)


def test_loaded_is_saved_to_the_bit(digits: ImageData, reference: Reference, saved: Path) -> None:
    loaded = load_reference(saved)
    assert loaded.settings == reference.settings
    samples = digits.heldout[:60]
    assert [each.tolist() for each in loaded.nearest_train(to_uint8(digits.train[[7, 3]]))] == [[[0], [0]], [[7], [3]]]
    assert evaluate(samples, loaded) == evaluate(samples, reference)


def test_save_leaves_one_folder_and_replaces_what_is_there(reference: Reference, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "reference"
    folder.mkdir(parents=True)
    (folder / "old").touch()
    save_reference(reference, folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert list(folder.parent.iterdir()) == [folder]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/reference: cannot be written"):
        save_reference(reference, tmp_path / "file" / "reference")


@pytest.mark.parametrize("file", FILES)
def test_a_missing_or_damaged_file_is_named(file: str, saved: Path, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    content = bytearray((tmp_path / file).read_bytes())
    content[-2] ^= 1
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=r"reference.*; remove the folder and it will be made again"):
        load_reference(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(UserError, match=f"No such file or directory: .*{file}.*; remove the folder"):
        load_reference(tmp_path)


def test_settings_of_another_version_are_refused(reference: Reference, tmp_path: Path) -> None:
    notes = {"settings": {"evaluation": {"distances": ["fd_magic"]}}}
    write_tensors(tmp_path / "reference", "reference", {"features": reference.features}, notes)
    with pytest.raises(UserError, match="reference: of another version; remove the folder"):
        load_reference(tmp_path / "reference")


def test_key_changes_with_what_determines_the_values_and_with_nothing_else(digits: ImageData) -> None:
    key = reference_key(digits, PIXELS)
    same = {"samples": 9, "seed": 5, "lengths": (1.0,), "batch_size": 3, "memorization": "mem_ratio"}
    assert reference_key(digits, PIXELS.model_copy(update=same)) == key
    others = [
        reference_key(digits, PIXELS.model_copy(update={"quantile": 0.02})),
        reference_key(digits, PIXELS.model_copy(update={"distances": ("fd_pixels", "fd_lite0@32")})),
        reference_key(replace(digits, fingerprint="other"), PIXELS),
        reference_key(replace(digits, heldout_labels=digits.heldout_labels.flip(0)), PIXELS),
    ]
    assert len({key, *others}) == 5


def test_images_on_both_sides_of_the_split_count_nowhere(digits: ImageData) -> None:
    clean = Reference.build(digits, PIXELS)
    heldout = Pixels(torch.cat([digits.train[:40], digits.heldout[:]]).numpy(), "signed")
    labels = torch.cat([digits.train_labels[:40], digits.heldout_labels])
    dirty = Reference.build(replace(digits, heldout=heldout, heldout_labels=labels), PIXELS)
    assert dirty.settings.heldout == clean.settings.heldout
    assert torch.equal(dirty.statistics["fd_pixels"].mean, clean.statistics["fd_pixels"].mean)
    assert torch.equal(dirty.heldout.flips, clean.heldout.flips)


def test_what_a_reference_needs(digits: ImageData) -> None:
    for heldout, said in (
        (digits.train[:50], r"the held-out images: .* found 0 \(50 others are training images"),
        (digits.heldout[:50], r"mem_excess needs at least 99 held-out .*evaluation\.quantile"),
    ):
        with pytest.raises(UserError, match=said):
            Reference.build(replace(digits, heldout=Pixels(heldout.numpy(), "signed")), PIXELS)
    config = EvaluationConfig(distances=("fd_classifier",), fidelity="fd_classifier")
    with pytest.raises(UserError, match="fd_classifier needs held-out images with labels"):
        Reference.build(replace(digits, heldout_labels=None), config)


# -- the measures of a trial against it ---------------------------------------------------------------------------


def test_planted_copies_are_found(digits: ImageData, reference: Reference) -> None:
    copies, blur = 40, 0.03
    samples = digits.heldout[:400].clone()
    samples[:copies] = digits.train[:copies] + blur * torch.randn(
        copies, 1, 8, 8, generator=torch.Generator().manual_seed(0)
    )
    measures = evaluate(samples, reference)
    assert set(measures) == {*reference.config.distances, *reference.config.extras, *COPIES}
    assert measures["mem_ratio"].value == pytest.approx(copies / 400, abs=0.006)
    assert measures["mem_ratio"].low <= copies / 400 <= measures["mem_ratio"].high
    excess, expected = measures["mem_excess"], 0.99 * copies / 400  # copies take the place of unseen images
    assert 0.01 < excess.low <= expected <= excess.high


def test_few_held_out_images_leave_out_what_needs_their_quantile(digits: ImageData) -> None:
    few = replace(digits, heldout=Pixels(digits.heldout[:50].numpy(), "signed"))
    config = EvaluationConfig(distances=("fd_pixels",), memorization="mem_ratio")
    measures = evaluate(digits.train[:20], Reference.build(few, config))
    assert [name for name in measures if name in COPIES] == ["mem_ratio", "mem_ratio_flips"]
    assert measures["mem_ratio"].value == 1


def test_samples_are_measured_as_saved_images_would_be(digits: ImageData, reference: Reference) -> None:
    wild = 1.7 * digits.heldout[:50]
    stored = ((wild.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    assert evaluate(wild, reference) == evaluate(stored, reference)


def test_samples_that_are_not_finite_are_refused(digits: ImageData, reference: Reference) -> None:
    samples = digits.heldout[:5].clone()
    samples[1, 0, 0, 0], samples[3, 0, 2, 2] = float("nan"), float("inf")
    with pytest.raises(AmbientSweepError, match="2 of 5 samples are not finite"):
        evaluate(samples, reference)
