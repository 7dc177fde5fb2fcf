"""The images of a run: a source or a store, split by seed into training and held-out images."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.config import Config, DataConfig
from ambient_sweep.data.arrived import check_distance
from ambient_sweep.data.groups import split_groups
from ambient_sweep.data.pixels import Array, Encoding, Pixels
from ambient_sweep.data.sources import Source, open_source
from ambient_sweep.data.sources.source import corrupt_line, refuse_corrupt, source_path
from ambient_sweep.data.store import ObservedInfo, Store, open_store
from ambient_sweep.errors import UserError

MIN_HELDOUT = 2
ENOUGH_HELDOUT, SPARE_HELDOUT = (
    99,
    11,
)  # what mem_excess needs at its default quantile, and more, since copies do not count
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
    class_names: tuple[str, ...] = ()
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
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.train.shape

    @property
    def classes(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.class_names)

    def trained_on(self) -> dict[str, Any]:
        """What tells these training data from others, as plain JSON types: hashes, None for what there is not."""
        levels, labels = self.train_sigma, self.train_labels
        return {
            "images": self.fingerprint,
            "observed": None if self.observed is None else self.observed.fingerprint,
            "levels": None if levels is None else _hash(np.where(np.isnan(levels), -1, levels).astype("<f4")),
            "labels": None if labels is None else _hash(labels.numpy().astype("<i8")),
            "classes": self.classes,
        }

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

    Raises UserError where there are none, or where those of `evaluation.path` are not the images observed.
    """
    data, path = load(config.data), config.evaluation.path
    if path is None and data.observed is not None:
        raise UserError(
            f"data.path: {config.data.path} holds only noisy observations; set evaluation.path=... to a store of the "
            "clean images"
        )
    if path is None:
        return data
    clean = load(config.data.model_copy(update={"path": path}))
    if clean.observed is not None:
        raise UserError(f"evaluation.path: {path} holds noisy observations; give the clean store")
    same = clean.fingerprint == data.fingerprint
    if data.arrived_noisy:  # the hash of their clean images is not known
        indices = zip(*((each.train_index, each.heldout_index) for each in (data, clean)), strict=True)
        same = clean.shape == data.shape and all(torch.equal(*pair) for pair in indices)
    if not same:
        sizes = f"data.train_size={len(data.train_index)} data.heldout_size={len(data.heldout_index)}"
        raise UserError(
            f"evaluation.path: {path} holds other images than those behind data.path {config.data.path}, or splits them "
            f"differently; set {sizes}, or prepare both with the same data.* keys and the same --drop-duplicates --near"
        )
    if data.observed is not None and data.observed.elsewhere:
        levels = data.observed.sigma if data.train_sigma is None else data.train_sigma
        check_distance(data.train, clean.train, levels, f"evaluation.path: {path}")
    return clean


# -- the split ------------------------------------------------------------------------------------------------------


def check_corrupt(config: DataConfig, source: Source, corrupt: Sequence[tuple[int, str]]) -> None:
    """Raises UserError for corrupt images, unless data.on_corrupt=skip."""
    if config.on_corrupt == "refuse":
        refuse_corrupt(str(config.path), source.names, corrupt, ", or set data.on_corrupt=skip")


