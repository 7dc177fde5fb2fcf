"""Decodes a source once into a store, or writes only the noisy observations of its training images."""

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ambient_sweep import __version__, rng
from ambient_sweep.config import DataConfig, ModelConfig
from ambient_sweep.data import store
from ambient_sweep.data.arrived import NoiseCheck, open_observations
from ambient_sweep.data.dataset import check_corrupt, fingerprint_of, load_data, stored_source
from ambient_sweep.data.duplicates import NEAR, Thumbnails, find_duplicates
from ambient_sweep.data.pixels import Array, decoded, pixel_lines
from ambient_sweep.data.related import find_related
from ambient_sweep.data.sources import open_source
from ambient_sweep.data.sources.annotations import TEXT
from ambient_sweep.data.sources.source import printable
from ambient_sweep.data.split import Rows, split_index, split_notes
from ambient_sweep.errors import UserError
from ambient_sweep.storage import sha256
from ambient_sweep.terminal import advance
from ambient_sweep.text import counted

FIRST_NAMED = 100


def prepare(
    out: Path, config: DataConfig, echo: Callable[[str], None], *,
    observed_sigma: float | None = None, arrived_noisy: bool = False, drop_duplicates: bool = False, near: float = NEAR,
) -> store.StoreInfo:  # fmt: skip
    """Writes the store `out` of the images that `config` names, or nothing. Raises UserError.

    observed_sigma: writes the observations at this level, and nothing else. arrived_noisy: the images are observations
    already, at observed_sigma or at the levels of data.sigma_column. near: see `find_duplicates`.
    """
    with store.new_store(out) as folder:
        preparation = _Preparation(folder, config, echo, observed_sigma, arrived_noisy, drop_duplicates, near)
        return preparation.clean() if preparation.sigma is None else preparation.observations(preparation.sigma)


