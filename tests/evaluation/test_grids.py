import io

import numpy as np
import torch
from PIL import Image

from ambient_sweep.evaluation.grids import image_grid


def test_small_images_are_enlarged_and_stand_row_by_row() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8))
    grid = np.array(Image.open(io.BytesIO(image_grid(torch.tensor(images / 127.5 - 1), 16))))
    tile, gap = 48, 4  # 8x8 is enlarged six times
    assert grid.shape == (2 * (tile + gap) + gap, 16 * (tile + gap) + gap, 3)
    for i in range(20):
        top, left = gap + i // 16 * (tile + gap), gap + i % 16 * (tile + gap)
        cell = grid[top : top + tile, left : left + tile]
        assert np.array_equal(cell, np.kron(images[i, 0], np.ones((6, 6), int))[..., None].repeat(3, axis=2))
        cell[:] = 255
    assert (grid == 255).all(), "the rest is white"


def test_colours_are_clipped_and_large_images_keep_their_size() -> None:
    colours = torch.tensor([[7.0, 7.0, 7.0], [-9.0, 0.0, 1.0]])[:, :, None, None]
    grid = np.array(Image.open(io.BytesIO(image_grid(colours.expand(-1, -1, 64, 64), 1))))
    assert grid.shape == (64 * 2 + 12, 64 + 8, 3)
    assert (grid[4:68, 4:68] == 255).all()
    assert (grid[72:136, 4:68] == [0, 128, 255]).all()
