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
MOST_VALUES = 2**28  # measured of a set, in images evenly spaced over it
BLOCK = 64  # images measured at once
LEAST_USED, SIGMA_FACTOR = 0.25, 3
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
        rows = places if self._rows is None else self._rows[places]
        return torch.from_numpy(decoded(self._array[rows], self._encoding))

    def blocks(self, size: int) -> Iterator[torch.Tensor]:
        """All images in order, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def subset(self, places: NDArray[np.int64]) -> "Pixels":
        """The images at `places` as a set of their own."""
        return Pixels(self._array, self._encoding, places if self._rows is None else self._rows[places])


def pixel_lines(pixels: Pixels, sigma_data: float, noisy: bool) -> list[str]:
    """Range, mean and standard deviation, with warnings of images that use little of the range or spread unlike sigma_data.

    noisy: the pixels are observations, which spread more than the images. Images of more than three channels are latents.
    """
    each = int(np.prod(pixels.shape))
    chosen = pixels.subset(np.arange(0, len(pixels), max(1, len(pixels) * each // MOST_VALUES)))
    blocks = [(b.min(), b.max(), b.double().sum(), b.double().square().sum()) for b in chosen.blocks(BLOCK)]
    lows, highs, sums, squares = torch.tensor(blocks, dtype=torch.float64).T
    low, high, mean = float(lows.min()), float(highs.max()), float(sums.sum()) / (len(chosen) * each)
    std = max(0.0, float(squares.sum()) / (len(chosen) * each) - mean**2) ** 0.5
    latent = pixels.shape[0] > 3
    lines = [
        f"{'latents' if latent else 'pixels on [-1, 1]'}{', with their noise' if noisy else ''}: from {low:.3g} to "
        f"{high:.3g}, mean {mean:.3g}, standard deviation {std:.3g}"
    ]
    if latent:
        if std < 1 / SIGMA_FACTOR or (not noisy and std > SIGMA_FACTOR):
            lines.append(
                "warning: latents spread by about 1; the base's VAE has another scaling_factor, or was not trained"
            )
        return lines
    if (high - low) / 2 < LEAST_USED:
        lines.append(
            f"warning: the images use {(high - low) / 2:.1%} of the range from black to white; set data.range=[low,high] to "
            "theirs where the files are read, in their units"
        )
    if std < sigma_data / SIGMA_FACTOR or (not noisy and std > sigma_data * SIGMA_FACTOR):
        lines.append(
            f"warning: their standard deviation, {std:.3g}, is far from model.sigma_data={sigma_data:g}; scale them by "
            "data.range=[low,high], or set model.sigma_data"
        )
    return lines
