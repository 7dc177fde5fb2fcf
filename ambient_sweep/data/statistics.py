"""How the pixels of a set are spread."""

import numpy as np
import torch

from ambient_sweep.data.pixels import Pixels

MOST_VALUES = 2**28  # measured of a set, in images evenly spaced over it
BLOCK = 64  # images read at once
LEAST_USED, SIGMA_FACTOR = 0.25, 3


def pixel_lines(pixels: Pixels, sigma_data: float, noisy: bool) -> list[str]:
    """Range, mean and standard deviation, with warnings of images that use little of the range or spread unlike sigma_data.

    noisy: the pixels are observations, which spread more than the images.
    """
    each = int(np.prod(pixels.shape))
    chosen = pixels.subset(np.arange(0, len(pixels), max(1, len(pixels) * each // MOST_VALUES)))
    blocks = [(b.min(), b.max(), b.double().sum(), b.double().square().sum()) for b in chosen.blocks(BLOCK)]
    lows, highs, sums, squares = torch.tensor(blocks, dtype=torch.float64).T
    low, high, mean = float(lows.min()), float(highs.max()), float(sums.sum()) / (len(chosen) * each)
    std = max(0.0, float(squares.sum()) / (len(chosen) * each) - mean**2) ** 0.5
    lines = [
        f"pixels on [-1, 1]{', with their noise' if noisy else ''}: from {low:.3g} to {high:.3g}, mean {mean:.3g}, "
        f"standard deviation {std:.3g}"
    ]
    if (high - low) / 2 < LEAST_USED:
        lines.append(
            f"warning: the images use {(high - low) / 2:.1%} of the range from black to white; set data.range=[low,high] to "
            "theirs, in the units of the files"
        )
    if std < sigma_data / SIGMA_FACTOR or (not noisy and std > sigma_data * SIGMA_FACTOR):
        lines.append(
            f"warning: their standard deviation, {std:.3g}, is far from model.sigma_data={sigma_data:g}; scale them by "
            "data.range=[low,high], or set model.sigma_data"
        )
    return lines
