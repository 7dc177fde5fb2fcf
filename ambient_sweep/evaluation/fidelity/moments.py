"""Mean and scatter of features, gathered in parts: over batches, and over workers."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.fidelity.frechet import Statistics


@dataclass
class Moments:
    """n, mean [D] and scatter [D, D], the sum of (x - mean)(x - mean)^T, of features seen so far; float64."""

    n: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    scatter: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Of features [n, D] in one pass. Raises AmbientSweepError for non-finite ones."""
        x = features.double()
        if not x.isfinite().all():
            raise AmbientSweepError("a Frechet distance needs finite features; the encoder gave others")
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def update(self, features: Tensor) -> None:
        """Takes further features [n, D]."""
        if len(features):
            self.merge(Moments.of(features))

    def merge(self, other: "Moments") -> None:
        """Takes what another has seen (Chan, Golub and LeVeque 1979)."""
        if other.n == 0:
            return
        if self.n == 0:
            self.n, self.mean, self.scatter = other.n, other.mean.clone(), other.scatter.clone()
            return
        n = self.n + other.n
        shift = other.mean - self.mean
        self.scatter += other.scatter + (self.n * other.n / n) * torch.outer(shift, shift)
        self.mean += shift * (other.n / n)
        self.n = n

    def to_statistics(self) -> Statistics:
        """Mean and root of the covariance over n - 1. Raises AmbientSweepError for fewer than two features."""
        if self.n < 2:
            raise AmbientSweepError(f"a Frechet distance needs at least 2 images, not {self.n}")
        values, vectors = torch.linalg.eigh(self.scatter / (self.n - 1))
        kept = (
            values > values[-1].clamp(min=0) * len(values) * torch.finfo(torch.float64).eps
        )  # the others are rounding
        return Statistics(self.mean, values[kept].sqrt()[:, None] * vectors.T[kept], self.n)
