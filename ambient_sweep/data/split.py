"""Which images of a source train and which are held out, and the fingerprint of images and split."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources import Source
from ambient_sweep.errors import UserError

MIN_HELDOUT = 2


def check_corrupt(config: DataConfig, source: Source, corrupt: Sequence[tuple[int, str]]) -> None:
    """Raises UserError for corrupt images, unless data.on_corrupt=skip: how many, and the first three by name."""
    if corrupt and config.on_corrupt == "refuse":
        where = f"{config.path or config.source}: {corrupt_images(source.names, corrupt)}"
        raise UserError(f"{where}; remove or replace them, or set data.on_corrupt=skip")


def corrupt_images(names: Sequence[str], corrupt: Sequence[tuple[int, str]]) -> str:
    """How many images cannot be read, and the first three by name, in words."""
    first = "; ".join(f"{names[row]}: {reason}" for row, reason in corrupt[:3])
    more = f"; and {len(corrupt) - 3} more" if len(corrupt) > 3 else ""
    return f"{len(corrupt)} of {len(names)} images cannot be read ({first}{more})"


def split_index(
    config: DataConfig, count: int, corrupt: Sequence[tuple[int, str]] = ()
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The training and the held-out images, by their place in a source of `count`.

    Of a keyed permutation of the source without its corrupt images, the first train and the last are held out: a
    smaller train_size is a prefix of a larger one, and the held-out images depend on heldout_size alone. Raises
    UserError where images are too few.
    """
    order = rng.permutation("data.split", config.split_seed, 0, count)
    if corrupt:
        order = order[~np.isin(order, [row for row, _ in corrupt])]
    good = len(order)
    train_size = config.train_size or (good - config.heldout_size if config.heldout_size else good * 9 // 10)
    heldout_size = good - train_size if config.heldout_size is None else config.heldout_size
    if train_size < 1 or train_size + max(heldout_size, MIN_HELDOUT) > good:
        held = MIN_HELDOUT if config.heldout_size is None else heldout_size
        wanted = f"data.train_size={max(train_size, 1)} and {held} held out"
        raise UserError(f"{config.path or config.source}: {good} images are fewer than {wanted}; lower data.train_size")
    return order[:train_size].copy(), order[good - heldout_size :].copy()


def fingerprint_of(
    content_sha256: str, shape: tuple[int, int, int], train_index: NDArray[np.int64], heldout_index: NDArray[np.int64]
) -> str:
    """A hash, 16 hex digits, of the pixels of a source and of its split."""
    digest = hashlib.sha256(json.dumps([content_sha256, *shape, len(train_index), len(heldout_index)]).encode())
    for index in (train_index, heldout_index):
        digest.update(index.astype("<i8").data)
    return digest.hexdigest()[:16]
