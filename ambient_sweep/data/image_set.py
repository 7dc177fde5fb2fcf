"""Sets of images as they are, for measuring: one size, one number of channels, 8 bits, nothing changed in silence."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.pixels import Index
from ambient_sweep.data.pixels import Pixels as Images
from ambient_sweep.data.sources import Source, npz, open_source
from ambient_sweep.data.sources.arrays import layout_of
from ambient_sweep.data.sources.decode import CorruptImage, Frame, Pixels, decode, frame_of
from ambient_sweep.data.sources.folder import file_bytes, image_names
from ambient_sweep.data.sources.source import THREADS, Form, read_blocks
from ambient_sweep.data.sources.tree import check_names
from ambient_sweep.errors import UserError

IN_MEMORY = 2**32  # bytes of decoded images; beyond, they lie in a temporary file
BLOCK = 1024  # images decoded at once
_TOLD = 3


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 [N, C, H, W] in the order of their names, with what tells them from another set."""

    where: str  # how to speak of it, as in "--train photos"
    names: Sequence[str]
    pixels: "NDArray[np.uint8] | EightBits"
    digests: NDArray[np.void]  # [N], 16 bytes per image: equal where all pixels are
    fingerprint: str  # a hash, 16 hex digits, of all pixels in their order

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def blocks(self, size: int = BLOCK) -> Iterator[torch.Tensor]:
        """All images in order, uint8 tensors of at most `size` images."""
        for start in range(0, len(self), size):
            yield torch.from_numpy(np.array(self.pixels[start : start + size]))

    def rows(self, index: NDArray[np.int64]) -> torch.Tensor:
        """The images at `index`, uint8 [n, C, H, W]."""
        return torch.from_numpy(self.pixels[index])

    @classmethod
    def of(cls, where: str, pixels: "NDArray[np.uint8] | EightBits", names: Sequence[str] | None = None) -> "ImageSet":
        """Images uint8 [N, C, H, W] that are decoded already."""
        digests = np.empty(len(pixels), dtype=np.dtype((np.void, 16)))
        digest = hashlib.sha256(repr(pixels.shape).encode())
        for start in range(0, len(pixels), BLOCK):
            found = _digests(pixels[start : start + BLOCK])
            digests[start : start + len(found)] = [np.void(each) for each in found]
            digest.update(b"".join(found))
        names = range_names(len(pixels)) if names is None else names
        return cls(where, names, pixels, digests, digest.hexdigest()[:16])


def range_names(count: int) -> list[str]:
    """Names for images that have none."""
    return [f"image {i}" for i in range(count)]


def from_pixels(where: str, images: Images) -> ImageSet:
    """The images of a training or held-out set, rounded to 8 bits when they are read."""
    return ImageSet.of(where, EightBits(images))


class EightBits:
    """Images as an array uint8 [N, C, H, W] that is read from where they lie, part by part."""

    def __init__(self, images: Images) -> None:
        self._images = images

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._images), *self._images.shape

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: Index) -> NDArray[np.uint8]:
        return to_uint8(self._images[rows]).numpy()


def _digests(pixels: NDArray[np.uint8]) -> list[bytes]:
    return [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in pixels]


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images float [N, C, H, W] in [-1, 1], clipped and rounded to 8 bits, as files would hold them."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


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
        return _read_folder(where, path, size, channels)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return _read_array(where, path, size, channels)
    raise UserError(f"{where}: no such folder" if not path.exists() else f"{where}: give a folder, or .npy or .npz")


def overlap(first: ImageSet, second: ImageSet) -> list[tuple[int, int]]:
    """Pairs (place in `first`, place in `second`) of images with the same pixels; one per image of `second`."""
    places: dict[bytes, int] = {}
    for row, digest in enumerate(first.digests):
        places.setdefault(digest.tobytes(), row)
    found = ((places.get(digest.tobytes()), row) for row, digest in enumerate(second.digests))
    return [(mine, row) for mine, row in found if mine is not None]


def without_overlap(first: ImageSet, second: ImageSet) -> ImageSet:
    """`second` without the images whose pixels are in `first` too."""
    dropped = {row for _, row in overlap(first, second)}
    kept = [row for row in range(len(second)) if row not in dropped]
    if not kept:
        raise UserError(f"{second.where}: all {len(second)} images are in {first.where} too; give other images")
    if not dropped:
        return second
    return ImageSet.of(second.where, second.pixels[kept], [second.names[row] for row in kept])


def check_alike(*sets: ImageSet) -> None:
    """Raises UserError where two sets differ in size or channels."""
    for other in sets[1:]:
        if other.shape != sets[0].shape:
            raise UserError(
                f"{other.where}: images are {_form(other.shape)}, those of {sets[0].where} {_form(sets[0].shape)}; "
                "give --size and --channels to make all alike"
            )


# -- folders --------------------------------------------------------------------------------------------------------


