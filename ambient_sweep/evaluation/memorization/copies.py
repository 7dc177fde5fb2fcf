"""How many samples reproduce a training image, without a network: L2 distances of small thumbnails.

Every measure is a share of N samples, with Wilson's interval; `distances` are L2, not squared, to the nearest training
images, nearest first (`neighbours.nearest`).
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.measure import Measure

SIDE = 16  # of a thumbnail, at most
RATIO = 1 / 3
LOCAL = 5  # further neighbours whose mean distance is the local scale


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
    return Measure.share((first < RATIO * second) | ((first == 0) & (second == 0)))


def mem_excess(distances: Tensor, heldout: Tensor, quantile: float) -> Measure:
    """Share of samples nearer to a training image than the `quantile` of held-out images, minus that quantile.

    `distances` [N] and `heldout` [M], or `local_distances` of both. Held-out images at distance zero are training images
    and are left out. Interval: Wilson of the share, minus `quantile`; the threshold is taken as known.
    """
    return Measure.share(distances < null_threshold(heldout[heldout > 0], quantile)).minus(quantile)


def null_threshold(heldout: Tensor, quantile: float) -> float:
    """The quantile of held-out images' distances [M] to the nearest training image, at position (M + 1) q.

    With that position (Weibull's) a further unseen image falls below the threshold with probability q, whatever M and
    the distribution. Raises UserError where there are too few for the quantile.
    """
    needed = heldout_needed(quantile)
    if len(heldout) < needed:
        raise UserError(
            f"evaluation.quantile: {quantile} needs at least {needed} held-out images that are no training images, there "
            f"are {len(heldout)}; hold out more images or set evaluation.quantile={smallest_quantile(len(heldout))}"
        )
    return float(np.quantile(heldout.cpu().numpy(), quantile, method="weibull"))


def heldout_needed(quantile: float) -> int:
    """Held-out images that a quantile of their distances needs at least."""
    return max(2, math.ceil(1 / quantile - 1e-9) - 1)


def smallest_quantile(heldout: int) -> float:
    """The smallest quantile that so many held-out images allow, rounded up to four digits."""
    return math.ceil(1e4 / (max(heldout, 2) + 1)) / 1e4


def local_distances(distances: Tensor) -> Tensor:
    """Distances [N, K] in units of the local scale, [N]: nearest over the mean of the next LOCAL (as many as there are).

    Where an image set has smooth and busy parts, one threshold on the distance itself is that of the smooth ones, and
    copies of busy images with a little noise pass it. 0 for a sample at distance zero. K is at least 2.
    """
    first, further = distances[:, 0], distances[:, 1 : LOCAL + 1]
    return torch.where(first > 0, first / further.mean(1), 0.0)
