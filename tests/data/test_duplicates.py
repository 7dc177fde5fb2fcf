"""Planted duplicates among real digits and crops of real photos, and a slow search as the judge."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from ambient_sweep.data.duplicates import FLAT, Thumbnails, find_duplicates

GREY = [0.299, 0.587, 0.114]


def thumbnails_of(images, encoding="uint8"):
    """images [N, H, W, C]."""
    images = np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2))
    thumbnails = Thumbnails(len(images), images.shape[1:])
    for start in range(0, len(images), 50):
        thumbnails.put(start, images[start : start + 50], encoding)
    return thumbnails


def found_among(images, heldout=0, encoding="uint8", **options):
    thumbnails = thumbnails_of(images, encoding)
    rows = np.arange(len(images))
    return find_duplicates(thumbnails, rows[: len(images) - heldout], rows[len(images) - heldout :], **options)


def pairs_found(originals, copies, **options):
    """(whether each copy is found to be one, how many groups hold two originals)."""
    found = found_among(np.concatenate([originals, copies]), **options)
    n = len(originals)
    recalled = found.first[n:] == found.first[:n]
    wrong = len({int(first) for row, first in enumerate(found.first[:n]) if first < row})
    return recalled, wrong


# -- real images ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crops():
    """Crops of 96x96 of two photos that overlap by a third at most, and that have the contrast of a whole photo."""
    cut = [
        photo[y : y + 96, x : x + 96]
        for photo in load_sample_images().images
        for y in range(0, photo.shape[0] - 96, 64)
        for x in range(0, photo.shape[1] - 96, 64)
    ]
    return [crop for crop in cut if shrunk(shrunk(crop, 64), 8).astype(float).dot(GREY).std() > 25]


@pytest.fixture(scope="module")
def originals(crops):
    return np.array([shrunk(crop, 64) for crop in crops])


def shrunk(image, side, how=Image.Resampling.BOX):
    return np.asarray(Image.fromarray(image).resize((side, side), how))


def compressed(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def clipped(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


COPIES = {
    "brighter": (lambda crop: clipped(shrunk(crop, 64) + 20.0), 0.95),
    "less contrast": (lambda crop: clipped(shrunk(crop, 64) * 0.6 + 40), 1.0),
    "small and re-encoded at 30": (lambda crop: compressed(shrunk(crop, 64), 30), 0.95),
    "resized another way": (lambda crop: shrunk(crop, 64, Image.Resampling.BICUBIC), 0.8),
    "half the size and back": (lambda crop: shrunk(shrunk(shrunk(crop, 64), 32), 64, Image.Resampling.BILINEAR), 0.95),
    "noisy": (lambda crop: clipped(shrunk(crop, 64) + 13 * np.random.default_rng(0).normal(size=(64, 64, 3))), 1.0),
}


@pytest.mark.parametrize(("change", "recall"), COPIES.values(), ids=COPIES)
def test_altered_photos_are_found_and_other_photos_are_not(crops, originals, change, recall):
    assert len(originals) > 25
    recalled, wrong = pairs_found(originals, np.array([change(crop) for crop in crops]))
    assert recalled.mean() >= recall
    assert wrong == 0


def test_other_colours_are_no_copies(originals):
    turned = originals.mean(3, keepdims=True) - (originals - originals.mean(3, keepdims=True))  # the opposite colours
    colourful = np.abs(originals - originals.mean(3, keepdims=True)).mean((1, 2, 3)) > 15
    recalled, _ = pairs_found(originals[colourful], clipped(turned[colourful]))
    assert colourful.sum() > 8
    assert recalled.mean() < 0.2


def test_digits_no_two_of_which_are_the_same_are_told_apart():
    """1,797 handwritten digits of 8x8, each once more with a little noise, brighter, or paler: all found, nothing else."""
    digits = clipped(load_digits().images[..., None] / 16 * 255)
    counts = found_among(digits).counts()
    assert [counts[key] for key in ("train_exact", "train_near", "flat")] == [0, 0, 0]
    noise = np.random.default_rng(0).normal(size=digits.shape)
    for copies in (digits + 255 * 0.02 * noise, digits + 15.0, digits * 0.7):
        recalled, wrong = pairs_found(digits, clipped(copies))
        assert (recalled.mean(), wrong) == (1, 0)


# -- what it does ---------------------------------------------------------------------------------------------------


def noise_pictures(count, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def test_groups_and_counts_of_planted_copies():
    images = noise_pictures(30)
    images[7] = images[2]  # exact, in training
    images[11] = images[2] // 2 + 60  # near, in training
    images[25], images[26] = images[2], images[5] // 2  # exact and near, held out
    images[28] = images[27]  # held out twice: no copy of a training image
    found = found_among(images, heldout=10)
    copies = {copy["copy"]: copy["of"] for copy in found.copies(range(30))}
    assert copies == {7: 2, 11: 2, 25: 2, 26: 5, 28: 27}
    counts = {"train_exact": 1, "train_near": 1, "heldout_exact": 1, "heldout_near": 1, "flat": 0}
    assert found.counts() == counts
    assert np.flatnonzero(found.copy[: found.train]).tolist() == [7, 11]
    assert np.flatnonzero(found.copy[found.train :]).tolist() == [5, 6]
    turned = find_duplicates(thumbnails_of(images), np.array([7, 1, 2, 3]), np.array([0, 9]))
    assert np.flatnonzero(turned.copy[: turned.train]).tolist() == [2]  # the order of training says which is the copy


@pytest.mark.parametrize("near", [0.1, 0.6])
def test_it_finds_what_a_comparison_of_all_pairs_finds(near):
    """Pictures at all distances from each other, against a matrix of correlations."""
    draw = np.random.default_rng(1)
    base = draw.normal(size=(40, 256))
    spread = np.exp(draw.uniform(np.log(0.01), np.log(0.6), (400, 1)))
    grey = base[draw.integers(0, 40, 400)] + spread * draw.normal(size=(400, 256))
    images = np.clip(0.5 + 0.12 * grey, 0, 1).astype(np.float32).reshape(400, 16, 16, 1)
    found = found_among(images, encoding="unit", near=near)
    distance = np.sqrt(np.maximum(2 - 2 * np.corrcoef(images.reshape(400, -1).astype(np.float64)), 0))
    linked = (distance <= near) | np.eye(400, dtype=bool)
    for _ in range(9):
        linked = linked.astype(np.float32) @ linked.astype(np.float32) > 0
    expected = linked.argmax(axis=1)  # the first that each is linked with
    assert 20 < (expected < np.arange(400)).sum() < 380
    assert (found.first == expected).mean() > 0.97  # pictures are kept in 8 bits: pairs at the very edge may differ


def test_flat_images_are_compared_exactly_and_not_with_each_other():
    """Shifted to mean 0 and scaled, they would be rounding noise; and all would be alike."""
    level = np.repeat(np.arange(100, 200, dtype=np.uint8), 30)  # 3,000 images, 100 different ones
    images = np.broadcast_to(level[:, None, None, None], (3000, 16, 16, 1))
    found = found_among(np.concatenate([images, noise_pictures(2)]))
    assert found.counts() == {"train_exact": 2900, "train_near": 0, "heldout_exact": 0, "heldout_near": 0, "flat": 3000}
    edge = np.where(np.arange(256) % 2, 128 + FLAT * 127.5 * 1.05, 128 - FLAT * 127.5 * 1.05).reshape(1, 16, 16, 1)
    assert not thumbnails_of(clipped(edge)).flat[0]


def test_a_crowd_of_near_copies_is_one_group():
    """Far more alike images than the neighbours that are looked at."""
    one = noise_pictures(1).astype(float)
    crowd = clipped(one * 0.8 + 20 + np.random.default_rng(0).normal(size=(500, 16, 16, 1)))
    found = found_among(np.concatenate([noise_pictures(5, seed=3), crowd]))
    assert np.flatnonzero(found.copy[: found.train]).tolist() == list(range(6, 505))
    assert set(found.first[6:].tolist()) == {5}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_images_are_no_trouble(count):
    assert found_among(noise_pictures(count)).copies(range(count)) == []
    assert found_among(noise_pictures(count), heldout=min(count, 1)).counts()["train_near"] == 0
