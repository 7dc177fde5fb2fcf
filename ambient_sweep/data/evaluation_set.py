"""Sets of 8-bit images to measure, read as they are: one size, one number of channels, nothing changed in silence."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep.data.pixels import Pixels, digests, to_uint8
from ambient_sweep.data.sources import Source
from ambient_sweep.data.sources.arrays import Arrays, array_source, row_names
from ambient_sweep.data.sources.decode import read_header
from ambient_sweep.data.sources.files import Folder, loaders
from ambient_sweep.data.sources.source import refuse_corrupt
from ambient_sweep.errors import UserError

BLOCK = 1024  # images decoded at once


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


def read_set(option: str, path: Path, *, size: int | None = None, channels: int | None = None) -> ImageSet:
    """The images below the folder `path`, or of a .npy or .npz file.

    size: side to which the central square of every image is resized, by area; None: they must be square and of one
    size. channels: 1 or 3, to which images are converted, transparent parts laid on white; None: they must be all grey
    or all colour. Images deeper than 8 bits are rounded. Raises UserError, one line that begins with `option`, for
    anything else.
    """
    where = f"{option} {path}"
    path = path.expanduser()
    if path.is_dir():
        source = _folder_source(where, path, size, channels)
    elif path.suffix in (".npy", ".npz") and path.is_file():
        source = _array_source(where, path, size, channels)
    else:
        raise UserError(f"{where}: {'give a folder, or .npy or .npz' if path.exists() else 'no such folder'}")
    pixels, corrupt = source.read()
    refuse_corrupt(where, source.names, corrupt)
    if not source.depth8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return replace(ImageSet.of(where, pixels, source.names), notes=source.lines())


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


def _folder_source(where: str, root: Path, size: int | None, channels: int | None) -> Source:
    folder = Folder(root, where)
    read = ((name, read_header(partial(folder.open, name))) for name in folder.images)
    headers = {name: header for name, header in read if header is not None}
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
    depth8 = not any(header.deep for header in headers.values())
    return Source(folder.images, partial(loaders, folder), size, channels, depth8, passed=folder.passed)


def _examples(first: Mapping[Any, str]) -> str:
    """Every kind with the first image of it, in words."""
    return " and ".join(f"{kind} ({name})" for kind, name in sorted(first.items(), key=lambda item: item[1]))


def _side(where: str, width: int, height: int) -> int:
    if width != height:
        raise UserError(f"{where}: images of {width}x{height} are not square; give --size to take the central square")
    return width


def _array_source(where: str, path: Path, size: int | None, channels: int | None) -> Source:
    images = Arrays(path).images()
    _, height, width, bands = images.shape
    size = _side(where, width, height) if size is None else size
    return array_source(images, row_names(path, images), size, channels or bands, where)


def _form(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]}x{shape[1]} {'grey' if shape[0] == 1 else 'RGB'}"
