"""What a store is prepared from: a source of image files, or another store."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.dataset import load_data
from ambient_sweep.data.sources import Source, open_source
from ambient_sweep.data.store import IMAGES_FILE, INFO_FILE, Store, damaged, read_info
from ambient_sweep.errors import UserError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class PrepareInput:
    """A source with each row's place in the first source, and what is settled already where it is a store."""

    source: Source
    place: Rows  # [N]
    description: dict[str, Any]
    split: tuple[Rows, Rows] | None = None  # rows that train and rows held out
    store: Store | None = None

    def content_sha256(self, found: str) -> str:
        """The hash of the images of the first source, where `found` is that of the images read.

        Raises UserError where these are not those that the store was written with.
        """
        if self.store is None:
            return found
        if found != self.store.info.files[IMAGES_FILE].sha256:
            raise damaged(self.store.path / IMAGES_FILE, f"its sha256 is not the one in {INFO_FILE}")
        return self.store.info.content_sha256


def open_input(config: DataConfig) -> PrepareInput:
    """The source, or the store of clean images, that `config` names. Raises UserError."""
    if config.source != "store":
        source = open_source(config)
        described = config.model_dump(include={"source", "image_size", "channels"})
        if config.path is not None:
            described["name"] = Path(config.path).name  # but not the path to it
        return PrepareInput(source, np.arange(len(source)), described)
    data = load_data(config)
    store = data.store
    if store is None or data.observed is not None:
        raise UserError(f"{config.path}: holds only noisy observations; give the store of the clean images")
    images, depth8 = store.images.transpose(0, 2, 3, 1), store.info.encoding == "uint8"
    source = Source(
        store.names, lambda: (partial(np.array, image) for image in images), config.image_size, config.channels, depth8,
        store.labels, store.info.classes, store.sigma,
    )  # fmt: skip
    split = store.rows(data.train_index.numpy()), store.rows(data.heldout_index.numpy())
    return PrepareInput(source, store.index, store.info.source, split, store)


def store_keys(path: Path) -> dict[str, Any]:
    """The data.* keys that read the store at `path`. Raises UserError where there is none."""
    info = read_info(path)
    channels, side, _ = info.shape
    return {
        "data.source": "store", "data.path": str(path), "data.image_size": side, "data.channels": channels,
        "data.split_seed": info.split.seed,
    }  # fmt: skip
