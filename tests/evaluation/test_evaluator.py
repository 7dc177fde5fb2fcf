import dataclasses

import pytest
import torch
from torch import Tensor

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.pixels import Pixels
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.evaluator import evaluate
from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.reference import Reference

MEMORIZATION = {"mem_excess", "mem_local_excess", "mem_ratio", "mem_excess_flips", "mem_ratio_flips"}
DISTANCES = ("fd_classifier", "fd_lite0@32", "fd_pixels")


def noisy(images: Tensor, sigma: float, seed: int = 0) -> Tensor:
    return images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def assert_holds(measure: Measure, value: float) -> None:
    assert measure.low <= value <= measure.high


def test_planted_copies_are_found(digits: ImageData, reference: Reference) -> None:
    copies, blur = 40, 0.03
    samples = digits.heldout[:400].clone()
    samples[:copies] = noisy(digits.train[:copies], blur)
    measures = evaluate(samples, reference)
    assert set(measures) == {*DISTANCES, *EvaluationConfig().extras, *MEMORIZATION}
    assert measures["mem_ratio"].value == pytest.approx(copies / 400, abs=0.006)
    assert_holds(measures["mem_ratio"], copies / 400)
    assert_holds(measures["mem_excess"], copies / 400 - 0.01 * copies / 400)  # copies take the place of unseen images
    assert measures["mem_excess"].low > 0.01


def test_a_training_image_that_is_there_twice_does_not_hide_its_exact_copies(digits: ImageData) -> None:
    twice = Pixels.of(torch.cat([digits.train.all(), digits.train.all()]))
    reference = Reference.build(dataclasses.replace(digits, train=twice), EvaluationConfig())
    samples = torch.cat([digits.train[:30], digits.heldout[:70]])
    measures = evaluate(samples, reference)
    assert measures["mem_ratio"].value == pytest.approx(0.3, abs=0.01)
    assert measures["mem_excess"].value == pytest.approx(0.3, abs=0.03)


def test_samples_are_measured_as_saved_images_would_be(digits: ImageData, reference: Reference) -> None:
    wild = 1.7 * digits.heldout[:50]
    stored = ((wild.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    assert evaluate(wild, reference) == evaluate(stored, reference)


def test_samples_that_are_not_finite_are_refused(digits: ImageData, reference: Reference) -> None:
    samples = digits.heldout[:5].clone()
    samples[1, 0, 0, 0], samples[3, 0, 2, 2] = float("nan"), float("inf")
    with pytest.raises(AmbientSweepError, match="2 of 5 samples are not finite"):
        evaluate(samples, reference)
