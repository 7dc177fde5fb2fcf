"""What a store is prepared from: a source of image files, or another store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.images import load_data
from ambient_sweep.data.sources import Block, Source, open_source
from ambient_sweep.data.store import AGAIN, IMAGES_FILE, INFO_FILE, Store, read_info
from ambient_sweep.errors import UserError

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Origin:
    """A source with each row's place in the first source, and what is settled already where it is a store."""

    source: Source
    place: Rows  # [N]
    description: dict[str, Any]
    split: tuple[Rows, Rows] | None = None  # rows that train and rows held out
    store: Store | None = None

    def content(self, found: str) -> str:
        """The hash of the images of the first source, where `found` is that of the images read.

        Raises UserError where these are not those that the store was written with.
        """
        if self.store is None:
            return found
        if found != self.store.info.files[IMAGES_FILE].sha256:
            file = self.store.path / IMAGES_FILE
            raise UserError(f"{file}: damaged (its sha256 is not the one in {INFO_FILE}); {AGAIN}")
        return self.store.info.content_sha256


def open_origin(config: DataConfig) -> Origin:
    """The source, or the store of clean images, that `config` names. Raises UserError."""
    if config.source != "store":
        source = open_source(config)
        described: dict[str, Any] = {"source": config.source}
        described |= {"image_size": config.image_size, "channels": config.channels}
        if config.path is not None:
            described["name"] = Path(config.path).name  # and not where it lies
        return Origin(source, np.arange(len(source)), described)
    data = load_data(config)
    if data.store is None or data.observed is not None:
        raise UserError(f"{config.path}: holds noisy observations alone; give the store of the clean images")
    split = data.store.rows(data.train_index.numpy()), data.store.rows(data.heldout_index.numpy())
    return Origin(StoredSource(data.store), data.store.index, data.store.info.source, split, data.store)


def store_keys(path: Path) -> dict[str, Any]:
    """The data.* keys that read the store at `path`. Raises UserError where there is none."""
    info = read_info(path)
    channels, side, _ = info.shape
    return {
        "data.source": "store", "data.path": str(path), "data.image_size": side, "data.channels": channels,
        "data.split_seed": info.split.seed,
    }  # fmt: skip


@dataclass(frozen=True)
class StoredSource:
    """A clean store as a source of images."""

    store: Store

    @property
    def names(self) -> Sequence[str]:
        return [f"image {i}" for i in self.store.index] if self.store.names is None else self.store.names

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return self.store.labels

    @property
    def classes(self) -> tuple[str, ...]:
        return self.store.info.classes

    @property
    def sigma(self) -> NDArray[np.float32] | None:
        return self.store.sigma

    @property
    def depth8(self) -> bool:
        return self.store.info.encoding == "uint8"

    def __len__(self) -> int:
        return self.store.info.count

    def blocks(self, size: int) -> Iterator[Block]:
        for start in range(0, len(self), size):
            images = np.array(self.store.images[start : start + size])
            bad = np.flatnonzero(~((images >= 0) & (images <= (255 if self.depth8 else 1))).all(axis=(1, 2, 3)))
            if len(bad):
                raise UserError(
                    f"{self.store.path / IMAGES_FILE}: {self.names[start + int(bad[0])]} holds NaN or values outside "
                    f"[0, 1]; {AGAIN}"
                )
            yield Block(start, images.transpose(0, 2, 3, 1), [])
