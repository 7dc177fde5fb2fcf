"""A source of images: what it knows of each, and how a few threads decode them block by block."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ambient_sweep.config import DataConfig
from ambient_sweep.config.files import expanded
from ambient_sweep.data.pixels import Encoding
from ambient_sweep.data.sources.decode import CorruptImage, PixelArray, Window, decode, one_line, pointer
from ambient_sweep.data.sources.table import NO_COLUMNS, Table
from ambient_sweep.errors import UserError
from ambient_sweep.terminal import advance

THREADS = min(8, os.cpu_count() or 1)  # Pillow and zlib release the interpreter's lock while they decode
BLOCK_BYTES = 2**24  # of decoded images, read at once
_RUN = 32  # images that a thread takes at a time, at most

# Reads one image: the bytes of its file, or its pixels [H, W, C], uint8 or float32 in [0, 1], with a window as the file
# has them; raises CorruptImage
Loader = Callable[[], bytes | NDArray[Any]]


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
    columns: Table = NO_COLUMNS  # all that comes with the images, captions among it
    groups: NDArray[np.int64] | None = None  # [N] group numbers; the split keeps groups whole
    published: NDArray[np.bool_] | None = None  # [N] the publisher's split: True trains, False is held out

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.channels, self.size, self.size

    @property
    def encoding(self) -> Encoding:
        """How the decoded numbers stand for pixels."""
        return "uint8" if self.depth8 else "unit"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the decoded pixels."""
        return np.dtype(np.uint8 if self.depth8 else np.float32)

    def only(self, used: NDArray[np.bool_]) -> "Source":
        """The images where `used`, [N], is true, without labels, levels and groups."""
        return replace(
            self,
            names=list(compress(self.names, used)),
            loaders=lambda: compress(self.loaders(), used),
            columns=self.columns.only(used),
            published=None if self.published is None else self.published[used],
        )

    def lines(self, read: bool = False) -> tuple[str, ...]:
        """What users should know of the reading, a line each; read: after it, which tells how much was clipped."""
        scaled = "" if self.window is None or not read else self.window.note()
        return tuple(line for line in (*self.notes, passed_line(self.passed), scaled) if line)

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
            advance("reading images", block.start + len(block.images), len(self))
        return images, corrupt

    def _decoded(self, loader: Loader) -> PixelArray | CorruptImage:
        try:
            image = decode(loader(), self.size, self.channels, self.window)
        except CorruptImage as error:
            return error
        if self.depth8 and image.dtype != np.uint8:
            return CorruptImage("deeper than 8 bits, unlike the images that the source was judged by; convert it")
        return image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 and not self.depth8 else image


def corrupt_line(names: Sequence[str], corrupt: Sequence[tuple[int, str]], named: int = 3) -> str:
    """How many images are corrupt, and the first ones by name."""
    first = "; ".join(f"{printable(names[row])}: {reason}" for row, reason in corrupt[:named])
    more = f"; and {len(corrupt) - named} more" if len(corrupt) > named else ""
    return f"{len(corrupt)} of {len(names)} images cannot be read ({first}{more})"


def printable(name: str) -> str:
    """The name as part of a line."""
    return name if name.isprintable() else repr(name)[1:-1]


def passed_line(passed: Mapping[str, str]) -> str:
    """How many files are passed over, by kind, each with its first name; passed: kinds by name. "" where there are none."""
    first = {kind: printable(name) for name, kind in reversed([*passed.items()])}
    kinds = [f"{count:,} {kind}: {first[kind]}" for kind, count in Counter(passed.values()).most_common()]
    return f"passed over {len(passed):,} files ({'; '.join(kinds[:8])}{'; ...' if kinds[8:] else ''})" if passed else ""


def source_path(config: DataConfig) -> Path:
    """`data.path`. Raises UserError where it is missing from the config or from the disk."""
    if config.path is None:
        raise UserError(f"data.path: missing; data.source={config.source} needs the place of the images")
    path = expanded("data.path", Path(config.path))
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"data.path: {config.path} cannot be opened ({one_line(error)})") from None
    refuse_pointer(path)
    return path


def refuse_pointer(path: Path) -> None:
    """Raises UserError for a file that stands for another, which is not here."""
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size < 1024 and (reason := pointer(path.read_bytes())):
            raise UserError(f"data.path: {path} is {reason}")


def first(names: Sequence[str]) -> str:
    """The first three of these names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def suggested(low: float, high: float) -> str:
    """A data.range for images that hold values from `low` to `high`; without negative ones, up to a full number of bits."""
    if low < 0:
        return f"data.range=[{low:.6g},{high:.6g}]"
    return f"data.range=[0,{2 ** max(1, int(np.ceil(high)).bit_length()) - 1}]"
