import io

import numpy as np
import torch
from PIL import Image

from ambient_sweep.evaluation.grids import PAIRS, denoising_grid, image_grid, pair_grid


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


def test_pairs_have_their_distances_below_red_where_few_heldout_images_are_as_near() -> None:
    white = torch.ones(20, 1, 8, 8)
    heldout = torch.linspace(1, 99, 99)  # Weibull's quantiles of 0.1 and 0.5 are 10 and 50
    file = Image.open(
        io.BytesIO(pair_grid(torch.cat([white] * 2, dim=2), torch.tensor([[9.9], [10.1]] * 10), heldout, 0.1))
    )
    grid, (tile, gap) = np.array(file).astype(int), (48, 4)
    down = (file.height - gap) // 2
    assert down > 2 * tile + gap
    for i in range(20):
        top, left = gap + i // 16 * down, gap + i % 16 * (tile + gap)
        assert (grid[top : top + 2 * tile, left : left + tile] == 255).all()
        cell = grid[top + 2 * tile : top + down, left : left + tile]
        assert (cell < 128).any(), "a number"
        assert ((cell[..., 0] - cell[..., 1]).max() > 128) == (i % 2 == 0)
    assert file.info["Description"].startswith(PAIRS)
    assert "10 % are nearer than 10.00 (red), half nearer than 50.00" in file.info["Description"]


def test_colours_are_clipped_and_large_images_keep_their_size() -> None:
    colours = torch.tensor([[7.0, 7.0, 7.0], [-9.0, 0.0, 1.0]])[:, :, None, None]
    grid = np.array(Image.open(io.BytesIO(image_grid(colours.expand(-1, -1, 64, 64), 1))))
    assert grid.shape == (64 * 2 + 12, 64 + 8, 3)
    assert (grid[4:68, 4:68] == 255).all()
    assert (grid[72:136, 4:68] == [0, 128, 255]).all()


def test_observations_are_noised_to_multiples_of_their_own_level_and_denoised() -> None:
    """A denoiser that knows the images: its rows show them, whatever the level; clean images are shown too."""
    asked: list[torch.Tensor] = []
    x0 = torch.linspace(-0.9, 0.9, 8)[:, None, None, None].expand(-1, 1, 64, 64)
    sigma_n = torch.tensor([0.0, 0.3] * 4)
    y = x0 + sigma_n[:, None, None, None] * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        asked.append(sigma)
        spread = (x - y).flatten(1).std(1)
        assert torch.allclose(spread.square() + sigma_n.square(), sigma.square(), rtol=0.1, atol=1e-6)
        return x0

    grid = np.array(Image.open(io.BytesIO(denoising_grid(denoiser, y, sigma_n))))
    assert torch.allclose(torch.stack(asked), torch.tensor([[k * 0.1, k * 0.3] * 4 for k in (1, 2, 4, 8)]))
    assert grid.shape == (8 * 68 + 4, 8 * 68 + 4, 3)
    for row in (1, 3, 5, 7):
        shown = grid[4 + row * 68 : 68 + row * 68, 4:-4, 0].mean(0).reshape(-1)[::68]
        assert np.array_equal(shown, np.round((x0[:, 0, 0, 0].numpy() + 1) * 127.5))
