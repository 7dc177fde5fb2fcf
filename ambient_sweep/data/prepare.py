"""Decodes a source once into a store, or writes only the noisy observations of its training images."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ambient_sweep import __version__, rng
from ambient_sweep.config import DataConfig
from ambient_sweep.data.duplicates import NEAR, Thumbnails, describe_groups, find_duplicates
from ambient_sweep.data.observed import add_noise
from ambient_sweep.data.pixels import Array, Encoding, decoded
from ambient_sweep.data.prepare_input import Rows, open_input
from ambient_sweep.data.split import block_size, check_corrupt, fingerprint_of, split_index
from ambient_sweep.data.store import (
    DUPLICATES_FILE,
    FORMAT,
    ObservedInfo,
    SplitInfo,
    StoreInfo,
    StoreWriter,
    made_alike,
    new_store,
    verify_store,
)
from ambient_sweep.errors import UserError

CORRUPT_NAMED = 100


@dataclass(frozen=True)
class Options:
    """How to prepare, besides the data.* keys."""

    observed_sigma: float | None = None  # write the observations at this level, and nothing else
    observed_seed: int | None = None  # of their noise; None: from the operating system, known to nobody
    drop_duplicates: bool = False
    near: float = NEAR


def prepare(out: Path, config: DataConfig, options: Options, echo: Callable[[str], None]) -> StoreInfo:
    """Writes the store `out` of the images that `config` names, which may be those of another store.

    An unfinished store is removed. Raises UserError for bad images, settings that contradict each other, and a place that
    cannot be written.
    """
    with new_store(out) as writer:
        preparation = _Preparation(writer, config, options, echo)
        sigma = options.observed_sigma
        info = preparation.clean() if sigma is None else preparation.observations(sigma)
        writer.info(info)
        echo("reading the store back")
        verify_store(writer.folder)
    return info


class _Preparation:
    def __init__(self, writer: StoreWriter, config: DataConfig, options: Options, echo: Callable[[str], None]) -> None:
        self.writer, self.config, self.options, self.echo = writer, config, options, echo
        self.given = open_input(config)
        self.source, self.place = self.given.source, self.given.place
        self.shape = (config.channels, config.image_size, config.image_size)
        self.encoding: Encoding = "uint8" if self.source.depth8 else "unit"
        self.thumbnails = Thumbnails(len(self.source), self.shape)
        self.corrupt: list[tuple[int, str]] = []
        self.train = self.heldout = np.empty(0, dtype=np.int64)  # rows
        self.duplicates: dict[str, Any] = {}

    def clean(self) -> StoreInfo:
        """A store of all images that train or are held out; where corrupt ones are skipped, of all that can be read."""
        keep = np.ones(len(self.source), dtype=bool)
        if self.given.split is not None or self.config.on_corrupt == "refuse":
            keep[:] = False
            keep[np.concatenate(self._split())] = True
        content = self._read(lambda rows, images: self.writer.images(images[keep[rows]]))
        self.writer.end_of_images()
        self._settle()
        keep[[row for row, _ in self.corrupt]] = False
        rows = np.flatnonzero(keep)
        self.writer.names(self.source.names[row] for row in rows.tolist())
        return self._finish(rows, content, None)

    def observations(self, sigma: float) -> StoreInfo:
        """A store of y_b of the training images; a first reading finds which these are, and no clean image is written.

        By default the noise is drawn from the operating system: whoever knows the seed of a keyed draw can subtract it.
        """
        seed = self.options.observed_seed
        content = self._read(None)
        self._settle()
        chosen = np.zeros(len(self.source), dtype=bool)
        chosen[self.train] = True

        def write(rows: Rows, images: Array) -> None:
            here = chosen[rows]
            y = decoded(images[here], self.encoding)
            if seed is None:
                y = (y + sigma * rng.secret_normal(y.shape)).astype(np.float32)
            else:
                level = np.full(len(y), sigma, dtype=np.float32)
                add_noise(y, level, "observed.base", seed, self.place[rows[here]])
            self.writer.images(y)

        if self._read(write, again=True) != content:
            raise UserError(f"{self.config.path}: its images changed while they were read; try again")
        sha256 = self.writer.end_of_images().sha256
        made = ObservedInfo(sigma=sigma, seed=seed, fingerprint=sha256[:16])
        return self._finish(np.flatnonzero(chosen), content, made)

    def _read(self, take: Callable[[Rows, Array], None] | None, again: bool = False) -> str:
        """Reads all images in order, hands the good ones to `take` with their rows, and returns their hash.

        The first time, it keeps thumbnails and corrupt images as well. Raises UserError for corrupt images and for a
        damaged store.
        """
        content, count, next_line = hashlib.sha256(), len(self.source), 0
        for block in self.source.blocks(block_size(self.shape)):
            images, good = block.channels_first(), block.good()
            content.update(images[good].data)
            if not again:
                self.thumbnails.put(block.start, images, self.encoding)
                self.corrupt += block.corrupt
            if take is not None:
                take(block.start + np.flatnonzero(good), images[good])
            done = block.start + len(images)
            if done >= next_line or done == count:
                self.echo(f"read {done:,} of {count:,} images{' again' if again else ''}")
                next_line = done + count // 10
        check_corrupt(self.config, self.source, self.corrupt)
        return self.given.content_sha256(content.hexdigest())

    def _split(self) -> tuple[Rows, Rows]:
        return self.given.split or split_index(self.config, len(self.source), self.corrupt)

    def _settle(self) -> None:
        """Finds the rows that train, those held out and the copies among them, and drops these where asked to.

        Writes duplicates.json, which in a store of observations holds no names.
        """
        self.train, self.heldout = self._split()
        rows = np.concatenate([self.train, self.heldout])
        self.echo(f"looking for duplicates among {len(rows):,} images")
        near, dropped = self.options.near, self.options.drop_duplicates
        found = find_duplicates(self.thumbnails, self.train, self.heldout, near)
        self.duplicates = {**found.counts(), "near": near, "dropped": dropped}
        names = self.source.names if self.options.observed_sigma is None else None
        groups = describe_groups(found, rows, self.place, names)
        self.writer.json(DUPLICATES_FILE, {**self.duplicates, "groups": groups})
        if dropped:
            self.train, self.heldout = self.train[~found.in_train], self.heldout[~found.in_heldout]
            if min(len(self.train), len(self.heldout)) < 2:
                raise UserError(
                    f"--drop-duplicates: leaves {len(self.train)} training and {len(self.heldout)} held-out images; "
                    "at least 2 of each are needed"
                )

    def _finish(self, rows: Rows, content: str, made: ObservedInfo | None) -> StoreInfo:
        """Writes the small arrays of the images at `rows`. Returns what store.json is to say."""
        source, place = self.source, self.place
        train_index, heldout_index = place[self.train], place[self.heldout]
        for name, index in (("index", place[rows]), ("train_index", train_index), ("heldout_index", heldout_index)):
            self.writer.array(name, index)
        for name, values in (("labels", source.labels), ("sigma", source.sigma)):
            if values is not None:
                self.writer.array(name, values[rows])
        corrupt: dict[str, Any] = {"count": len(self.corrupt)}
        if made is None:
            corrupt["first"] = [{"name": source.names[r], "reason": why} for r, why in self.corrupt[:CORRUPT_NAMED]]
        return StoreInfo(
            format=FORMAT,
            version=__version__,
            kind="clean" if made is None else "observed",
            count=len(rows),
            shape=self.shape,
            encoding=self.encoding if made is None else "signed",
            classes=source.classes,
            split=SplitInfo(seed=self.config.split_seed, train_size=len(train_index), heldout_size=len(heldout_index)),
            content_sha256=content,
            fingerprint=fingerprint_of(content, self.shape, train_index, heldout_index),
            observed=made,
            source=self.given.description if made is None else {"source": self.given.description["source"]},
            corrupt=corrupt,
            duplicates=self.duplicates,
            files=dict(self.writer.files),
        )


def summary(out: Path, info: StoreInfo) -> list[str]:
    """What the store at `out` holds and how to train with it, for people."""
    channels, side, _ = info.shape
    split, copies, corrupt, made = info.split, info.duplicates, info.corrupt, info.observed
    size = sum(file.bytes for file in info.files.values()) / 2**20
    what = f"{split.train_size:,} training images and {split.heldout_size:,} held-out images"
    if made is not None:
        what = f"noisy observations at sigma {made.sigma} of {split.train_size:,} training images, no clean image"
    lines = [f"{out}: {what}, {channels}x{side}x{side}, {size:,.1f} MiB", f"fingerprint {info.fingerprint}"]
    if made is not None and made.seed is not None:
        lines.append(f"warning: anyone can subtract noise drawn by --seed {made.seed}; omit --seed to protect images")
    if corrupt["count"]:
        first = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in corrupt.get("first", [])[:3])
        lines.append(f"skipped {corrupt['count']:,} images that cannot be read{': ' + first if first else ''}")
    lines.append(
        f"duplicates {'dropped' if copies['dropped'] else 'found'}: {copies['train_exact']:,} exact and "
        f"{copies['train_near']:,} near copies in the training set, {copies['heldout_exact']:,} exact and "
        f"{copies['heldout_near']:,} near copies of it among the held-out images ({DUPLICATES_FILE})"
    )
    held = copies["heldout_exact"] + copies["heldout_near"]
    if held and not copies["dropped"]:
        lines.append(
            f"warning: {held:,} held-out images are copies of training images and hide copies that a model makes; "
            "--drop-duplicates removes them"
        )
    keys = f"data.source=store data.path={out} data.image_size={side} data.channels={channels}"
    keys += f" data.split_seed={split.seed}" if split.seed else ""
    if made is not None:  # the sizes too, since the clean store may hold more
        keys += f" data.train_size={split.train_size} data.heldout_size={split.heldout_size}"
        keys += f" observed.base_sigma={made.sigma}"
        keys += f" observed.seed={made.seed}" if made.seed is not None else ""
        keys += " evaluation.path=..."
        if copies["dropped"]:
            lines.append(f"evaluation.path: a clean store with the same split, {made_alike(info)}")
    return [*lines, f"train with {keys}"]
