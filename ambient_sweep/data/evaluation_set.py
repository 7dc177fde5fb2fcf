"""Sets of 8-bit images to measure, read as they are: one size, one number of channels, nothing changed in silence."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.dataset import load_data, stored_source
from ambient_sweep.data.pixels import Pixels, digests, to_uint8
from ambient_sweep.data.sources import Source, open_source, source_kind
from ambient_sweep.data.sources.arrays import IMAGES, Arrays
from ambient_sweep.data.sources.decode import CorruptImage, Header, read_header
from ambient_sweep.data.sources.source import corrupt_line
from ambient_sweep.data.split import split_index
from ambient_sweep.data.store import read_info
from ambient_sweep.errors import UserError

BLOCK = 1024  # images decoded at once
CORRUPT_NAMED = 100  # images of a set that a message names
PARTS = ("--train", "--heldout")


@dataclass(frozen=True)
class ImageSet:
    """Images in the order of their names, rounded to 8 bits when they are read, with hashes that tell them apart."""

    where: str  # what messages call it, as in "--train photos"
    pixels: Pixels
    digests: Sequence[bytes]  # per image, equal where all pixels are
    fingerprint: str  # a hash, 16 hex digits, of all pixels in their order
    notes: tuple[str, ...] = ()  # what users should know of the reading, a line each

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.pixels.shape

    def blocks(self, size: int = BLOCK) -> Iterator[torch.Tensor]:
        """All images in order, uint8 tensors of at most `size` images."""
        return map(to_uint8, self.pixels.blocks(size))

    def rows(self, index: NDArray[np.int64]) -> torch.Tensor:
        """The images at `index`, uint8 [n, C, H, W]."""
        return to_uint8(self.pixels[index])

    def subset(self, index: NDArray[np.int64]) -> "ImageSet":
        """The images at `index` as a set of their own."""
        return ImageSet.of(self.where, self.pixels.subset(index))

    @classmethod
    def of(cls, where: str, images: Pixels | NDArray[np.uint8]) -> "ImageSet":
        """A set of images, as an array uint8 [N, C, H, W]."""
        pixels = images if isinstance(images, Pixels) else Pixels(images, "uint8")
        blocks = (to_uint8(block).numpy() for block in pixels.blocks(BLOCK))
        hashes = [each for block in blocks for each in digests(block)]
        form = repr((len(pixels), *pixels.shape)).encode()
        return cls(where, pixels, hashes, hashlib.sha256(b"".join([form, *hashes])).hexdigest()[:16])


def read_sets(
    places: Sequence[tuple[str, Path]], data: DataConfig, *, size: int | None = None, channels: int | None = None
) -> list[ImageSet]:
    """The images in places, each given by an option.

    --train and --heldout are read as training reads them, by the range and the split in `data`: where both give one place,
    they share it. size: side to which the central square of every image is resized, by area; None: they must be square and
    of one size. channels: 1 or 3, to which images are converted, transparent parts laid on white; None: they must be all
    grey or all colour. Images deeper than 8 bits are rounded. Raises UserError, which begins with the option; for all
    images that cannot be read at once, unless data.on_corrupt=skip, by which a split would be another than training's.
    """
    real = {path for option, path in places if option in PARTS}
    splits = [key for key in data.model_fields_set if key.startswith(("split", "group_", "train_", "heldout_"))]
    if splits and len(real) > 1:
        raise UserError(f"data.{splits[0]}: splits one place; give it as --train and as --heldout")
    shared = len([option for option, _ in places if option in PARTS]) > len(real)
    sets, problems = list[ImageSet](), list[str]()
    for option, path in places:
        where = f"{option} {path}"
        try:
            source = _opened(option, path.expanduser(), data, size or 8, channels or 3, shared and option in PARTS)
        except UserError as error:
            raise UserError(f"{option} {str(error).removeprefix('data.path: ')}") from None
        source = _as_it_is(where, source, size, channels)
        pixels, corrupt = source.read()
        notes = source.lines(read=True)
        if corrupt and data.on_corrupt == "skip" and not (shared and option in PARTS):
            pixels = np.delete(pixels, [row for row, _ in corrupt], axis=0)
            notes += (f"skipped: {corrupt_line(source.names, corrupt)}",)
        elif corrupt:
            problems.append(f"{where}: {corrupt_line(source.names, corrupt, CORRUPT_NAMED)}")
        pixels = pixels if source.depth8 else np.rint(pixels * 255).astype(np.uint8)
        sets.append(dataclasses.replace(ImageSet.of(where, pixels), notes=notes))
    if problems:
        skip = "give the store that `prepare` makes with" if shared else "set"
        raise UserError(f"{'; '.join(problems)}; remove or replace them, or {skip} data.on_corrupt=skip")
    return sets


def unseen(images: ImageSet, seen: ImageSet) -> NDArray[np.int64]:
    """Places of the images whose pixels no image of `seen` has."""
    return np.flatnonzero(~np.isin(images.digests, seen.digests))


def check_alike(one: ImageSet, other: ImageSet) -> None:
    """Raises UserError where the sets differ in size or channels."""
    if other.shape != one.shape:
        forms = f"images are {_form(other.shape)}, those of {one.where} {_form(one.shape)}"
        raise UserError(f"{other.where}: {forms}; give --size and --channels to make all alike")


def _opened(option: str, path: Path, data: DataConfig, size: int, channels: int, shared: bool) -> Source:
    """The source at a place; of one that is shared, the part of the option."""
    real = option in PARTS
    kind = data.source if real and "source" in data.model_fields_set else source_kind(path)
    keys: dict[str, Any] = {"source": kind, "path": str(path)}
    data = data if real else DataConfig(image_column=data.image_column)
    if kind != "store":
        if kind == "array" and path.is_file() and data.image_column not in Arrays(path).names:
            keys["image_column"] = IMAGES  # the one given is that of another set
        config = data.model_copy(update=keys | {"label_column": None, "image_size": size, "channels": channels})
        source = open_source(config)
        split = split_index(config, source) if shared else None
    else:
        info = read_info(path)
        keys |= {"image_size": info.shape[1], "channels": info.shape[0], "split_seed": info.split.seed}
        source, split = stored_source(load_data(data.model_copy(update=keys)))
    if not real or split is None:
        return source
    return source.only(np.isin(np.arange(len(source)), split[PARTS.index(option)]))


def _as_it_is(where: str, source: Source, size: int | None, channels: int | None) -> Source:
    """The source at this size and with these channels; None: as all its images are. Raises UserError where they differ."""
    headers = {} if size and channels else dict(_headers(source))
    sides = {f"{header.width}x{header.height}": name for name, header in reversed(headers.items())}
    kinds = {header.kind: name for name, header in reversed(headers.items())}
    width, height = next(((header.width, header.height) for header in headers.values()), (1, 1))
    if size is None and (len(sides) > 1 or width != height):
        raise UserError(f"{where}: images of {_examples(sides)}; give --size to take central squares, resized by area")
    if channels is None and (len(kinds) > 1 or "transparent" in kinds):
        raise UserError(
            f"{where}: images that are {_examples(kinds)}; give --channels 1 or 3, which lays them on white"
        )
    depth8 = source.depth8 and not any(header.deep for header in headers.values())
    channels = channels or (1 if "grey" in kinds else 3)
    return dataclasses.replace(source, size=size or width, channels=channels, depth8=depth8)


def _headers(source: Source) -> Iterator[tuple[str, Header]]:
    """Name and header of every image that can be read; of arrays, which are all alike, of the first."""
    for name, loader in zip(source.names, source.loaders(), strict=True):
        with contextlib.suppress(CorruptImage):
            content = loader()
            if not isinstance(content, bytes):
                height, width, bands = content.shape
                yield name, Header(width, height, "grey" if bands == 1 else "colour", False)
                return
            header = read_header(partial(BytesIO, content))
            if header is not None:
                yield name, header


def _examples(first: Mapping[Any, str]) -> str:
    """Every kind with the first image of it, in words."""
    return " and ".join(f"{kind} ({name})" for kind, name in sorted(first.items(), key=lambda item: item[1]))


def _form(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]}x{shape[1]} {'grey' if shape[0] == 1 else 'RGB'}"
