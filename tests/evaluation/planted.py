"""Generated sets whose faults are known, made of real images: scikit-learn's digits, and patches of its two photographs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_images

Pixels = NDArray[np.uint8]  # [N, C, H, W]


@dataclass(frozen=True)
class Real:
    """Three disjoint parts of one set of images, and the classes of the last."""

    train: Pixels
    heldout: Pixels
    fresh: Pixels  # what a perfect generator would give
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """A generated set, and the share of copies in it."""

    name: str
    images: Pixels
    copies: float = 0.0


def digits() -> Real:
    images, labels = load_digits(return_X_y=True)
    return _split(np.rint(images.reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8), labels, 600, 600, 597)


def patches(side: int = 16) -> Real:
    parts, labels = [], []
    for label, photo in enumerate(load_sample_images().images):
        rows, columns = photo.shape[0] // side, photo.shape[1] // side
        cut = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
        parts.append(cut.transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side))
        labels.append(np.full(len(parts[-1]), label))
    return _split(np.concatenate(parts), np.concatenate(labels), 500, 500, 400)


def cases(real: Real, seed: int = 0) -> Iterator[Case]:
    """All planted cases; `real` is a perfect generator."""
    fresh = real.fresh
    yield Case("real", fresh)
    for share in (0.01, 0.05, 0.2):
        yield Case(f"copies {share:.0%}", _with(real, share, seed), share)
    for sigma in (0.05, 0.1, 0.2):
        yield Case(f"copies 10% + noise {sigma:g}", _with(real, 0.1, seed, noise=sigma), 0.1)
    yield Case("flipped copies 10%", _with(real, 0.1, seed, flip=True), 0.1)
    yield Case("shrunk modes", _shrunk(real))
    yield Case("dropped classes", fresh[real.classes < int(0.8 * (real.classes.max() + 1))])
    yield Case("blur", _blurred(fresh))


def _split(images: Pixels, labels: NDArray[np.int64], train: int, heldout: int, fresh: int) -> Real:
    order = np.random.default_rng(0).permutation(len(images))
    unique = order[np.sort(np.unique(images[order].reshape(len(images), -1), axis=0, return_index=True)[1])]
    parts = np.split(unique[: train + heldout + fresh], [train, train + heldout])
    return Real(*(images[part] for part in parts), labels[parts[2]])


def _with(real: Real, share: float, seed: int, noise: float = 0.0, flip: bool = False) -> Pixels:
    """Fresh images, a share of them replaced by training images."""
    generator = np.random.default_rng(seed)
    images, count = real.fresh.copy(), round(share * len(real.fresh))
    copies = real.train[generator.choice(len(real.train), count, replace=False)].astype(np.float64)
    copies += noise * 127.5 * generator.standard_normal(copies.shape)
    images[:count] = np.clip(np.rint(copies[..., ::-1] if flip else copies), 0, 255)
    return images


def _shrunk(real: Real) -> Pixels:
    """The half of the fresh images that lies nearest to the mean of its class: typical images, none copied."""
    kept = []
    for label in np.unique(real.classes):
        rows = np.flatnonzero(real.classes == label)
        images = real.fresh[rows].reshape(len(rows), -1).astype(np.float64)
        distance = np.linalg.norm(images - images.mean(0), axis=1)
        kept.append(rows[distance <= np.median(distance)])
    return real.fresh[np.concatenate(kept)]


def _blurred(images: Pixels) -> Pixels:
    blurred = np.empty_like(images)
    for out, image in zip(blurred.reshape(-1, *images.shape[2:]), images.reshape(-1, *images.shape[2:]), strict=True):
        out[:] = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.0)))
    return blurred
