"""The warning about held-out images that are related to training images."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from ambient_sweep.data.duplicates import Thumbnails, find_duplicates
from ambient_sweep.data.related import find_related


def smooth(count, generator, width=1.5):
    """Independent smooth pictures, of mean 0 and variance 1."""
    values = gaussian_filter(generator.standard_normal((count, 16, 16)), (0, width, width), mode="wrap")
    return (values - values.mean((1, 2), keepdims=True)) / values.std((1, 2), keepdims=True)


def thumbnails(images):
    found = Thumbnails(len(images), (1, *images.shape[1:]))
    found.put(0, (images[:, None] * 0.1 + 0.5).clip(0, 1).astype(np.float32), "unit")
    return found


def related(images, held=None, seed=0):
    order = np.random.default_rng(seed).permutation(len(images))
    held = len(images) // 10 if held is None else held
    return find_related(thumbnails(images), order[held:], order[:held])


@pytest.mark.parametrize(("patients", "slices"), [(60, 10), (10, 60), (20, 5), (200, 3), (300, 2), (3, 200), (2, 150)])
@pytest.mark.parametrize("variation", [0.2, 0.4])
def test_slices_of_patients_are_found_though_none_is_a_copy(patients, slices, variation):
    generator = np.random.default_rng(patients)
    images = np.repeat(smooth(patients, generator), slices, 0) + variation * smooth(patients * slices, generator)
    found = related(images)
    assert found.is_many
    assert found.count >= 0.7 * found.compared
    assert found.near < 0.7 * found.expected
    order = np.arange(len(images))
    assert find_duplicates(thumbnails(images), order[::2], order[1::2]).counts()["heldout_near"] < len(images) / 20
    held = np.isin(
        np.arange(patients).repeat(slices), np.arange(max(1, patients // 5))
    )  # split by patient: nothing is left to find
    assert not find_related(thumbnails(images), order[~held], order[held]).is_many


def test_slices_that_change_gradually_are_found():
    generator = np.random.default_rng(0)
    volumes = [gaussian_filter(generator.standard_normal((25, 16, 16)), 2) for _ in range(30)]
    images = np.concatenate(volumes)
    assert related(images / images.std((1, 2), keepdims=True)).is_many


def test_bursts_among_single_photos_are_found():
    generator = np.random.default_rng(0)
    base = smooth(400, generator)
    bursts = np.repeat(base[200:], 2, 0) + 0.3 * smooth(400, generator)
    found = related(np.concatenate([base[:200], bursts]))
    assert found.is_many
    assert 0.4 < found.count / found.compared < 0.8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [40, 300, 1797])
def test_digits_are_not_taken_for_related(count, seed):
    assert not related(load_digits().images[:count] / 8, seed=seed).is_many


@pytest.mark.parametrize("count", [12, 100, 600])
@pytest.mark.parametrize("width", [0.1, 1, 4])
def test_independent_textures_are_not_taken_for_related(count, width):
    generator = np.random.default_rng(0)
    textures = smooth(count, generator, width)
    assert not related(textures).is_many
    assert not related(smooth(1, generator, 4) + 0.4 * textures).is_many  # aligned, all alike
    classes = np.repeat(smooth(4, generator), count // 4, 0)
    assert not related(classes + textures).is_many


@pytest.mark.parametrize("count", [300, 600])
@pytest.mark.parametrize("side", [2, 3, 5, 8])
def test_small_shapes_at_random_places_are_not_taken_for_related(count, side):
    generator, pixels = np.random.default_rng(0), np.arange(16)
    corners, middles = generator.integers(0, 17 - side, (2, count, 1)), generator.uniform(2, 13, (2, count, 1))
    within = (pixels >= corners) & (pixels < corners + side)
    bells = np.exp(-np.square((pixels - middles) / (side / 4)) / 2)
    for rows, columns in (within, bells):
        assert not related(3 * np.einsum("ni,nj->nij", rows.astype(float), columns)).is_many


def test_nothing_to_compare_is_nothing_related():
    generator = np.random.default_rng(0)
    for images, held in ((np.zeros((50, 8, 8)), 5), (smooth(4, generator), 2), (smooth(40, generator), 0)):
        assert not related(images, held).is_many
    assert find_related(thumbnails(np.repeat(smooth(1, generator), 50, 0)), np.arange(40), np.arange(40, 50)).count == 0
