"""The images of a run: a source or a store, split by seed into training and held-out images."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep.config import Config, DataConfig
from ambient_sweep.data.arrived import check_distance
from ambient_sweep.data.pixels import Array, Pixels
from ambient_sweep.data.sources import Source, open_source
from ambient_sweep.data.sources.annotations import TEXT
from ambient_sweep.data.sources.source import corrupt_line, source_path
from ambient_sweep.data.sources.table import Table
from ambient_sweep.data.split import Rows, shortened, split_index, split_notes
from ambient_sweep.data.store import TEXT_FILE, LatentInfo, ObservedInfo, Store, open_store, read_info, store_keys
from ambient_sweep.errors import UserError
from ambient_sweep.storage import digest

MOST_IN_MEMORY = 8 * 2**30  # bytes of decoded images; beyond, a store is needed


@dataclass(frozen=True)
class ImageData:
    """The images of a run. `*_index` is an image's place in its source, [N] int64."""

    train: Pixels
    heldout: Pixels
    train_index: torch.Tensor
    heldout_index: torch.Tensor
    train_labels: torch.Tensor | None  # int64 [N]
    heldout_labels: torch.Tensor | None
    name: Callable[[int], str]  # what to call the image at a place in the source
    fingerprint: str  # of pixels and split; the same in a source, its store and its noisy observations
    classes: int = 0  # 0 without labels
    train_sigma: NDArray[np.float32] | None = None  # own noise level per training image, [N]; NaN: none
    observed: ObservedInfo | None = None  # where `train` holds noisy observations, and no image is held out
    store: Store | None = None
    notes: tuple[str, ...] = ()  # what users should know of the reading and of the split, a line each
    unlabelled: str | None = None  # why labels that are there cannot be used

    @property
    def arrived_noisy(self) -> bool:
        """Whether the images are observations made elsewhere."""
        return self.observed is not None and self.observed.elsewhere

    @property
    def latent(self) -> LatentInfo | None:
        """Where the images come from, if they are latents."""
        return None if self.store is None else self.store.info.latent

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.train.shape

    def trained_on(self) -> dict[str, Any]:
        """What tells these training data from others, as plain JSON types: hashes, None for what there is not."""
        levels, labels, latent = self.train_sigma, self.train_labels, self.latent
        found = {
            "images": self.fingerprint,
            "observed": None if self.observed is None else self.observed.fingerprint,
            "levels": None if levels is None else _hash(np.where(np.isnan(levels), -1, levels).astype("<f4")),
            "labels": None if labels is None else _hash(labels.numpy().astype("<i8")),
            "classes": self.classes,
        }
        if latent is not None and self.store is not None:
            found["latent"] = digest(
                [latent.model_dump(), *sorted(each.sha256 for each in self.store.info.files.values())]
            )
        return found

    def split(self) -> dict[str, Any]:
        """Which image trains and which is held out, as plain JSON types; of a store, which says so itself, its path."""
        if self.store is not None:
            sizes = {"train_size": len(self.train), "heldout_size": len(self.heldout_index)}
            return {"fingerprint": self.fingerprint, "store": str(self.store.path), **sizes}
        return {
            "fingerprint": self.fingerprint,
            "train": [{"index": i, "name": self.name(i)} for i in self.train_index.tolist()],
            "heldout": [{"index": i, "name": self.name(i)} for i in self.heldout_index.tolist()],
        }


def _hash(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]


def load_data(config: DataConfig) -> ImageData:
    """The images that `config` names, split. Raises UserError for a bad source or store, and where images are too few."""
    return _from_store(config) if config.source == "store" else _from_source(config, open_source(config))


def load_clean(config: Config, load: Callable[[DataConfig], ImageData] = load_data) -> ImageData:
    """The clean images that evaluation compares with: the store `evaluation.path` where it is given, else the data.

    Those of latents are the pixels that they were made from.

    Raises UserError where there are none, or where those of `evaluation.path` are not the images observed.
    """
    data, path = load(config.data), config.evaluation.path
    if path is None and data.observed is None and data.latent is None:
        return data
    if path is None:
        what = "only noisy observations" if data.latent is None else "latents"
        cure = "set evaluation.path=... to a store of the clean images"
        raise UserError(f"data.path: {config.data.path} holds {what}; {cure}")
    keys: dict[str, Any] = {"path": path}
    if data.latent is not None:  # its images are of another size
        keys = {
            key.removeprefix("data."): value for key, value in store_keys(Path(path), read_info(Path(path))).items()
        }
    clean = load(config.data.model_copy(update=keys))
    if clean.observed is not None or clean.latent is not None:
        what = "latents" if clean.latent is not None else "noisy observations"
        raise UserError(f"evaluation.path: {path} holds {what}; give the clean store")
    same = clean.fingerprint == data.fingerprint
    if data.arrived_noisy or data.latent is not None:  # the hash of their clean images is not known, or another
        indices = zip(*((each.train_index, each.heldout_index) for each in (data, clean)), strict=True)
        same = all(torch.equal(*pair) for pair in indices)
        if data.latent is None:
            same &= clean.shape == data.shape
        else:
            same &= clean.store is not None and clean.store.info.fingerprint == data.latent.pixels
    if not same:
        sizes = f"data.train_size={len(data.train_index)} data.heldout_size={len(data.heldout_index)}"
        raise UserError(
            f"evaluation.path: {path} holds other images than those behind data.path {config.data.path}, or splits them "
            f"differently; set {sizes}, or prepare both with the same data.* keys and the same --drop-duplicates --near"
        )
    if data.observed is not None and data.arrived_noisy:
        levels = data.observed.sigma if data.train_sigma is None else data.train_sigma
        check_distance(data.train, clean.train, levels, f"evaluation.path: {path}")
    return clean


