"""Sets of 8-bit images to measure, read as they are: one size, one number of channels, nothing changed in silence."""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.pixels import Pixels, digests, to_uint8
from ambient_sweep.data.sources import Source, open_source, source_kind
from ambient_sweep.data.sources.arrays import IMAGES, Arrays
from ambient_sweep.data.sources.decode import CorruptImage, Header, read_header
from ambient_sweep.data.store import open_store
from ambient_sweep.errors import UserError

BLOCK = 1024  # images decoded at once
CORRUPT_NAMED = 100  # images of a set that a message names
PARTS = ("--train", "--heldout")
_PART = re.compile(r"(?:^|/)(train|test|val|held-?out)(?:ing|id|idation)?[-_./#]", re.I)  # in the name of an image


@dataclass(frozen=True)
class ImageSet:
    """Images in the order of their names, rounded to 8 bits when they are read, with hashes that tell them apart."""

    where: str  # what messages call it, as in "--train photos"
    names: Sequence[str]
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
        return ImageSet.of(self.where, self.pixels.subset(index), [self.names[row] for row in index.tolist()])

    @classmethod
    def of(cls, where: str, images: Pixels | NDArray[np.uint8], names: Sequence[str] | None = None) -> "ImageSet":
        """A set of images, as an array uint8 [N, C, H, W]; their names are "image 0", "image 1", ... unless given."""
        pixels = images if isinstance(images, Pixels) else Pixels(images, "uint8")
        names = [f"image {i}" for i in range(len(pixels))] if names is None else names
        blocks = (to_uint8(block).numpy() for block in pixels.blocks(BLOCK))
        hashes = [each for block in blocks for each in digests(block)]
        form = repr((len(pixels), *pixels.shape)).encode()
        return cls(where, names, pixels, hashes, hashlib.sha256(b"".join([form, *hashes])).hexdigest()[:16])


def read_sets(
    places: Sequence[tuple[str, Path]], data: DataConfig, *, size: int | None = None, channels: int | None = None
) -> list[ImageSet]:
    """The images in places, each given by an option: whatever training reads, as `data` says.

    Of a store, --train and --heldout take the images of its split, in their order. Where both give one other place, they
    share it by the parts (train, test, ...) that names of folders and files tell. size: side to which the central square of
    every image is resized, by area; None: they must be square and of one size. channels: 1 or 3, to which images are
    converted, transparent parts laid on white; None: they must be all grey or all colour. Images deeper than 8 bits are
    rounded. Raises UserError, which begins with the option; for all images that cannot be read at once.
    """
    real = [path for option, path in places if option in PARTS]
    opened = [_opened(option, path, data, size, channels, real.count(path) > 1) for option, path in places]
    sets, problems = list[ImageSet](), list[str]()
    for where, source in opened:
        pixels, corrupt = source.read()
        if corrupt:
            named = "; ".join(f"{source.names[row]}: {reason}" for row, reason in corrupt[:CORRUPT_NAMED])
            more = f"; and {len(corrupt) - CORRUPT_NAMED} more" if len(corrupt) > CORRUPT_NAMED else ""
            problems.append(f"{where}: {len(corrupt)} of {len(source)} images cannot be read ({named}{more})")
        pixels = pixels if source.depth8 else np.rint(pixels * 255).astype(np.uint8)
        sets.append(dataclasses.replace(ImageSet.of(where, pixels, source.names), notes=source.lines()))
    if problems:
        raise UserError(f"{'; '.join(problems)}; remove or replace them")
    return sets


def unseen(images: ImageSet, seen: ImageSet) -> NDArray[np.int64]:
    """Places of the images whose pixels no image of `seen` has."""
    return np.flatnonzero(~np.isin(images.digests, seen.digests))


def check_alike(one: ImageSet, other: ImageSet) -> None:
    """Raises UserError where the sets differ in size or channels."""
    if other.shape != one.shape:
        raise UserError(
            f"{other.where}: images are {_form(other.shape)}, those of {one.where} {_form(one.shape)}; give --size and "
            "--channels to make all alike"
        )


# -- reading --------------------------------------------------------------------------------------------------------


def _opened(
    option: str, path: Path, data: DataConfig, size: int | None, channels: int | None, shared: bool
) -> tuple[str, Source]:
    """What messages call a set, and its source."""
    where, place = f"{option} {path}", path.expanduser()
    try:
        kind = source_kind(place)
        keys = {
            "source": kind, "path": str(place), "image_size": size or 8, "channels": channels or 3, "label_column": None,
        }  # fmt: skip
        if kind == "array" and data.image_column not in Arrays(place).arrays:  # it is a column of another set
            keys["image_column"] = IMAGES
        source = _of_store(place, option) if kind == "store" else open_source(data.model_copy(update=keys))
    except UserError as error:
        raise UserError(f"{option} {str(error).removeprefix('data.path: ')}") from None
    parts = [_PART.search(name) for name in source.names]
    if shared and kind != "store" and option in PARTS and all(parts):
        mine = [part is not None and (part[1].lower() == "train") == (option == "--train") for part in parts]
        names, load = list(compress(source.names, mine)), source.loaders
        source = dataclasses.replace(source, names=names, loaders=lambda: compress(load(), mine))
    if size is None or channels is None:
        return where, _as_it_is(where, source, size, channels)
    return where, dataclasses.replace(source, size=size, channels=channels)


def _of_store(path: Path, option: str) -> Source:
    store = open_store(path)
    if store.info.observed is not None:
        raise UserError(f"{path}: holds only noisy observations; give the store of clean images that it was made from")
    parts = {"--train": store.train_index, "--heldout": store.heldout_index}
    rows, images = store.rows(parts.get(option, store.index)), store.images.transpose(0, 2, 3, 1)
    names, (channels, side, _) = [store.names[row] for row in rows.tolist()], store.info.shape
    depth8 = store.info.encoding == "uint8"
    return Source(names, lambda: (partial(np.array, images[row]) for row in rows), side, channels, depth8)


def _as_it_is(where: str, source: Source, size: int | None, channels: int | None) -> Source:
    """The source with what is None as all its images have it. Raises UserError where they differ."""
    headers = dict(_headers(source))
    sides = {f"{header.width}x{header.height}": name for name, header in reversed(headers.items())}
    kinds = {header.kind: name for name, header in reversed(headers.items())}
    if size is None:
        if len(sides) > 1:
            raise UserError(f"{where}: images of several sizes, {_examples(sides)}; give --size to resize all by area")
        size = max((_side(where, header.width, header.height) for header in headers.values()), default=1)
    if channels is None:
        if len(kinds) > 1 or "transparent" in kinds:
            found = _examples(kinds)
            raise UserError(f"{where}: images that are {found}; give --channels 1 or 3 to make them alike, on white")
        channels = 1 if "grey" in kinds else 3
    depth8 = source.depth8 and not any(header.deep for header in headers.values())
    return dataclasses.replace(source, size=size, channels=channels, depth8=depth8)


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


def _side(where: str, width: int, height: int) -> int:
    if width != height:
        raise UserError(f"{where}: images of {width}x{height} are not square; give --size to take the central square")
    return width


def _form(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]}x{shape[1]} {'grey' if shape[0] == 1 else 'RGB'}"
