"""The kernel distance: unbiased squared maximum mean discrepancy with a cubic kernel (KID; Binkowski et al. 2018).

k(x, y) = (x.y / D + 1)^3. Over all pairs,

    KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
"""

import math

import torch
from torch import Tensor

from ambient_sweep.evaluation.measure import Z95, Measure

BLOCK = 512  # images on a side of a block of the kernel matrix


def kid(features: Tensor, real: Tensor) -> Measure:
    """KID of features [n, D] to real ones [m, D], over all pairs; may be below 0.

    The interval is for the draw of both sets, from the first-order term of the two-sample U-statistic (Hoeffding 1948):
    var = 4 var_i(a_i) / n + 4 var_j(b_j) / m, a_i the mean kernel of x_i with the other x less that with y, b_j likewise. At
    the floor, where that term vanishes, what is left of it by chance makes the interval sqrt(2) times too wide, never too
    narrow. Memory: a block of the kernel matrix. n and m are at least 2.
    """
    n, m = len(features), len(real)
    x_with_x, y_with_y = _row_means_within(features), _row_means_within(real)
    x_with_y, y_with_x = _row_means_across(features, real)
    value = float(x_with_x.mean() + y_with_y.mean() - 2 * x_with_y.mean())
    variance = 4 * float((x_with_x - x_with_y).var() / n + (y_with_y - y_with_x).var() / m)
    half = Z95 * math.sqrt(variance)
    return Measure(value, value - half, value + half, n)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    base = torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1])
    return base.square().mul_(base)


def _row_means_within(x: Tensor) -> Tensor:
    """The mean of k(x_i, x_j) over j != i, float64 [n]; each block of the symmetric matrix is made once."""
    parts = torch.split(x, BLOCK)
    sums = [torch.zeros(len(part), dtype=torch.float64, device=x.device) for part in parts]
    for i, rows in enumerate(parts):
        a = rows.double()
        for j, columns in enumerate(parts[: i + 1]):
            block = _kernel(a, columns.double())
            if i == j:
                sums[i] += block.fill_diagonal_(0).sum(1)
            else:
                sums[i] += block.sum(1)
                sums[j] += block.sum(0)
    return torch.cat(sums) / (len(x) - 1)


def _row_means_across(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The means of k(x_i, y_j) over j, float64 [n], and over i, [m]."""
    of_x = [torch.zeros(len(part), dtype=torch.float64, device=x.device) for part in torch.split(x, BLOCK)]
    of_y = [torch.zeros(len(part), dtype=torch.float64, device=x.device) for part in torch.split(y, BLOCK)]
    for rows, sums_x in zip(torch.split(x, BLOCK), of_x, strict=True):
        a = rows.double()
        for columns, sums_y in zip(torch.split(y, BLOCK), of_y, strict=True):
            block = _kernel(a, columns.double())
            sums_x += block.sum(1)
            sums_y += block.sum(0)
    return torch.cat(of_x) / len(y), torch.cat(of_y) / len(x)
