"""Two published diagnostics of copying, to look at and not to rank by: both take mode shrinkage for copying.

A model that gives typical images only, none of them a copy, lies nearer to training images than held-out images do.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.evaluation.measure import Z95, Measure
from ambient_sweep.evaluation.memorization.copies import share_of
from ambient_sweep.evaluation.neighbours import Targets, nearest

CELLS = 10  # of C_T, at most
OF_A_CELL = 50  # images of each kind per cell, on average, at least
IN_A_CELL = 10  # generated and held-out images that a cell needs to count
_READ = 16384


def authpct(features: Tensor, train: Targets, *, device: str = "cpu") -> Measure:
    """Share of samples farther from their nearest training image than that is from its own (AuthPct; Alaa et al. 2022).

    features [N, D], train [M, D], M >= 2. About a half for unseen images; low: copying, or so it seems. It lies where
    modes are shrunk: typical images, in the midst of the training images, are called copies. It is blind to copies of
    images that are twice in the training set, whose own nearest is at distance 0, but for exact ones.
    """
    distances, index = nearest(features, train, 1, device=device)
    unique, inverse = torch.unique(index[:, 0], return_inverse=True)
    chosen = torch.cat([train[int(i) : int(i) + 1] for i in unique])
    own = nearest(chosen, train, 2, device=device)[0][:, 1]  # the first is the image itself
    return share_of(distances[:, 0] > own[inverse])


def c_t(features: Tensor, train: Targets, heldout: Tensor, *, seed: int = 0, device: str = "cpu") -> Measure:
    """C_T: whether samples lie nearer to training images than held-out ones do, as a z value (Meehan et al. 2020).

    features [N, D], train [M, D], heldout [K, D]. In each of up to CELLS k-means cells of the training images, the
    Mann-Whitney U of the distances to the nearest training image of the cell, standardised; their mean, weighted by the
    held-out images in a cell. Cells with fewer than IN_A_CELL of either kind do not count; where none counts, one cell holds
    all. Far below 0: copying, or so it seems. It lies where modes are shrunk, typical images being near to training images;
    it grows with the number of images, as every z value; a few copies among good samples hardly move it. The interval is
    the cells' unit variance, carried through the mean.
    """
    from sklearn.cluster import KMeans

    rows = torch.cat([train[start : start + _READ] for start in range(0, len(train), _READ)]).flatten(1).numpy()
    cells = max(1, min(CELLS, min(len(features), len(rows), len(heldout)) // OF_A_CELL))
    state = int(rng.uniform("c_t/cells", seed, 0, 1)[0, 0] * 2**32)
    means = KMeans(cells, n_init=1, random_state=state).fit(rows)
    mine, theirs = (each.flatten(1).cpu() for each in (features, heldout))
    of_mine, of_theirs = (means.predict(each.numpy().astype(rows.dtype)) for each in (mine, theirs))
    counting = [c for c in range(cells) if min((of_mine == c).sum(), (of_theirs == c).sum()) >= IN_A_CELL]
    parts = [(rows[means.labels_ == c], mine[of_mine == c], theirs[of_theirs == c]) for c in counting]
    values, weights = [], []
    for own, a, b in parts or [(rows, mine, theirs)]:
        nearer = (nearest(each, torch.from_numpy(own), 1, device=device)[0][:, 0].cpu().numpy() for each in (a, b))
        values.append(_z(*nearer))
        weights.append(len(b))
    value = float(np.average(values, weights=weights))
    half = Z95 * math.hypot(*weights) / sum(weights)
    return Measure(value, value - half, value + half, len(features), seed=seed)


def _z(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mann-Whitney's U of a over b, standardised, ties counted half."""
    from scipy.stats import mannwhitneyu

    n, m = len(a), len(b)
    u = float(mannwhitneyu(a, b, method="asymptotic").statistic)
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
