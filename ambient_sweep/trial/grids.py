"""Pictures of samples, below each the training image nearest to it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.storage import write_atomic

COLUMNS = 16  # pairs side by side
TILE = 40  # pixels that a tile has at least; smaller images are enlarged by a whole factor
BACKGROUND = 255


def image_grid(samples: Any, neighbours: Any, path: Path) -> NDArray[np.uint8]:
    """Writes rows of samples, directly below each its neighbour, as a PNG file; returns its pixels, [height, width, 3].

    samples and neighbours [N, C, H, W] in [-1, 1], arrays or CPU tensors, C = 1 or 3. Raises ValueError for other
    shapes and OSError where the file cannot be written.
    """
    upper, lower = _pixels(samples), _pixels(neighbours)
    if upper.shape != lower.shape or len(upper) == 0:
        raise ValueError(f"samples {upper.shape} and neighbours {lower.shape}: expected the same number, at least one")
    factor = max(1, -(-TILE // max(upper.shape[1:3])))
    pairs = np.concatenate([upper, lower], axis=1).repeat(factor, axis=1).repeat(factor, axis=2)
    gap = 2 * factor if factor > 1 else 4
    n, height, width, _ = pairs.shape
    columns = min(n, COLUMNS)
    rows = -(-n // columns)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), BACKGROUND, dtype=np.uint8)
    for i, pair in enumerate(pairs):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        grid[top : top + height, left : left + width] = pair
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())
    return grid


def _pixels(images: Any) -> NDArray[np.uint8]:
    """[N, C, H, W] in [-1, 1] -> uint8 [N, H, W, 3]."""
    tensor = torch.as_tensor(images, dtype=torch.float64)
    if tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
        raise ValueError(f"images {tuple(tensor.shape)}: expected [N, C, H, W] with 1 or 3 channels")
    return to_uint8(tensor).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
