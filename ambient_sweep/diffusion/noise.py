"""Noise levels: how they are drawn in training, and how they descend in sampling and in the consistency chain."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr, ndtri_exp


def expand(sigma: torch.Tensor) -> torch.Tensor:
    """[N] to [N,1,1,1]."""
    return sigma[:, None, None, None]


def truncated_lognormal(uniform: ArrayLike, mean: float, std: float, above: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Log-normal noise levels (EDM, arXiv 2206.00364, table 1) truncated to sigma > above, by inverse CDF.

    `uniform` in (0, 1), any shape; `above` broadcasts to it. Truncation, not clamping: clamping would put the
    mass below the bound on the bound itself, where the ambient loss is zero. Works on the logarithm of the survival
    function, so that bounds far in the tail keep their precision.
    """
    u = np.asarray(uniform, dtype=np.float64)
    with np.errstate(divide="ignore"):
        low = (np.log(np.asarray(above, dtype=np.float64)) - mean) / std
    survival = np.log1p(-u) + log_ndtr(-low)  # log of the survival function at the draw: log((1 - u) S(low))
    return np.asarray(np.maximum(np.exp(mean - std * ndtri_exp(survival)), above))


def table_levels(uniform: ArrayLike, table: ArrayLike, above: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Levels of a rising `table`, each above `above` equally probable; shapes as in `truncated_lognormal`.

    The table's last level where none is above.
    """
    levels = np.asarray(table, dtype=np.float64)
    first = np.minimum(np.searchsorted(levels, np.asarray(above, dtype=np.float64), side="right"), len(levels) - 1)
    place = first + np.floor(np.asarray(uniform) * (len(levels) - first)).astype(np.int64)
    return np.asarray(levels[place])


def sampling_level(uniform: ArrayLike, low: ArrayLike, high: ArrayLike, rho: float) -> NDArray[np.float64]:
    """EDM's sampling grid (equation 5) as a function of u from 0, the level `low`, to 1, `high`; shapes broadcast."""
    a, b = np.asarray(low, dtype=np.float64) ** (1 / rho), np.asarray(high, dtype=np.float64) ** (1 / rho)
    return np.asarray((a + np.asarray(uniform, dtype=np.float64) * (b - a)) ** rho)


def karras(start: torch.Tensor, end: torch.Tensor, steps: int, rho: float = 7.0) -> torch.Tensor:
    """Levels from `start` to `end`, both included, [*, steps + 1] (EDM, equation 5)."""
    t = torch.linspace(0, 1, steps + 1, dtype=start.dtype, device=start.device)
    a, b = start[..., None] ** (1 / rho), end[..., None] ** (1 / rho)
    levels: torch.Tensor = (a + t * (b - a)) ** rho
    levels[..., 0], levels[..., -1] = start, end  # which rounding would miss
    return levels