def _read_folder(where: str, root: Path, size: int | None, channels: int | None) -> ImageSet:
    names = image_names(root, where)
    check_names(names, where)
    paths = [os.path.join(root, name) for name in names]
    if size is None or channels is None:
        frames = _frames(where, names, paths)
        size = _one_size(where, names, frames) if size is None else size
        channels = _one_kind(where, names, frames) if channels is None else channels

    def read(row: int) -> Pixels:
        pixels = decode(file_bytes(paths[row]), form.size, form.channels)
        return pixels if pixels.dtype == np.uint8 else _eight_bits(pixels)

    form = Form(size, channels, True)
    array = _room(len(names), (channels, size, size))
    corrupt: list[tuple[int, str]] = []
    for block in read_blocks(form, len(names), BLOCK, read):
        array[block.start : block.start + len(block.images)] = block.images.transpose(0, 3, 1, 2)
        corrupt += block.corrupt
    _refuse(where, names, corrupt)
    return ImageSet.of(where, array, names)


def _frames(where: str, names: Sequence[str], paths: Sequence[str]) -> list[Frame]:
    def look(path: str) -> Frame | str:
        try:
            return frame_of(file_bytes(path))
        except CorruptImage as error:
            return str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(look, paths, chunksize=64))
    _refuse(where, names, [(row, each) for row, each in enumerate(found) if isinstance(each, str)])
    return [each for each in found if not isinstance(each, str)]


def _one_size(where: str, names: Sequence[str], frames: Sequence[Frame]) -> int:
    first = frames[0]
    for name, frame in zip(names, frames, strict=True):
        if (frame.width, frame.height) != (first.width, first.height):
            raise UserError(
                f"{where}: images of several sizes, {first.width}x{first.height} ({names[0]}) and "
                f"{frame.width}x{frame.height} ({name}); give --size to resize all by area"
            )
    if first.width != first.height:
        raise UserError(
            f"{where}: images of {first.width}x{first.height} are not square; give --size to take the central square"
        )
    return first.width


def _one_kind(where: str, names: Sequence[str], frames: Sequence[Frame]) -> int:
    first = {frame.kind: name for name, frame in reversed(list(zip(names, frames, strict=True)))}
    if "alpha" in first:
        raise UserError(
            f"{where}: {first['alpha']} has transparent parts (RGBA); give --channels 3 to lay them on white"
        )
    if len(first) > 1:
        raise UserError(
            f"{where}: grey ({first['grey']}) and colour ({first['colour']}) images together; give --channels 3, or 1"
        )
    return 1 if "grey" in first else 3


# -- arrays ---------------------------------------------------------------------------------------------------------


def _read_array(where: str, path: Path, size: int | None, channels: int | None) -> ImageSet:
    source = _open_array(where, path, size, channels)
    form = next(source.blocks(1)).images.shape
    array = _room(len(source), (form[3], form[1], form[2]))
    corrupt: list[tuple[int, str]] = []
    for block in source.blocks(BLOCK):
        images = block.images if block.images.dtype == np.uint8 else _eight_bits(block.images)
        array[block.start : block.start + len(images)] = images.transpose(0, 3, 1, 2)
        corrupt += block.corrupt
    _refuse(where, source.names, corrupt)
    return ImageSet.of(where, array, source.names)


def _open_array(where: str, path: Path, size: int | None, channels: int | None) -> Source:
    if path.suffix == ".npz":
        headers = [h for h in npz.npz_headers(path).values() if len(h.shape) in (3, 4)]
        if len(headers) != 1:
            raise UserError(f"{where}: must hold one array of images, it holds {len(headers)}")
        header = headers[0]
    else:
        header = npz.npy_header(path)
    layout = layout_of(header.shape, header.dtype, where)
    height, width = header.shape[1:3] if layout != "NCHW" else header.shape[2:4]
    if size is None and height != width:
        raise UserError(f"{where}: images of {width}x{height} are not square; give --size to take the central square")
    bands = 1 if layout == "NHW" else header.shape[3 if layout == "NHWC" else 1]
    form = {"image_size": size or height, "channels": channels or bands}
    return open_source(DataConfig.model_validate({"source": "array", "path": str(path), **form}))


# -- all ------------------------------------------------------------------------------------------------------------


def _eight_bits(pixels: Pixels) -> NDArray[np.uint8]:
    """float32 in [0, 1] to 0..255."""
    return np.rint(pixels * 255).astype(np.uint8)


def _room(count: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """An array for `count` images: in memory, or in a temporary file that is gone with the process."""
    if count * int(np.prod(shape)) <= IN_MEMORY:
        return np.zeros((count, *shape), dtype=np.uint8)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=(count, *shape))


def _refuse(where: str, names: Sequence[str], corrupt: Sequence[tuple[int, str]]) -> None:
    if not corrupt:
        return
    told = "; ".join(f"{names[row]}: {reason}" for row, reason in corrupt[:_TOLD])
    more = f"; and {len(corrupt) - _TOLD} more" if len(corrupt) > _TOLD else ""
    raise UserError(
        f"{where}: {len(corrupt)} of {len(names)} images cannot be read ({told}{more}); remove or replace them"
    )


def _form(shape: tuple[int, int, int]) -> str:
    return f"{shape[2]}x{shape[1]} {'grey' if shape[0] == 1 else 'RGB'}"
