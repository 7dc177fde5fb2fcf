"""The worst cases of an attack as one picture: the best restored training images, beside the best restored held-out ones."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.evaluation.attack.extraction import Result

TILE = 48  # pixels that an image has at least; smaller ones are enlarged by a whole factor


def worst_cases(result: Result) -> bytes:
    """A PNG file: rows of originals, damaged and restored training images, a gap, and the same of held-out images."""
    upper, lower = (_rows(each) for each in (result.train, result.heldout))
    width = max(upper.shape[1], lower.shape[1])
    gap = np.full((12, width, 3), 255, dtype=np.uint8)
    padded = [
        np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0)), constant_values=255) for each in (upper, lower)
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([padded[0], gap, padded[1]])).save(buffer, format="PNG")
    return buffer.getvalue()


def _rows(images: tuple[Tensor, Tensor, Tensor]) -> NDArray[np.uint8]:
    return np.concatenate([np.concatenate(list(_tiles(each)), axis=1) for each in images])


def _tiles(images: Tensor) -> NDArray[np.uint8]:
    """[N, H, W, 3], enlarged, with a white rim."""
    pixels = to_uint8(images).expand(-1, 3, -1, -1)
    factor = max(1, -(-TILE // max(pixels.shape[-2:])))
    large = pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3).permute(0, 2, 3, 1).numpy()
    return np.pad(large, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)
