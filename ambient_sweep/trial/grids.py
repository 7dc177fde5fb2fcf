"""Pictures of samples, below each the training image nearest to it."""

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.storage import write_atomic

COLUMNS = 16  # pairs side by side
TILE = 40  # pixels that a tile has at least; smaller images are enlarged by a whole factor
BACKGROUND = 255


def image_grid(samples: torch.Tensor, neighbours: torch.Tensor, path: Path) -> NDArray[np.uint8]:
    """Writes rows of samples, directly below each its neighbour, as a PNG file; returns its pixels, [height, width, 3].

    samples and neighbours [N, C, H, W] in [-1, 1], C = 1 or 3. Raises OSError where the file cannot be written.
    """
    pairs = to_uint8(torch.cat([samples, neighbours], dim=2).double()).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    factor = max(1, -(-TILE // max(samples.shape[2:])))
    pairs = pairs.repeat(factor, axis=1).repeat(factor, axis=2)
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
