"""The Frechet distance of two sets of features, taken as Gaussians, and its interval.

    d = |m_r - m_g|^2 + tr S_r + tr S_g - 2 tr (S_r^1/2 S_g S_r^1/2)^1/2           (Dowson and Landau 1982)

With any roots R^T R = S_r and G^T G = S_g the last trace is the sum of the singular values of G R^T: symmetric algebra
only, no complex numbers, nothing to regularise, and the smaller of the two sides decides the cost, so covariances of
deficient rank (fewer images than features) are both right and cheap.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ambient_sweep.evaluation.measure import Z95, Measure


@dataclass(frozen=True)
class Statistics:
    """Mean [D] and covariance root [R, D] (root.T @ root is the covariance, R <= D) of n features, float64."""

    mean: Tensor
    root: Tensor
    n: int


def frechet(features: Tensor, real: Statistics) -> Measure:
    """Frechet distance of generated features [n, D] to the real statistics, never below 0.

    The interval is for the draw of the samples at this n (infinitesimal jackknife; Efron 1982): the real images are
    taken as given, and the bias that every such distance has at finite n is not removed. n is at least 2.
    """
    x, n = features.double(), len(features)
    mean = x.mean(0)
    root = (x - mean) / math.sqrt(n - 1)
    real_mean, real_root = real.mean.to(root), real.root.to(root)
    shift = mean - real_mean
    product = root @ real_root.T
    lengths = root.square().sum(1)  # |x - m_g|^2 / (n - 1)
    singular, shares = _singular_values(product)
    value = shift.square().sum() + real_root.square().sum() + lengths.sum() - 2 * singular.sum()
    # phi(x) = 2 (m_g - m_r).(x - m_g) + (x - m_g)^T (I - A) (x - m_g) - constant, with
    # A = S_r^1/2 (S_r^1/2 S_g S_r^1/2)^-1/2 S_r^1/2, the derivative of 2 tr (S_r^1/2 S_g S_r^1/2)^1/2 by S_g;
    # n / (n - 1) times the quadratic part, as the covariance is over n - 1
    influence = 2 * math.sqrt(n - 1) * (root @ shift) + n * (lengths - shares)
    half = Z95 * float(influence.std()) / math.sqrt(n)
    distance = max(0.0, float(value))
    return Measure(distance, max(0.0, distance - half), distance + half, n)


def statistics(blocks: Iterable[Tensor]) -> Statistics:
    """The statistics of features [n, D] that come in blocks, covariance over the sum of all n less 1.

    Blocks are joined in float64 by their means and scatters (Chan, Golub and LeVeque 1979). n is at least 2.
    """
    n, mean, scatter = 0, torch.zeros(0), torch.zeros(0)
    for block in blocks:
        x = block.double()
        own = x.mean(0)
        centred = x - own
        if n == 0:
            n, mean, scatter = len(x), own, centred.T @ centred
            continue
        total, shift = n + len(x), own - mean
        scatter += centred.T @ centred
        scatter += torch.outer(shift, shift * (n * len(x) / total))
        mean += shift * (len(x) / total)
        n = total
    return Statistics(mean, _root(scatter / (n - 1), n), n)


def _root(covariance: Tensor, n: int) -> Tensor:
    """R [rank, D] with R^T R equal to the covariance of n features."""
    if n > len(covariance):
        triangle: Tensor
        triangle, failed = torch.linalg.cholesky_ex(covariance, upper=True)
        if not failed:
            return triangle
    # of deficient rank: fewer images than features, or constant ones; eigenvalues below the rounding are zeros
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    root: Tensor = values[kept].sqrt()[:, None] * vectors.T[kept]
    return root


def _singular_values(product: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values s of B = U s V^T [n, R], and the diagonal [n] of (B B^T)^1/2 = U s U^T: x^T A x / (n - 1).

    From one eigendecomposition of the smaller Gram matrix; no inverse is taken of what may be zero.
    """
    n, rank = product.shape
    if n <= rank:
        values, left = torch.linalg.eigh(product @ product.T)
        singular = values.clamp(min=0).sqrt()
        return singular, left.square() @ singular
    values, right = torch.linalg.eigh(product.T @ product)
    singular = values.clamp(min=0).sqrt()
    inverse = torch.where(singular > 0, 1 / singular, 0.0)
    return singular, (product @ right).square() @ inverse
