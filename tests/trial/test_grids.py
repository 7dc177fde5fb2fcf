import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ambient_sweep.trial.grids import image_grid


def drawn(samples: torch.Tensor, neighbours: torch.Tensor) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(image_grid(samples, neighbours))))


def test_each_sample_stands_over_its_neighbour() -> None:
    rng = np.random.default_rng(0)
    samples, neighbours = rng.integers(0, 256, (2, 20, 1, 8, 8))
    grid = drawn(torch.tensor(samples / 127.5 - 1), torch.tensor(neighbours / 127.5 - 1))
    tile, gap = 40, 10  # 8x8 is enlarged five times
    for i in range(20):
        top, left = gap + i // 16 * (2 * tile + gap), gap + i % 16 * (tile + gap)
        for images, offset in ((samples, 0), (neighbours, tile)):
            cell = grid[top + offset : top + offset + tile, left : left + tile]
            assert np.array_equal(cell, np.kron(images[i, 0], np.ones((5, 5), int))[..., None].repeat(3, axis=2))
    outside = grid.copy()
    outside[gap : gap + 2 * tile, gap : gap + 16 * (tile + gap) - gap] = 255
    assert (grid[:gap] == 255).all()
    assert (outside[: gap + 2 * tile] == 255).all()


def test_colours_are_clipped_and_large_images_keep_their_size() -> None:
    samples = np.full((1, 3, 64, 64), 7.0)
    neighbours = np.stack([np.full((64, 64), value) for value in (-9.0, 0.0, 1.0)])[None]
    grid = drawn(torch.tensor(samples), torch.tensor(neighbours))
    assert grid.shape == (64 * 2 + 8, 64 + 8, 3)
    assert grid.dtype == np.uint8
    assert (grid[4:68, 4:68] == 255).all()
    assert (grid[68:132, 4:68] == [0, 128, 255]).all()
