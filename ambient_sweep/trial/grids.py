"""Pictures of samples, below each the training image nearest to it."""

import io

import numpy as np
import torch
from PIL import Image

from ambient_sweep.data.pixels import to_uint8

COLUMNS = 16  # pairs side by side
TILE = 40  # pixels that a tile has at least; smaller images are enlarged by a whole factor


def image_grid(samples: torch.Tensor, neighbours: torch.Tensor) -> bytes:
    """A PNG file with rows of samples, directly below each its neighbour; both [N, C, H, W] in [-1, 1], C = 1 or 3."""
    pairs = to_uint8(torch.cat([samples, neighbours], dim=2).double()).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    factor = max(1, -(-TILE // max(samples.shape[2:])))
    pairs = pairs.repeat(factor, axis=1).repeat(factor, axis=2)
    gap = 2 * factor if factor > 1 else 4
    n, height, width, _ = pairs.shape
    columns = min(n, COLUMNS)
    rows = -(-n // columns)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=np.uint8)  # white
    for i, pair in enumerate(pairs):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        grid[top : top + height, left : left + width] = pair
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, format="PNG")
    return buffer.getvalue()
