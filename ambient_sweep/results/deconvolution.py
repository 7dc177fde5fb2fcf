"""The distribution of true values behind noisy measurements, and what it says of each of them.

Extreme deconvolution (Bovy, Hogg and Roweis 2011): true values come from a mixture of normals with covariances of their
own, every measurement adds normal noise of its own covariance, and the mixture is learnt by EM over the noisy values.
With one component it is the normal model of empirical Bayes, which draws all values towards their mean; more let it
follow the shape of a front. Covariances have the prior of that paper's section 3, here worth STRENGTH values that spread
as all do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PER_COMPONENT = 15  # values for each component
COMPONENTS = 32  # at most
STRENGTH = 3.0
ROUNDS = 20  # of EM
LEAST = 1e-9  # variance of a component, in units of all values'; keeps matrices regular


@dataclass(frozen=True)
class Posterior:
    """Where the true value behind each of N measurements may be: mixtures of K normals."""

    shares: Floats  # [N, K], cumulative weights of the components
    means: Floats  # [N, K, 2]
    roots: Floats  # [N, K, 2, 2], lower triangular, of the covariances

    @classmethod
    def fit(cls, values: Floats, errors: Floats, correlation: float) -> "Posterior":
        """values and their standard errors [N, 2], in an order that does not depend on who measured them when;
        correlation of the two errors. Neither column of values may be constant."""
        unit = values.std(axis=0)
        x, e = values / unit, errors / unit
        noise = e[:, :, None] * e[:, None, :] * np.array([[1.0, correlation], [correlation, 1.0]])  # [N, 2, 2]
        groups = _parts(x, min(COMPONENTS, max(1, len(x) // PER_COMPONENT)))
        weights = np.array([len(group) for group in groups]) / len(x)
        means = np.array([x[group].mean(axis=0) for group in groups])
        covariances = np.array([_covariance(x[group]) for group in groups])
        prior = STRENGTH * _covariance(x) / len(groups)
        for _ in range(ROUNDS):
            shares, centres, around = _expected(x, noise, weights, means, covariances)
            count = shares.sum(axis=0)
            weights = count / len(x)
            means = (shares[..., None] * centres).sum(axis=0) / count[:, None]
            off = centres - means
            spread = (shares[..., None, None] * (off[..., :, None] * off[..., None, :] + around)).sum(axis=0)
            covariances = (spread + prior) / (count + STRENGTH)[:, None, None]
        shares, centres, around = _expected(x, noise, weights, means, covariances)
        return cls(shares.cumsum(axis=1), centres * unit, _roots(around) * unit[:, None])  # a row per objective

    def draw(self, uniform: Floats, normal: Floats) -> Floats:
        """Values [D, N, 2] from uniform [D, N] and independent normal [D, N, 2] numbers."""
        rows = np.arange(len(self.shares))
        component = np.searchsorted((self.shares + rows[:, None]).ravel(), uniform + rows) - rows * self.shares.shape[1]
        component = component.clip(0, self.shares.shape[1] - 1)  # sums of shares end near 1
        result: Floats = self.means[rows, component]
        result[..., 0] += self.roots[..., 0, 0][rows, component] * normal[..., 0]
        result[..., 1] += self.roots[..., 1, 0][rows, component] * normal[..., 0]
        result[..., 1] += self.roots[..., 1, 1][rows, component] * normal[..., 1]
        return result


def _expected(
    x: Floats, noise: Floats, weights: Floats, means: Floats, covariances: Floats
) -> tuple[Floats, Floats, Floats]:
    """The E step, equations 15 and 16 of the paper: shares [N, K], means [N, K, 2] and covariances [N, K, 2, 2] of the
    true values, given the component."""
    total = covariances + noise[:, None]  # [N, K, 2, 2]
    gain = covariances @ np.linalg.inv(total)
    off = x[:, None] - means
    distance = (off[..., None, :] @ np.linalg.solve(total, off[..., None]))[..., 0, 0]
    with np.errstate(divide="ignore"):  # a component may have lost all its weight
        log = np.log(weights) - 0.5 * (distance + np.linalg.slogdet(total)[1])
    shares = np.exp(log - log.max(axis=1, keepdims=True))
    centres = means + (gain @ off[..., None])[..., 0]
    return shares / shares.sum(axis=1, keepdims=True), centres, gain @ noise[:, None]


def _parts(x: Floats, count: int) -> list[NDArray[np.int64]]:
    """Rows in `count` groups to begin with: the group that spreads most is halved along its main axis."""
    groups = [np.arange(len(x))]
    while len(groups) < count:
        spread = [len(group) * np.linalg.eigvalsh(_covariance(x[group]))[-1] for group in groups]
        group = groups.pop(int(np.argmax([s if len(g) > 3 else -1.0 for s, g in zip(spread, groups, strict=True)])))
        axis = np.linalg.eigh(_covariance(x[group]))[1][:, -1]
        order = group[np.argsort(x[group] @ axis, kind="stable")]
        groups += [order[: len(order) // 2], order[len(order) // 2 :]]
    return groups


def _covariance(x: Floats) -> Floats:
    return np.asarray(np.cov(x.T, bias=True) + LEAST * np.eye(2))


def _roots(covariances: Floats) -> Floats:
    """Cholesky's factors; what rounding makes negative counts as 0."""
    result = np.zeros_like(covariances)
    first = np.sqrt(covariances[..., 0, 0].clip(1e-300))
    result[..., 0, 0], result[..., 1, 0] = first, covariances[..., 1, 0] / first
    result[..., 1, 1] = np.sqrt((covariances[..., 1, 1] - result[..., 1, 0] ** 2).clip(0.0))
    return result
