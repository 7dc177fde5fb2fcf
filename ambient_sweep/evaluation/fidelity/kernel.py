"""The kernel distance: unbiased squared maximum mean discrepancy with a cubic kernel (KID; Binkowski et al. 2018).

k(x, y) = (x.y / D + 1)^3. With all pairs,

    KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
"""

import math

import torch
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.measure import Z95, Measure

_BLOCK = 2**24  # float64 values of one block of the kernel matrix


def kid(features: Tensor, real: Tensor) -> Measure:
    """KID of features [n, D] to real ones [m, D], over all pairs; may be below 0.

    The interval is for the draw of both sets: twice the first-order terms of the two-sample U-statistic (Hoeffding 1948).
    Raises AmbientSweepError for fewer than two of either or non-finite ones.
    """
    x, y = _checked(features), _checked(real)
    n, m = len(x), len(y)
    xx, yy = _row_sums(x, x), _row_sums(y, y)
    xy = _row_sums(x, y)
    yx = _row_sums(y, x)
    own_x = (xx - _diagonal(x)) / (n - 1)
    own_y = (yy - _diagonal(y)) / (m - 1)
    value = float(own_x.mean() + own_y.mean() - 2 * xy.mean() / m)
    variance = 4 * (float((own_x - xy / m).var()) / n + float((own_y - yx / n).var()) / m)
    half = Z95 * math.sqrt(variance)
    return Measure(value, value - half, value + half, n)


def kid_subsets(features: Tensor, real: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Measure:
    """The mean KID of `subsets` pairs of subsets of `size` images, drawn by a key, as clean-fid and torch-fidelity take it.

    size is at most the number of images. The interval is that of the mean over subsets, which overlap: for comparison
    with published values, not for inference.
    """
    x, y = _checked(features), _checked(real)
    size = min(size, len(x), len(y))
    values = []
    for index in range(subsets):
        a = x[torch.from_numpy(rng.permutation("kid.generated", seed, index, len(x))[:size])]
        b = y[torch.from_numpy(rng.permutation("kid.real", seed, index, len(y))[:size])]
        values.append(kid(a, b).value)
    mean = sum(values) / subsets
    half = Z95 * float(torch.tensor(values).double().std()) / math.sqrt(subsets) if subsets > 1 else 0.0
    return Measure(mean, mean - half, mean + half, len(x), seed=seed)


def _checked(features: Tensor) -> Tensor:
    if len(features) < 2:
        raise AmbientSweepError(f"kid needs at least 2 images, not {len(features)}")
    x = features.double()
    if not x.isfinite().all():
        raise AmbientSweepError("kid needs finite features; the encoder gave others")
    return x


def _diagonal(x: Tensor) -> Tensor:
    return (x.square().sum(1) / x.shape[1] + 1) ** 3


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """The sums over y of k(x_i, y), [n]."""
    rows = max(1, _BLOCK // len(y))
    return torch.cat([((part @ y.T / x.shape[1] + 1) ** 3).sum(1) for part in torch.split(x, rows)])
