"""Mean and scatter of features, gathered in parts: over batches, and over workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ambient_sweep.errors import AmbientSweepError
from ambient_sweep.evaluation.fidelity.frechet import Statistics


def _empty(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


@dataclass(eq=False)
class Moments:
    """n, mean [D] and scatter [D, D], the sum of (x - mean)(x - mean)^T, of the features seen so far; float64."""

    n: int = 0
    mean: Tensor = field(default_factory=lambda: _empty(0))
    scatter: Tensor = field(default_factory=lambda: _empty(0, 0))

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Of features [n, D] in one pass. Raises AmbientSweepError for non-finite ones."""
        if not len(features):
            return cls()
        x = features.double()
        if not x.isfinite().all():
            raise AmbientSweepError("a Frechet distance needs finite features; the encoder gave others")
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def update(self, features: Tensor) -> None:
        """Takes further features [n, D], n >= 0."""
        self.merge(Moments.of(features))

    def merge(self, other: "Moments") -> None:
        """Takes what another has seen (Chan, Golub and LeVeque 1979)."""
        if other.n == 0:
            return
        if self.n == 0:
            self.n, self.mean, self.scatter = other.n, other.mean.clone(), other.scatter.clone()
            return
        n = self.n + other.n
        shift = other.mean.to(self.mean) - self.mean
        self.scatter += other.scatter.to(self.scatter)
        self.scatter += torch.outer(shift, shift * (self.n * other.n / n))
        self.mean += shift * (other.n / n)
        self.n = n

    def to_statistics(self) -> Statistics:
        """Mean and a root of the covariance over n - 1. Raises AmbientSweepError for fewer than two features."""
        if self.n < 2:
            raise AmbientSweepError(f"a Frechet distance needs at least 2 images, not {self.n}")
        covariance = self.scatter / (self.n - 1)
        if self.n > len(covariance):
            root, failed = torch.linalg.cholesky_ex(covariance, upper=True)
            if not failed:
                return Statistics(self.mean.clone(), root, self.n)
        values, vectors = torch.linalg.eigh(
            covariance
        )  # of deficient rank: fewer images than features, or constant ones
        kept = (
            values > values[-1] * len(values) * torch.finfo(torch.float64).eps
        )  # the others are zeros, but for rounding
        return Statistics(self.mean.clone(), values[kept].sqrt()[:, None] * vectors.T[kept], self.n)

    def to_tensors(self) -> dict[str, Tensor]:
        """Named tensors, as safetensors and collectives take them."""
        return {"n": torch.tensor(self.n), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Moments":
        """What `to_tensors` gave."""
        return cls(int(tensors["n"]), tensors["mean"].clone(), tensors["scatter"].clone())