def check_corrupt(config: DataConfig, source: Source, corrupt: Sequence[tuple[int, str]]) -> None:
    """Raises UserError for corrupt images, unless data.on_corrupt=skip."""
    if corrupt and config.on_corrupt == "refuse":
        cure = "remove or replace them, or set data.on_corrupt=skip"
        raise UserError(f"{config.path}: {corrupt_line(source.names, corrupt)}; {cure}")


def fingerprint_of(content_sha256: str, shape: tuple[int, int, int], train: Rows, heldout: Rows) -> str:
    """A hash, 16 hex digits, of the pixels of a source and of its split."""
    digest = hashlib.sha256(json.dumps([content_sha256, *shape, len(train), len(heldout)]).encode())
    for index in (train, heldout):
        digest.update(index.astype("<i8").data)
    return digest.hexdigest()[:16]


def _from_source(config: DataConfig, source: Source) -> ImageData:
    needed = len(source) * int(np.prod(source.shape)) * source.dtype.itemsize
    if needed > MOST_IN_MEMORY:
        held = f"{len(source):,} images, {needed / 2**30:.1f} GiB at this size"
        raise UserError(f"data.path: {config.path} holds {held}; run `ambient-sweep prepare` and use data.source=store")
    images, corrupt = source.read()
    check_corrupt(config, source, corrupt)
    readable = np.delete(images, [row for row, _ in corrupt], axis=0) if corrupt else images
    content = hashlib.sha256(readable.data).hexdigest()
    index = split_index(config, source, corrupt)
    skipped = [f"skipped: {corrupt_line(source.names, corrupt)}"] if corrupt else []
    return _image_data(
        Pixels(images, source.encoding), index, index, source.labels, source.sigma,
        name=source.names.__getitem__,
        fingerprint=fingerprint_of(content, source.shape, *index),
        classes=len(source.classes),
        notes=(*source.lines(read=True), *skipped, *split_notes(config, source, *index)),
        unlabelled=source.unlabelled,
    )  # fmt: skip


def _from_store(config: DataConfig) -> ImageData:
    store = open_store(source_path(config))
    info = store.info
    _check_keys(config, store)
    where = f"{store.path}; lower it or prepare a larger store"
    train, heldout = shortened(config, store.train_index, store.heldout_index, where)
    heldout_rows = store.rows(heldout) if info.observed is None else np.empty(0, dtype=np.int64)
    return _image_data(
        store.pixels, (train, heldout), (store.rows(train), heldout_rows), store.labels, store.sigma,
        name=store.name,
        fingerprint=fingerprint_of(info.content_sha256, info.shape, train, heldout),
        classes=len(info.classes),
        observed=info.observed,
        store=store,
    )  # fmt: skip


def _image_data(
    pixels: Pixels, index: tuple[Rows, Rows], rows: tuple[Rows, Rows], labels: Rows | None,
    sigma: NDArray[np.float32] | None, **more: Any,
) -> ImageData:  # fmt: skip
    """Training and held-out images, by their places in the source (index) and among the pixels, labels and levels (rows)."""
    train, heldout = (pixels.subset(each) for each in rows)
    train_index, heldout_index = (torch.from_numpy(each.copy()) for each in index)
    train_labels, heldout_labels = (None if labels is None else torch.from_numpy(labels[each]) for each in rows)
    own = None if sigma is None else sigma[rows[0]]
    return ImageData(train, heldout, train_index, heldout_index, train_labels, heldout_labels, train_sigma=own, **more)


def _check_keys(config: DataConfig, store: Store) -> None:
    """Raises UserError where the config names another size, split, label or level column than the store was made with."""
    channels, side, _ = store.info.shape
    kept_by_stores = {"label_column", "sigma_column", "range", "split", "group_column", "group_pattern"}
    own = config.model_dump(exclude=kept_by_stores)
    own |= {"image_size": side, "channels": channels, "split_seed": store.info.split.seed}
    made, asked = DataConfig(**own).model_dump(), config.model_dump()
    other = " ".join(f"data.{key}={json.dumps(value)}" for key, value in made.items() if value != asked[key])
    if other := other.replace('"', ""):
        kept = "the size, the seed of the split, the labels and the levels it was prepared with"
        raise UserError(f"{config.path}: a store keeps {kept}; set {other}, or prepare it anew")


def stored_source(data: ImageData) -> tuple[Source, tuple[Rows, Rows]]:
    """All images of the clean store behind `data`, and which of them train and are held out. Raises UserError."""
    store = data.store
    if store is None or data.observed is not None or data.latent is not None:
        where, what = (
            "data.path" if store is None else store.path,
            "latents" if data.latent else "only noisy observations",
        )
        raise UserError(f"{where}: holds {what}; give the store of the clean images")
    images, (channels, side, _) = store.images.transpose(0, 2, 3, 1), store.info.shape
    text = Table(str(store.path), len(images), [TEXT] if TEXT_FILE in store.info.files else [], lambda _: store.text())
    source = Source(
        store.names, lambda: (partial(np.array, image) for image in images), side, channels,
        store.info.encoding == "uint8", store.labels, store.info.classes, store.sigma, columns=text,
    )  # fmt: skip
    return source, (store.rows(data.train_index.numpy()), store.rows(data.heldout_index.numpy()))
