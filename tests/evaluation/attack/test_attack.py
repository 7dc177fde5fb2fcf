"""Against two denoisers in closed form: one that knows its training images by heart, one that knows their law alone."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ambient_sweep.config import SamplingConfig
from ambient_sweep.evaluation.attack.denoising import denoising_gap
from ambient_sweep.evaluation.attack.extraction import Attack, Result, attack, auc, worst_cases
from ambient_sweep.evaluation.attack.subjects import Subjects

SPREAD = 0.4


def how(*noise: float, steps: int = 12, stop: float = 0.0, seed: int = 0) -> Attack:
    return Attack(SamplingConfig(steps=steps), stop, seed, noise or (0.5, 1.0))


def images(count: int, seed: int, channels: int = 1) -> Tensor:
    return SPREAD * torch.randn(count, channels, 6, 6, generator=torch.Generator().manual_seed(seed))


def memorizer(train: Tensor):
    """E[x_0 | x_t] where x_0 is one of the training images: a mean weighted by a softmax."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        squares = (x.flatten(1)[:, None] - train.flatten(1)[None]).square().sum(2)
        weights = (-squares / (2 * sigma[:, None] ** 2)).softmax(1)
        return (weights @ train.flatten(1)).view_as(x)

    return denoise


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x_t] where x_0 is normal."""
    return x * (SPREAD**2 / (SPREAD**2 + sigma**2))[:, None, None, None]


@pytest.fixture(scope="module")
def sets() -> tuple[Subjects, Subjects]:
    return Subjects(images(100, 0)), Subjects(images(120, 1))


@pytest.fixture(scope="module")
def memorized(sets: tuple[Subjects, Subjects]) -> dict[str, Result]:
    return {result.name: result for result in attack(memorizer(sets[0].images), *sets, how())}


def test_a_memorizer_gives_its_training_images_back(memorized: dict[str, Result]) -> None:
    assert list(memorized) == [
        "attack_mean_0.5", "attack_sampling_0.5", "attack_mean_1", "attack_sampling_1", "attack_masked",
    ]  # fmt: skip
    for name in ("attack_mean_0.5", "attack_sampling_0.5"):
        measures = memorized[name].measures
        assert measures[f"{name}_auc"][0].value > 0.95
        assert measures[f"{name}_tpr"][0].value > 0.7
        near, near_heldout = measures[f"{name}_near"]
        assert (near.value > 0.7, near_heldout.value) == (True, 0)
    # so much noise that it mixes images up, but not at random
    for name in ("attack_mean_1", "attack_sampling_1", "attack_masked"):
        assert memorized[name].measures[f"{name}_auc"][0].low > 0.5


def test_the_law_alone_tells_nothing_of_single_images(sets: tuple[Subjects, Subjects]) -> None:
    for result in attack(gaussian, *sets, how()):
        area, positives, near = (result.measures[f"{result.name}_{end}"][0].value for end in ("auc", "tpr", "near"))
        assert abs(area - 0.5) < 0.12
        assert positives < 0.07
        assert near == 0
        assert "mean" not in result.name or not result.void


def test_posterior_means_errors_are_those_of_the_closed_form(sets: tuple[Subjects, Subjects]) -> None:
    result = attack(gaussian, *sets, how(1.0, steps=2))[0]
    shrink = SPREAD**2 / (SPREAD**2 + 1)
    expected = math.sqrt((1 - shrink) ** 2 * SPREAD**2 + shrink**2)
    assert float(result.errors.square().mean().sqrt()) == pytest.approx(expected, rel=0.05)


def test_masked_pixels_alone_count_and_the_others_are_given(sets: tuple[Subjects, Subjects]) -> None:
    train, heldout = sets
    result = attack(memorizer(train.images), train, heldout, how(1.0, steps=12))[-1]
    original, damaged, restored = result.train
    same = (original == damaged).flatten(1).all(0)
    assert 0 < int((~same).sum()) < 18
    assert torch.equal(original.flatten(1)[:, same], restored.flatten(1)[:, same])
    difference = (restored - original).flatten(1)[:, ~same].double()
    torch.testing.assert_close(difference.square().mean(1).sqrt(), result.errors.sort().values[:8])


def test_a_model_stopped_at_its_observed_level(sets: tuple[Subjects, Subjects]) -> None:
    seen: list[float] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(float(sigma[0]))
        return gaussian(x, sigma)

    for noise, level in (((0.5, 1.0), 1.0), ((0.5,), 1.2)):
        results = attack(watched, *sets, how(*noise, stop=0.6))
        names = [f"attack_mean_{level:g}", f"attack_sampling_{level:g}", "attack_masked"]
        assert [result.name for result in results] == names
    assert min(seen) == pytest.approx(0.6)


def test_a_model_that_restores_garbage_is_void(sets: tuple[Subjects, Subjects]) -> None:
    noise = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(5))
    results = attack(lambda x, sigma: 3 * noise[: len(x)], *sets, how())
    assert all(result.void for result in results)


def test_auc_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    smaller, larger = generator.integers(0, 30, 200) / 10, generator.integers(5, 40, 150) / 10
    labels = np.r_[np.ones(200), np.zeros(150)]
    expected = roc_auc_score(labels, -np.r_[smaller, larger])
    found = auc(torch.from_numpy(smaller), torch.from_numpy(larger))
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low < expected < 1


def test_gap_of_a_memorizer_and_of_the_law(sets: tuple[Subjects, Subjects]) -> None:
    gaps = denoising_gap(memorizer(sets[0].images), *sets, sigmas=(0.2, 1.0))
    assert gaps[0.2].value > 0.99
    assert gaps[1.0].low > 0.2
    for measure in denoising_gap(gaussian, *sets, sigmas=(0.2, 1.0)).values():
        assert measure.low < 0 < measure.high


def test_intervals_of_the_gap_hold_what_they_promise() -> None:
    inside = 0
    for seed in range(200):
        pair = Subjects(images(40, 2 * seed)), Subjects(images(60, 2 * seed + 1))
        measure = denoising_gap(gaussian, *pair, sigmas=(0.5,), seed=seed)[0.5]
        inside += measure.low < 0 < measure.high
    assert 180 <= inside <= 200


def test_results_are_a_picture(memorized: dict[str, Result]) -> None:
    result = memorized["attack_mean_0.5"]
    picture = Image.open(io.BytesIO(worst_cases(result)))
    assert picture.size == (8 * (48 + 4) + 4, 7 * (48 + 4) + 4)
    best = result.errors.argmin()
    images_of_train = result.train[0]
    assert bool((images_of_train[0] == images(100, 0)[best]).all())
