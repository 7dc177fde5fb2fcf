"""How many samples give back a training image, without a network: L2 distances of small thumbnails."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure, wilson

SIDE = 16  # thumbnails are at most so large
RATIO = 1 / 3


def thumbnails(images: Tensor) -> Tensor:
    """Images uint8 [N, C, H, W] to pixels in [-1, 1], float32, area-averaged to 16x16 (the native side below that)."""
    height, width = (min(SIDE, side) for side in images.shape[-2:])
    parts = [
        adaptive_avg_pool2d(part.double() / 127.5 - 1, (height, width)).float() for part in torch.split(images, 256)
    ]
    return torch.cat(parts)


def mem_ratio(distances: Tensor) -> Measure:
    """Share of samples nearer to their nearest training image than a third of the way to the second (Yoon et al. 2023).

    `distances`: L2, [N, 2], to the nearest and the second nearest training image. A sample at distance zero from both
    (a training image that is there twice) is a copy. Interval: Wilson.
    """
    first, second = distances[:, 0], distances[:, 1]
    copies = int(((first < RATIO * second) | ((first == 0) & (second == 0))).sum())
    return Measure(copies / len(distances), *wilson(copies, len(distances)), len(distances))


def mem_excess(distances: Tensor, threshold: float, quantile: float) -> Measure:
    """Share of samples nearer to a training image than `threshold`, minus `quantile`, what unseen images would give.

    `distances`: L2, [N], to the nearest training image; `threshold` from `null_threshold`. Interval: Wilson of the
    share, minus `quantile`; the threshold is taken as known.
    """
    n = len(distances)
    close = int((distances < threshold).sum())
    low, high = wilson(close, n)
    return Measure(close / n - quantile, low - quantile, high - quantile, n)


def null_threshold(heldout: Tensor, quantile: float) -> float:
    """The quantile of held-out images' L2 distances [M] to the nearest training image, at position (M + 1) q.

    With that position (Weibull's) a further unseen image falls below the threshold with probability q, whatever M and
    the distribution. Held-out images at distance zero are training images and are left out. Raises UserError where too
    few images are left for the quantile.
    """
    values = heldout[heldout > 0].cpu().numpy()
    needed = max(2, math.ceil(1 / quantile - 1e-9) - 1)
    if len(values) < needed:
        twins = len(heldout) - len(values)
        without = f" (and {twins} more that are training images as well)" if twins else ""
        raise UserError(
            f"evaluation.quantile: {quantile} needs at least {needed} held-out images, there are {len(values)}{without}"
            "; hold out more images or raise the quantile"
        )
    return float(np.quantile(values, quantile, method="weibull"))
