"""What every source of images offers, and the reading of blocks of images by a few threads."""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.data.sources.decode import CorruptImage, Pixels
from ambient_sweep.errors import UserError

THREADS = min(8, os.cpu_count() or 1)  # Pillow and zlib give the interpreter away while they decode
_RUN = 32  # images that a thread takes at a time, at most


@dataclass(frozen=True)
class Block:
    """Consecutive images of a source, from row `start` on: uint8 in 0..255 or float32 in [0, 1], [n, H, W, C]."""

    start: int
    images: Pixels
    corrupt: list[tuple[int, str]]  # (row in the source, reason), in order; the rows' images are zeros


class Source(Protocol):
    """Images in an order that does not depend on the machine."""

    @property
    def names(self) -> Sequence[str]:
        """One per image."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """[N], class numbers; None where there are none."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; () without labels."""

    @property
    def sigma(self) -> NDArray[np.float32] | None:
        """[N], an image's own noise level, NaN for an image without one; None where `data.sigma_column` is not set."""

    @property
    def depth8(self) -> bool:
        """True: images are uint8 in 0..255. False: float32 in [0, 1]."""

    def __len__(self) -> int: ...

    def blocks(self, size: int) -> Iterator[Block]:
        """All images in order, `size` at a time; memory for little more than one block."""


class ShardNames(Sequence[str]):
    """ "file#row" for every row of every file, made on demand."""

    def __init__(self, files: Sequence[str], counts: Sequence[int]) -> None:
        self._files = list(files)
        self._ends = np.cumsum(counts, dtype=np.int64).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        place = range(len(self))[row]
        file = bisect_right(self._ends, place)
        return f"{self._files[file]}#{place - (self._ends[file - 1] if file else 0)}"


@dataclass(frozen=True)
class Form:
    """How the images of a source come out: [size, size, channels], of one type."""

    size: int
    channels: int
    depth8: bool

    def zeros(self, count: int) -> Pixels:
        shape = (count, self.size, self.size, self.channels)
        return np.zeros(shape, np.uint8) if self.depth8 else np.zeros(shape, np.float32)

    def fill(self, row: Pixels, image: Pixels) -> None:
        """Writes a decoded image. Raises CorruptImage for a deep image in a source of 8-bit images."""
        if self.depth8 and image.dtype != np.uint8:
            raise CorruptImage("is deeper than 8 bits, unlike the images that the source was judged by; convert it")
        row[:] = image.astype(np.float32) / 255 if image.dtype == np.uint8 and not self.depth8 else image


def read_block(pool: ThreadPoolExecutor, form: Form, rows: range, read: Callable[[int], Pixels]) -> Block:
    """The block of `rows`; the pool's threads call read(row), which raises CorruptImage for an image that cannot be had."""
    images = form.zeros(len(rows))
    length = min(_RUN, -(-len(rows) // (4 * THREADS)))

    def run(first: int) -> list[tuple[int, str]]:
        corrupt = []
        for row in rows[first : first + length]:
            try:
                form.fill(images[row - rows.start], read(row))
            except CorruptImage as error:
                corrupt.append((row, str(error)))
        return corrupt

    corrupt = [entry for part in pool.map(run, range(0, len(rows), length)) for entry in part]
    return Block(rows.start, images, corrupt)


def read_blocks(form: Form, count: int, size: int, read: Callable[[int], Pixels]) -> Iterator[Block]:
    """The blocks of a source that reads any of its `count` images by number."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, count, size):
            yield read_block(pool, form, range(start, min(start + size, count)), read)


def source_path(config: DataConfig) -> Path:
    """`data.path`. Raises UserError where it is missing from the config or from the disk."""
    if config.path is None:
        raise UserError(f"data.path: missing; data.source={config.source} needs the place of the images")
    path = Path(config.path).expanduser()
    try:
        path.stat()
    except OSError as error:
        raise UserError(f"data.path: {config.path} cannot be opened ({error.strerror})") from None
    except ValueError:
        raise UserError(f"data.path: {config.path!r} is no path") from None
    return path
