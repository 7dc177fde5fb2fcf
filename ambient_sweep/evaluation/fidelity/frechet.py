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
        return cls(mean, torch.linalg.qr(root, mode="r").R if n > size else root, n)


def frechet(features: Tensor, real: Statistics, *, interval: bool = True) -> Measure:
    """Frechet distance of generated features [n, D] to the real statistics, never below 0.

    The interval is for the draw of the samples at this n (infinitesimal jackknife; Efron 1982): the real images are
    taken as given, and the bias that every such distance has at finite n is not removed. It needs eigenvectors, and takes
    about as long again as the distance. Raises AmbientSweepError for fewer than two features or non-finite ones.
    """
    mean, root = _centred(features)
    n = len(root)
    real_mean, real_root = real.mean.to(root), real.root.to(root)
    shift = mean - real_mean
    product = root @ real_root.T
    lengths = root.square().sum(1)  # |x - m_g|^2 / (n - 1)
    constant = shift.square().sum() + real_root.square().sum() + lengths.sum()
    if not interval:
        return Measure(max(0.0, float(constant - 2 * _nuclear_norm(product))), None, None, n)
    singular, shares = _singular_values(product)
    value = constant - 2 * singular.sum()
    # phi(x) = 2 (m_g - m_r).(x - m_g) + (x - m_g)^T (I - A) (x - m_g) - constant, with
    # A = S_r^1/2 (S_r^1/2 S_g S_r^1/2)^-1/2 S_r^1/2, the derivative of 2 tr (S_r^1/2 S_g S_r^1/2)^1/2 by S_g;
    # n / (n - 1) times the quadratic part, as the covariance is over n - 1
    influence = 2 * math.sqrt(n - 1) * (root @ shift) + n * (lengths - shares)
    half = Z95 * float(influence.std()) / math.sqrt(n)
    distance = max(0.0, float(value))
    return Measure(distance, max(0.0, distance - half), distance + half, n)


def frechet_between(a: Statistics, b: Statistics) -> float:
    """The Frechet distance of two statistics, never below 0; no interval, which would need the features."""
    b_mean, b_root = b.mean.to(a.mean), b.root.to(a.root)
    traces = a.root.square().sum() + b_root.square().sum()
    return max(0.0, float((a.mean - b_mean).square().sum() + traces - 2 * _nuclear_norm(a.root @ b_root.T)))


def bootstrap(features: Tensor, real: Statistics, *, resamples: int = 200, seed: int = 0) -> Measure:
    """As `frechet`, its interval from resamples of the features (Efron 1979), drawn by (seed, resample).

    A resample repeats images, which raises the distance: its bias at n, a second time. So the quantiles are taken of the
    resamples less their mean, about the value; with fewer images than features they still spread too far. For a check of
    `frechet`'s interval, at the cost of `resamples` distances.
    Raises AmbientSweepError as `frechet` does, ValueError for fewer than two resamples.
    """
    if resamples < 2:
        raise ValueError(f"bootstrap: {resamples} resamples")
    resampled = Resampled(features, real)
    n = len(features)
    values = torch.empty(resamples, dtype=torch.float64)
    for index in range(resamples):
        rows = torch.from_numpy((rng.uniform("frechet.bootstrap", seed, index, 1, n)[0] * n).astype("int64"))
        values[index] = resampled.distance(torch.bincount(rows, minlength=n))
    value = max(0.0, resampled.distance(torch.ones(n)))
    low, high = (values - values.mean()).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Measure(value, max(0.0, value + low), value + high, n, seed=seed)


class Resampled:
    """Frechet distances of subsets and resamples of features [n, D] to the real statistics.

    The features are projected on the real root once; a distance then costs one Gram matrix and its eigenvalues, on the
    side of the images in it or of the real root, whichever is smaller. Raises AmbientSweepError as `frechet` does.
    """

    def __init__(self, features: Tensor, real: Statistics) -> None:
        mean, root = _centred(features)
        scale = math.sqrt(len(root) - 1)
        self._centred = root.mul_(scale)
        self._lengths = self._centred.square().sum(1)
        self._shift = mean - real.mean.to(mean)
        real_root = real.root.to(mean)
        self._real_trace = real_root.square().sum()
        self._product = self._centred @ real_root.T

    def distance(self, counts: Tensor) -> float:
        """Of the sample in which image i comes counts[i] times, counts [n] with a sum of 2 or more; not cut off at 0."""
        rows = counts.nonzero()[:, 0].to(self._product.device)
        c = counts.to(self._product)[rows]
        n = c.sum()
        shift = c @ self._centred[rows] / n  # of the sample's mean from that of all
        product = self._product[rows]
        product = (product - c @ product / n) * (c / (n - 1)).sqrt()[:, None]
        trace = (c @ self._lengths[rows] - n * shift.square().sum()) / (n - 1)
        value = (self._shift + shift).square().sum() + self._real_trace + trace - 2 * _nuclear_norm(product)
        return float(value)


def small_sample_warning(n: int, dimension: int) -> str | None:
    """A line where n images are too few for a Gaussian of that many dimensions (n <= 2 dimension); else None."""
    if n > 2 * dimension:
        return None
    return (
        f"{n} images are few for {dimension} features: the distance is biased upwards, by more than models may differ; "
        "compare it with what real images get, and only with values at the same number"
    )


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


def _nuclear_norm(product: Tensor) -> Tensor:
    """The sum of the singular values, from the eigenvalues of the smaller Gram matrix."""
    gram = product @ product.T if product.shape[0] <= product.shape[1] else product.T @ product
    norm: Tensor = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
    return norm