@dataclass
class _Preparation:
    folder: Path
    config: DataConfig
    echo: Callable[[str], None]
    sigma: float | None
    arrived_noisy: bool
    drop_duplicates: bool
    near: float

    def __post_init__(self) -> None:
        self.split: tuple[Rows, Rows] | None = None  # rows that train and rows held out, where that is settled already
        self.stored: store.Store | None = None  # from which the images come
        if self.config.source == "store":
            data = load_data(self.config)
            self.stored, (self.source, self.split) = data.store, stored_source(data)
            store.verify_store(Path(str(self.config.path)))
        elif self.arrived_noisy:
            self.source, self.sigma = open_observations(self.config, self.sigma)
        else:
            self.source = open_source(self.config)
        # [N], in the first source
        self.place = np.arange(len(self.source)) if self.stored is None else self.stored.index
        for line in self.source.lines():
            self.echo(line)
        self.thumbnails = Thumbnails(len(self.source), self.source.shape)
        self.corrupt: list[tuple[int, str]] = []

    def clean(self) -> store.StoreInfo:
        """A store of all images that train or are held out; where corrupt ones are skipped, of all that can be read."""
        keep = np.ones(len(self.source), dtype=bool)
        if self.split is not None or self.config.on_corrupt == "refuse":
            keep = np.isin(np.arange(len(keep)), np.concatenate(self._split()))
        with (self.folder / store.IMAGES_FILE).open("wb") as file:
            content = self._read(lambda rows, images: file.write(images[keep[rows]].data))
        self._settle()
        keep[[row for row, _ in self.corrupt]] = False
        rows = np.flatnonzero(keep)
        (self.folder / store.NAMES_FILE).write_text(json.dumps([self.source.names[row] for row in rows.tolist()]))
        if TEXT in self.source.columns:
            try:
                text = self.source.columns.read(TEXT)[rows].tolist()
                if not all(isinstance(each, str | None) for each in text):
                    raise UserError(f"{self.source.columns.where}: {TEXT}: does not hold strings")
                (self.folder / store.TEXT_FILE).write_text(json.dumps([each or None for each in text]))
            except UserError as error:
                self.echo(f"captions are left out: {error}")
        return self._finish(rows, content)

    def observations(self, sigma: float) -> store.StoreInfo:
        """A store of y_b of the training images; a first reading finds which these are, and no clean image is written.

        The noise is drawn from the operating system: whoever knows the seed of a keyed draw can subtract it. Images that
        arrived noisy are taken as they are, unless they were rounded or clipped.
        """
        check, own = NoiseCheck(sigma), self.source.sigma

        def look(rows: Rows, images: Array) -> None:
            if self.arrived_noisy:
                check.add(decoded(images if own is None else images[own[rows] > 0], self.source.encoding))

        content = self._read(look)
        check.refuse_altered(f"--observations: {self.config.path}")
        self._settle()
        chosen = np.isin(np.arange(len(self.source)), self.train)
        with (self.folder / store.IMAGES_FILE).open("wb") as file:

            def write(rows: Rows, images: Array) -> None:
                pixels = decoded(images[chosen[rows]], self.source.encoding)
                if not self.arrived_noisy:
                    pixels = (pixels + sigma * rng.secret_normal(pixels.shape)).astype(np.float32)
                file.write(pixels.data)

            if self._read(write, again=True) != content:
                raise UserError(f"{self.config.path}: its images changed while they were read; try again")
        return self._finish(np.flatnonzero(chosen), content)

    def _read(self, take: Callable[[Rows, Array], object], again: bool = False) -> str:
        """Reads all images in order, hands the good ones to `take` with their rows, and returns their hash.

        The first time, it keeps thumbnails and corrupt images as well. Raises UserError for corrupt images.
        """
        content, count = hashlib.sha256(), len(self.source)
        for block in self.source.blocks():
            good, end = block.good(), block.start + len(block.images)
            content.update(block.images[good].data)
            if not again:
                self.thumbnails.put(block.start, block.images, self.source.encoding)
                self.corrupt += block.corrupt
            take(block.start + np.flatnonzero(good), block.images[good])
            advance("reading images again" if again else "reading images", end, count)
        check_corrupt(self.config, self.source, self.corrupt)
        if self.source.window is not None and not again:
            self.echo(self.source.window.note())
        return content.hexdigest()

    def _split(self) -> tuple[Rows, Rows]:
        return self.split or split_index(self.config, self.source, self.corrupt)

    def _settle(self) -> None:
        """Finds the rows that train, those held out and the copies among them, and drops these where asked to.

        Writes duplicates.json, which in a store of observations holds no names.
        """
        self.train, self.heldout = self._split()
        rows = np.concatenate([self.train, self.heldout])
        self.echo(f"looking for duplicates among {len(rows):,} images")
        found = find_duplicates(self.thumbnails, self.train, self.heldout, self.near)
        self.duplicates: dict[str, Any] = {**found.counts(), "near": self.near, "dropped": self.drop_duplicates}
        named: list[Any] = self.place[rows].tolist()
        if self.sigma is None:
            named = [{"index": place, "name": self.source.names[row]} for place, row in zip(named, rows, strict=True)]
        document = json.dumps({**self.duplicates, "copies": found.copies(named)}, indent=1)
        (self.folder / store.DUPLICATES_FILE).write_text(document + "\n")
        if self.drop_duplicates:
            self.train, self.heldout = self.train[~found.copy[: found.train]], self.heldout[~found.copy[found.train :]]
            if min(len(self.train), len(self.heldout)) < 2:
                left = f"{len(self.train)} training and {len(self.heldout)} held-out images"
                raise UserError(f"--drop-duplicates: leaves {left}; at least 2 of each are needed")
        related = find_related(self.thumbnails, self.train, self.heldout)
        self.duplicates["related"] = related.line if related.is_many else None
        for line in split_notes(self.config, self.source, self.train, self.heldout):
            self.echo(line)

    def _finish(self, rows: Rows, content: str) -> store.StoreInfo:
        """Writes the small arrays of the images at `rows`, and store.json; content: sha256 of all images read."""
        source, place = self.source, self.place
        train_index, heldout_index = place[self.train], place[self.heldout]
        for name, index in (("index", place[rows]), ("train_index", train_index), ("heldout_index", heldout_index)):
            np.save(self.folder / f"{name}.npy", index)
        for name, values in (("labels", source.labels), ("sigma", source.sigma)):
            if values is not None:
                np.save(self.folder / f"{name}.npy", values[rows])
        made, config, written = None, self.config, sorted(self.folder.iterdir())
        files = {file.name: store.FileInfo(bytes=file.stat().st_size, sha256=sha256(file)) for file in written}
        used = {"source", "image_size", "channels", "range"}
        description: dict[str, Any] = config.model_dump(include=used, exclude_none=True)
        if config.path is not None:
            description["name"] = Path(config.path).name  # but not the path to it
        if self.stored is not None:
            content, description = self.stored.info.content_sha256, self.stored.info.source
        if self.sigma is not None:
            fingerprint = files[store.IMAGES_FILE].sha256[:16]
            made = store.ObservedInfo(sigma=self.sigma, elsewhere=self.arrived_noisy, fingerprint=fingerprint)
        corrupt: dict[str, Any] = {"count": len(self.corrupt)}
        passed: dict[str, Any] = {"count": len(source.passed)}
        if made is None:
            corrupt["first"] = [{"name": source.names[r], "reason": why} for r, why in self.corrupt[:FIRST_NAMED]]
            named = [{"name": printable(name), "kind": kind} for name, kind in source.passed.items()]
            passed |= {"kinds": Counter(source.passed.values()), "first": named[:FIRST_NAMED]}
        info = store.StoreInfo(
            version=__version__,
            kind="clean" if made is None else "observed",
            count=len(rows),
            shape=source.shape,
            encoding=source.encoding if made is None else "signed",
            classes=source.classes,
            split=store.SplitInfo(seed=config.split_seed, train_size=len(train_index), heldout_size=len(heldout_index)),
            content_sha256=content,
            fingerprint=fingerprint_of(content, source.shape, train_index, heldout_index),
            observed=made,
            source=description if made is None else {"source": description["source"]},
            corrupt=corrupt,
            passed=passed,
            duplicates=self.duplicates,
            files=files,
        )
        (self.folder / store.INFO_FILE).write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return info


