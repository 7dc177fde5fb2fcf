"""Two published diagnostics of copying, to look at and not to rank by: both take mode shrinkage for copying.

A model that gives typical images only, none of them a copy, lies nearer to training images than held-out images do.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ambient_sweep.evaluation.measure import Measure
from ambient_sweep.evaluation.memorization.copies import share_of
from ambient_sweep.evaluation.neighbours import Targets, nearest

CELLS = 10  # of C_T, at most
IN_A_CELL = 10  # images of either kind that a cell needs to count
_READ = 16384


def authpct(features: Tensor, train: Targets, *, device: str = "cpu") -> Measure:
    """Share of samples farther from their nearest training image than that is from its own (AuthPct; Alaa et al. 2022).

    features [N, D], train [M, D], M >= 2. About 0.5 to 0.6 for unseen images. Lies: typical images count as copies.
    """
    distances, index = nearest(features, train, 1, device=device)
    unique, inverse = torch.unique(index[:, 0], return_inverse=True)
    chosen = torch.cat([train[int(i) : int(i) + 1] for i in unique])
    own = nearest(chosen, train, 2, device=device)[0][:, 1]  # the first is the image itself
    return share_of(distances[:, 0] > own[inverse])


def c_t(features: Tensor, train: Targets, heldout: Tensor, *, seed: int = 0, device: str = "cpu") -> Measure:
    """C_T: whether samples lie nearer to training images than held-out ones do, as a z value (Meehan et al. 2020).

    features [N, D], train [M, D], heldout [K, D]. In each of up to CELLS k-means cells of the training images, the
    Mann-Whitney U of the distances to the nearest training image, standardised; their mean weighted by the held-out images
    in a cell. Far below 0: copying, or shrunk modes. Cells with fewer than IN_A_CELL of either kind are left out; where
    none is left, one cell holds all. The interval is that of a z value, plus or minus 1.96 over the root of the cells.
    """
    from sklearn.cluster import KMeans

    rows = torch.cat([train[start : start + _READ] for start in range(0, len(train), _READ)]).flatten(1).numpy()
    cells = max(1, min(CELLS, len(rows) // 50))
    means = KMeans(cells, n_init=1, random_state=seed).fit(rows)
    mine, theirs = (nearest(each, train, 1, device=device)[0][:, 0].cpu().numpy() for each in (features, heldout))
    of_mine, of_theirs = (means.predict(each.flatten(1).cpu().numpy()) for each in (features, heldout))
    values, weights = [], []
    for cell in range(cells):
        a, b = mine[of_mine == cell], theirs[of_theirs == cell]
        if min(len(a), len(b)) >= IN_A_CELL:
            values.append(_z(a, b))
            weights.append(len(b))
    if not values:
        values, weights = [_z(mine, theirs)], [len(theirs)]
    value = float(np.average(values, weights=weights))
    half = 1.96 * math.sqrt(float(np.square(weights).sum())) / sum(weights)
    return Measure(value, value - half, value + half, len(mine), seed=seed)


def _z(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mann-Whitney's U of a over b, standardised, ties counted half."""
    from scipy.stats import mannwhitneyu

    n, m = len(a), len(b)
    u = float(mannwhitneyu(a, b, method="asymptotic").statistic)
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
