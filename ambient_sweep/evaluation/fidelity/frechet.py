"""The Frechet distance of two sets of features, taken as Gaussians, and its interval.

    d = |m_r - m_g|^2 + tr S_r + tr S_g - 2 tr (S_r^1/2 S_g S_r^1/2)^1/2           (Dowson and Landau 1982)

With any roots R^T R = S_r and G^T G = S_g the last trace is the sum of the singular values of G R^T: symmetric algebra
only, no complex numbers, nothing to regularise, and the smaller of the two sides decides the cost, so covariances of
deficient rank (fewer images than features) are both right and cheap.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.measure import Z95, Measure


@dataclass(frozen=True)
class Statistics:
    """Mean [D] and covariance root [R, D] (root.T @ root is the covariance, R <= D) of n features, float64."""

    mean: Tensor
    root: Tensor
    n: int

    @classmethod
    def of(cls, features: Tensor) -> "Statistics":
        """The statistics of features [n, D], covariance over n - 1.

        Raises AmbientSweepError for fewer than two features or non-finite ones.
        """
        mean, root = _centred(features)
        n, size = root.shape
        if n > size:
            values, vectors = torch.linalg.eigh(root.T @ root)
            root = values.clamp(min=0).sqrt()[:, None] * vectors.T
        return cls(mean, root, n)


def frechet(features: Tensor, real: Statistics) -> Measure:
    """Frechet distance of generated features [n, D] to the real statistics, never below 0.

    The interval is for the draw of the samples at this n (infinitesimal jackknife; Efron 1982): the real images are
    taken as given, and the bias that every such distance has at finite n is not removed. Raises AmbientSweepError for
    fewer than two features or non-finite ones.
    """
    mean, root = _centred(features)
    n = len(root)
    real_mean, real_root = real.mean.to(root), real.root.to(root)
    shift = mean - real_mean
    singular, shares = _singular_values(root @ real_root.T)
    lengths = root.square().sum(1)  # |x - m_g|^2 / (n - 1)
    value = shift.square().sum() + real_root.square().sum() + lengths.sum() - 2 * singular.sum()
    # phi(x) = 2 (m_g - m_r).(x - m_g) + (x - m_g)^T (I - A) (x - m_g) - constant, with
    # A = S_r^1/2 (S_r^1/2 S_g S_r^1/2)^-1/2 S_r^1/2, the derivative of 2 tr (S_r^1/2 S_g S_r^1/2)^1/2 by S_g;
    # n / (n - 1) times the quadratic part, as the covariance is over n - 1
    influence = 2 * math.sqrt(n - 1) * (root @ shift) + n * (lengths - shares)
    half = Z95 * float(influence.std()) / math.sqrt(n)
    distance = max(0.0, float(value))
    return Measure(distance, max(0.0, distance - half), distance + half, n)


def frechet_between(a: Statistics, b: Statistics) -> float:
    """The Frechet distance of two statistics, without an interval, never below 0."""
    shift = (a.mean - b.mean).square().sum()
    traces = a.root.square().sum() + b.root.square().sum()
    return max(0.0, float(shift + traces - 2 * torch.linalg.svdvals(a.root @ b.root.T).sum()))


def bootstrap(features: Tensor, real: Statistics, *, resamples: int = 200, seed: int = 0) -> Measure:
    """As `frechet`, with the interval from that many resamples of the features (Efron 1979), percentiles about the value.

    Costs `resamples` distances. A resample repeats images, which raises the distance itself at small n; so its spread is
    taken and not its place: value -/+ the quantiles of the resamples less their mean.
    """
    n = len(features)
    value = frechet(features, real).value
    rows = (torch.from_numpy(rng.uniform("frechet.bootstrap", seed, 0, resamples, n)) * n).long()
    values = torch.tensor([frechet(features[row], real).value for row in rows], dtype=torch.float64)
    low, high = (float(q) for q in torch.quantile(values - values.mean(), torch.tensor([0.025, 0.975]).double()))
    return Measure(value, max(0.0, value + low), value + high, n, seed=seed)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and centred features over sqrt(n - 1), [n, D], in float64."""
    if len(features) < 2:
        raise AmbientSweepError(f"a Frechet distance needs at least 2 images, not {len(features)}")
    x = features.double()
    if not x.isfinite().all():
        raise AmbientSweepError("a Frechet distance needs finite features; the encoder gave others")
    mean = x.mean(0)
    return mean, (x - mean) / math.sqrt(len(x) - 1)


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