def summary(out: Path, info: store.StoreInfo, origin: Path | None = None, base: Path | None = None) -> list[str]:
    """What the store at `out` holds and how to train with it, for people.

    origin: the store that it was made from; base: that of latents.
    """
    channels, side, _ = info.shape
    split, copies, made = info.split, info.duplicates, info.observed
    size = sum(file.bytes for file in info.files.values()) / 2**20
    keys: dict[str, object] = dict(store.store_keys(out, info))
    what = f"{split.train_size:,} training images and {split.heldout_size:,} held-out images"
    notes = pixel_lines(store.open_store(out).pixels, ModelConfig().sigma_data, noisy=made is not None)
    if made is not None:
        lowest = " and above" if made.elsewhere and "sigma.npy" in info.files else ""
        what = f"noisy observations at sigma {made.sigma:g}{lowest} of {split.train_size:,} training images, no clean image"
        # the sizes too, since the clean store may hold more
        keys |= {"data.train_size": split.train_size, "data.heldout_size": split.heldout_size}
        keys |= {"observed.base_sigma": made.sigma, "evaluation.path": origin or "..."}
    if info.latent is not None:
        what = f"latents, of {counted(len(info.classes), 'caption')}: {what}"
        keys |= {"model.kind": "lora", "model.base": base or "...", "model.conditional": "true"}
        keys |= {"evaluation.path": origin or "..."}
    if info.corrupt["count"]:
        first = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in info.corrupt.get("first", [])[:3])
        notes.append(f"skipped {info.corrupt['count']:,} images that cannot be read{': ' + first if first else ''}")
    notes.append(
        f"duplicates {'dropped' if copies['dropped'] else 'found'}: {copies['train_exact']:,} exact and "
        f"{copies['train_near']:,} near copies in the training set, {copies['heldout_exact']:,} exact and "
        f"{copies['heldout_near']:,} near copies of it among the held-out images"
        f"{f' ({store.DUPLICATES_FILE})' if store.DUPLICATES_FILE in info.files else ''}"
    )
    held = copies["heldout_exact"] + copies["heldout_near"]
    if held and not copies["dropped"]:
        notes.append(
            f"warning: {held:,} held-out images are copies of training images and hide copies that a model makes; "
            "--drop-duplicates removes them"
        )
    if copies.get("related"):
        notes.append(f"warning: {copies['related']}")
    if made is not None and info.latent is None and copies["dropped"]:
        how = f"prepared with the same data.* keys and --drop-duplicates --near {copies['near']}"
        notes.append(f"evaluation.path: a clean store with the same split, {how}")
    words = [f"{key}={value}" for key, value in keys.items()]
    fingerprint = f"fingerprint {info.fingerprint}"
    return [
        f"{out}: {what}, {channels}x{side}x{side}, {size:,.1f} MiB",
        fingerprint,
        *notes,
        f"train with {shlex.join(words)}",
    ]
