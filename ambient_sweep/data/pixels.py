"""Pixels: how numbers stand for them, and arrays of them in memory or in a memory-mapped file."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

# How numbers stand for pixels: uint8 in 0..255, float32 in [0, 1], or float32 in [-1, 1] and, with noise, beyond
Encoding = Literal["uint8", "unit", "signed"]
Array = NDArray[Any]  # uint8 or float32
Index = slice | Sequence[int] | NDArray[np.int64] | NDArray[np.bool_] | torch.Tensor


def decoded(array: Array, encoding: Encoding) -> NDArray[np.float32]:
    """Stored numbers as float32 pixels in [-1, 1], a new array: v / 127.5 - 1, or 2 v - 1, or v as it is."""
    values = array.astype(np.float32)
    if encoding == "uint8":
        values /= np.float32(127.5)
        values -= np.float32(1)
    elif encoding == "unit":
        values *= np.float32(2)
        values -= np.float32(1)
    return values


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images float [N, C, H, W] in [-1, 1], clipped and rounded to 8 bits, as files would hold them."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def digests(images: Array) -> list[bytes]:
    """A hash of 16 bytes of the numbers of each image [n, C, H, W]."""
    return [hashlib.blake2b(image.data, digest_size=16).digest() for image in np.ascontiguousarray(images)]


class Pixels:
    """The images `array[rows]`, in some encoding, as float32 NCHW in [-1, 1]; safe to read in threads."""

    def __init__(self, array: Array, encoding: Encoding, rows: NDArray[np.int64] | None = None) -> None:
        self._array = np.asarray(array)  # of a memory map a plain view, which is indexed faster
        self._encoding: Encoding = encoding
        self._rows = rows

    def __len__(self) -> int:
        return len(self._array) if self._rows is None else len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self._array.shape[1:]
        return channels, height, width

    def __getitem__(self, index: Index) -> torch.Tensor:
        """The images at `index`, as a tensor would take it, float32 [n, C, H, W] in [-1, 1]."""
        places = index.numpy() if isinstance(index, torch.Tensor) else index
        return torch.from_numpy(
            decoded(self._array[places if self._rows is None else self._rows[places]], self._encoding)
        )

    def blocks(self, size: int) -> Iterator[torch.Tensor]:
        """All images in order, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def subset(self, places: NDArray[np.int64]) -> "Pixels":
        """The images at `places` as a set of their own."""
        return Pixels(self._array, self._encoding, places if self._rows is None else self._rows[places])
