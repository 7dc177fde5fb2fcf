"""A source of images: what it knows of each, and how a few threads decode them block by block."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.decode import CorruptImage, PixelArray, decode, fit, native_pixels, pointer
from ambient_sweep.data.sources.file_kinds import passed_line, printable
from ambient_sweep.data.sources.window import Window
from ambient_sweep.errors import UserError

THREADS = min(8, os.cpu_count() or 1)  # Pillow and zlib release the interpreter's lock while they decode
BLOCK_BYTES = 2**24  # of decoded images, read at once
_RUN = 32  # images that a thread takes at a time, at most

# Reads one image: the bytes of its file, or its pixels [H, W, C], uint8 or float32 in [0, 1], with a window as the file
# has them; raises CorruptImage
Loader = Callable[[], bytes | NDArray[Any]]
Columns = Mapping[str, Callable[[], NDArray[Any]]]  # reads a value per image, [N] or [N, 1], by the name of the column


@dataclass(frozen=True)
class Block:
    """Consecutive images of a source, from row `start` on: uint8 in 0..255 or float32 in [0, 1], [n, C, H, W]."""

    start: int
    images: NDArray[Any]
    corrupt: list[tuple[int, str]]  # (row in the source, reason), in order; the rows' images are zeros

    def good(self) -> NDArray[np.bool_]:
        """[n], False where an image is corrupt."""
        good = np.ones(len(self.images), dtype=bool)
        good[[row - self.start for row, _ in self.corrupt]] = False
        return good


@dataclass(frozen=True)
class Source:
    """Images in an order that depends on their names alone, never on the machine."""

    names: Sequence[str]
    loaders: Callable[[], Iterator[Loader]]  # begins to read anew: a loader per image, in order
    size: int  # side of an image
    channels: int
    depth8: bool  # images are uint8 in 0..255; else float32 in [0, 1]
    labels: NDArray[np.int64] | None = None  # [N] class numbers
    classes: tuple[str, ...] = ()  # their names
    sigma: NDArray[np.float32] | None = None  # [N] an image's own noise level, NaN: none
    notes: tuple[str, ...] = ()  # what users should know of the reading, a line each; "": nothing
    passed: Mapping[str, str] = field(default_factory=dict)  # kinds of the files passed over, by name
    unlabelled: str | None = None  # why labels that are there cannot be used
    window: Window | None = None  # what scales the images, instead of the range of their format
    text: Callable[[], NDArray[Any]] | None = None  # reads the captions, [N]
    groups: NDArray[np.int64] | None = None  # [N] group numbers; the split keeps groups whole
    published: NDArray[np.bool_] | None = None  # [N] the publisher's split: True trains, False is held out

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.channels, self.size, self.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the decoded pixels."""
        return np.dtype(np.uint8 if self.depth8 else np.float32)

    def lines(self) -> tuple[str, ...]:
        """What users should know of the reading, a line each."""
        return tuple(line for line in (*self.notes, passed_line(self.passed)) if line)

    def blocks(self) -> Iterator[Block]:
        """All images in order, a few thousand at a time; memory for little more than one block."""
        loaders, most = self.loaders(), max(1, min(4096, BLOCK_BYTES // int(np.prod(self.shape))))
        with ThreadPool(THREADS) as pool:
            for start in range(0, len(self), most):
                size = min(most, len(self) - start)
                images, corrupt = np.zeros((size, *self.shape), self.dtype), []
                run = min(_RUN, -(-size // (4 * THREADS)))
                for row, found in enumerate(pool.imap(self._decoded, list(islice(loaders, size)), run)):
                    if isinstance(found, CorruptImage):
                        corrupt.append((start + row, str(found)))
                    else:
                        images[row] = found.transpose(2, 0, 1)
                yield Block(start, images, corrupt)

    def read(self) -> tuple[NDArray[Any], list[tuple[int, str]]]:
        """All images, [N, C, H, W], and the corrupt ones as a block has them."""
        images, corrupt = np.empty((len(self), *self.shape), self.dtype), list[tuple[int, str]]()
        for block in self.blocks():
            images[block.start : block.start + len(block.images)] = block.images
            corrupt += block.corrupt
        return images, corrupt

    def _decoded(self, loader: Loader) -> PixelArray | CorruptImage:
        size, channels = self.size, self.channels
        try:
            content = loader()
            if self.window is not None:
                native = native_pixels(content, channels) if isinstance(content, bytes) else content
                image = self._windowed(self.window, native)
            else:
                image = decode(content, size, channels) if isinstance(content, bytes) else fit(content, size, channels)
        except CorruptImage as error:
            return error
        if self.depth8 and image.dtype != np.uint8:
            return CorruptImage("deeper than 8 bits, unlike the images that the source was judged by; convert it")
        return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 and not self.depth8 else image

    def _windowed(self, window: Window, native: NDArray[Any]) -> PixelArray:
        height, width, bands = native.shape
        if not window.clip and (min(height, width), bands) != (self.size, self.channels):
            raise CorruptImage(f"{width}x{height}x{bands}: to resize or convert noisy observations changes their noise")
        return fit(window.scaled(native), self.size, self.channels)


def refuse_corrupt(where: str, names: Sequence[str], corrupt: Sequence[tuple[int, str]], cure: str = "") -> None:
    """Raises UserError for corrupt images, where there are any: how many, and the first three by name."""
    if corrupt:
        raise UserError(f"{where}: {corrupt_line(names, corrupt)}; remove or replace them{cure}")


def corrupt_line(names: Sequence[str], corrupt: Sequence[tuple[int, str]]) -> str:
    """How many images are corrupt, and the first three by name."""
    first = "; ".join(f"{printable(names[row])}: {reason}" for row, reason in corrupt[:3])
    more = f"; and {len(corrupt) - 3} more" if len(corrupt) > 3 else ""
    return f"{len(corrupt)} of {len(names)} images cannot be read ({first}{more})"


def source_path(config: DataConfig) -> Path:
    """`data.path`. Raises UserError where it is missing from the config or from the disk."""
    if config.path is None:
        raise UserError(f"data.path: missing; data.source={config.source} needs the place of the images")
    path = Path(config.path).expanduser()
    try:
        path.stat()
        reason = pointer(path.read_bytes()) if path.is_file() and path.stat().st_size < 1024 else None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"data.path: {config.path} cannot be opened ({why})") from None
    if reason is not None:
        raise UserError(f"data.path: {config.path} is {reason}")
    return path


def read_column(columns: Columns, name: str, count: int, where: str) -> NDArray[Any]:
    """A value per image, [count]. Raises UserError, which begins with `where`, for no such column, or another shape."""
    if name not in columns:
        raise UserError(f"{where}: has no column {name}; it has {', '.join(columns) or 'none'}")
    values = columns[name]()
    if values.shape not in ((count,), (count, 1)):
        raise UserError(f"{where}: {name}: has the shape {list(values.shape)}; one value per image: [{count}]")
    return values.reshape(count)


def value_name(value: Any) -> str | None:
    """A value of a column as text, "7" of 7 and of 7.0 (a column of whole numbers with gaps); None where it is missing."""
    if value is None or value == "" or value != value:  # NaN
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def first(names: Sequence[str]) -> str:
    """The first three of these names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