def split_index(
    config: DataConfig, source: Source, corrupt: Sequence[tuple[int, str]] = ()
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The training and the held-out images, by their place in the source.

    Of a keyed permutation of the source without its corrupt images, the first train and the last are held out: a
    smaller train_size is a prefix of a larger one, and the held-out images depend on heldout_size alone. By default a
    tenth is held out, or as many as evaluation needs, up to half. A publisher's split is taken as it is, up to the sizes;
    groups are kept whole. Raises UserError where images are too few.
    """
    order = rng.permutation("data.split", config.split_seed, 0, len(source))
    if corrupt:
        order = order[~np.isin(order, [row for row, _ in corrupt])]
    if source.published is not None:
        train, heldout = order[source.published[order]], order[~source.published[order]]
        held = _size(config.heldout_size, "heldout", len(heldout), "data.split; lower it")
        if len(train) == 0 or held < MIN_HELDOUT:
            found = f"{len(train)} training and {held} held-out images"
            raise UserError(f"data.split: has {found} that can be read; name more")
        size = _size(config.train_size, "train", len(train), "data.split; lower it")
        return train[:size], heldout[len(heldout) - held :]
    good = len(order)
    train_size = config.train_size or good - (config.heldout_size or default_heldout(good))
    heldout_size = good - train_size if config.heldout_size is None else config.heldout_size
    if train_size < 1 or train_size + max(heldout_size, MIN_HELDOUT) > good:
        held = MIN_HELDOUT if config.heldout_size is None else heldout_size
        wanted = f"data.train_size={max(train_size, 1)} and {held} held out"
        raise UserError(f"{config.path or config.source}: {good} images are fewer than {wanted}; lower data.train_size")
    if source.groups is not None:
        exact = None if config.train_size is None or config.heldout_size is None else train_size
        return split_groups(order, source.groups, exact, heldout_size, MIN_HELDOUT, _grouping(config))
    return order[:train_size].copy(), order[good - heldout_size :].copy()


def split_notes(config: DataConfig, source: Source, train: NDArray[np.int64], heldout: NDArray[np.int64]) -> list[str]:
    """What came out of a split that keeps groups whole, in words; nothing of another."""
    if source.groups is None:
        return []
    done = [f"{len(rows):,} images of {len(np.unique(source.groups[rows])):,} groups" for rows in (train, heldout)]
    for place, size in enumerate((config.train_size, config.heldout_size)):
        done[place] += f" ({size:,} asked for)" if size not in (None, len((train, heldout)[place])) else ""
    return [f"groups by {_grouping(config)} are kept whole: {done[0]} train, {done[1]} are held out"]


def _grouping(config: DataConfig) -> str:
    column, pattern = config.group_column, config.group_pattern
    return f"data.group_pattern={pattern}" if column is None else f"data.group_column={column}"


def default_heldout(count: int) -> int:
    """How many of `count` images are held out unless the config says so."""
    tenth = count - count * 9 // 10
    return tenth if tenth >= ENOUGH_HELDOUT else min(ENOUGH_HELDOUT + SPARE_HELDOUT, count // 2)


def fingerprint_of(
    content_sha256: str, shape: tuple[int, int, int], train_index: NDArray[np.int64], heldout_index: NDArray[np.int64]
) -> str:
    """A hash, 16 hex digits, of the pixels of a source and of its split."""
    digest = hashlib.sha256(json.dumps([content_sha256, *shape, len(train_index), len(heldout_index)]).encode())
    for index in (train_index, heldout_index):
        digest.update(index.astype("<i8").data)
    return digest.hexdigest()[:16]


# -- from a source --------------------------------------------------------------------------------------------------


def _from_source(config: DataConfig, source: Source) -> ImageData:
    needed = len(source) * int(np.prod(source.shape)) * source.dtype.itemsize
    if needed > MOST_IN_MEMORY:
        raise UserError(
            f"data.path: {config.path} holds {len(source):,} images, {needed / 2**30:.1f} GiB at this size; run "
            "`ambient-sweep prepare` once and train with data.source=store"
        )
    images, corrupt = source.read()
    check_corrupt(config, source, corrupt)
    readable = np.delete(images, [row for row, _ in corrupt], axis=0) if corrupt else images
    content = hashlib.sha256(readable.data).hexdigest()
    train, heldout = split_index(config, source, corrupt)
    encoding: Encoding = "uint8" if source.depth8 else "unit"
    return ImageData(
        train=Pixels(images, encoding, train),
        heldout=Pixels(images, encoding, heldout),
        train_index=torch.from_numpy(train),
        heldout_index=torch.from_numpy(heldout),
        train_labels=_at(source.labels, train),
        heldout_labels=_at(source.labels, heldout),
        name=source.names.__getitem__,
        fingerprint=fingerprint_of(content, source.shape, train, heldout),
        class_names=source.classes,
        train_sigma=None if source.sigma is None else source.sigma[train],
        notes=(*_notes(source, corrupt), *split_notes(config, source, train, heldout)),
        unlabelled=source.unlabelled,
    )


def _notes(source: Source, corrupt: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    """What users should know of the images that were read, a line each."""
    scaled = [] if source.window is None else [source.window.note()]
    skipped = [f"skipped: {corrupt_line(source.names, corrupt)}"] if corrupt else []
    return (*source.lines(), *scaled, *skipped)


def _at(labels: NDArray[np.int64] | None, rows: NDArray[np.int64]) -> torch.Tensor | None:
    return None if labels is None else torch.from_numpy(labels[rows])


# -- from a store ---------------------------------------------------------------------------------------------------


def _from_store(config: DataConfig) -> ImageData:
    store = open_store(source_path(config))
    info = store.info
    _check_keys(config, store)
    where = f"{store.path}; lower it or prepare a larger store"
    train_index = store.train_index[: _size(config.train_size, "train", len(store.train_index), where)]
    held = _size(config.heldout_size, "heldout", len(store.heldout_index), where)
    heldout_index = store.heldout_index[len(store.heldout_index) - held :]
    train = store.rows(train_index)
    heldout = store.rows(heldout_index) if info.observed is None else np.empty(0, dtype=np.int64)
    return ImageData(
        train=Pixels(store.images, info.encoding, train),
        heldout=Pixels(store.images, info.encoding, heldout),
        train_index=torch.from_numpy(train_index.copy()),
        heldout_index=torch.from_numpy(heldout_index.copy()),
        train_labels=_at(store.labels, train),
        heldout_labels=_at(store.labels, heldout),
        name=store.name,
        fingerprint=fingerprint_of(info.content_sha256, info.shape, train_index, heldout_index),
        class_names=info.classes,
        train_sigma=None if store.sigma is None else store.sigma[train],
        observed=info.observed,
        store=store,
    )


def _check_keys(config: DataConfig, store: Store) -> None:
    """Raises UserError where the config names another size, split, label or level column than the store was made with."""
    channels, side, _ = store.info.shape
    made: dict[str, Any] = {"image_size": side, "channels": channels, "split_seed": store.info.split.seed}
    kept = ("label_column", "sigma_column", "range", "group_column", "group_pattern")
    made |= {key: DataConfig.model_fields[key].default for key in kept}
    other = {key: value for key, value in made.items() if getattr(config, key) != value}
    other |= {f"split.{part}": None for part, value in config.split if value is not None}
    if other:
        keys = " ".join(f"data.{key}={'null' if value is None else value}" for key, value in other.items())
        raise UserError(
            f"{config.path}: a store keeps the size, the seed of the split, the labels and the levels it was prepared with; "
            f"set {keys}, or prepare it anew"
        )


def _size(asked: int | None, part: str, there: int, where: str) -> int:
    """The size asked for, or all there are. Raises UserError, which ends with `where` and the cure, where it is larger."""
    if asked is not None and asked > there:
        raise UserError(f"data.{part}_size: {asked} is more than the {there} in {where}")
    return there if asked is None else asked
