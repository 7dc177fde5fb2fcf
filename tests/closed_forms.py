"""Distributions whose posterior mean E[x_0 | x_t] is known exactly."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mixture:
    """An equal mixture of isotropic Gaussians: means [K, D], one standard deviation. Images are [N,1,1,D]."""

    means: torch.Tensor
    std: float

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        mode = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return (self.means[mode] + self.std * noise)[:, None, None, :]

    def posterior_mean(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """E[x_0 | x_0 + sigma n = x], from Bayes' rule, [N,1,1,D]."""
        flat, level = x.flatten(1), sigma[:, None] ** 2
        total = self.std**2 + level
        distance = ((flat[:, None] - self.means) ** 2).sum(2)
        share = torch.softmax(-distance / (2 * total), dim=1)
        per_mode = (self.std**2 * flat[:, None] + level[:, None] * self.means) / total[:, None]
        return (share[:, :, None] * per_mode).sum(1).view_as(x)


def two_modes() -> Mixture:
    return Mixture(torch.tensor([[0.6, -0.3], [-0.5, 0.4]], dtype=torch.float64), 0.25)


def six_modes() -> Mixture:
    """Six well separated modes in eight dimensions."""
    generator = torch.Generator().manual_seed(7)
    return Mixture(torch.rand(6, 8, generator=generator, dtype=torch.float64) * 1.4 - 0.7, 0.15)


def denoising_error(denoiser, mixture: Mixture, sigma: float, count: int = 4000) -> float:
    """E || D(x_t, sigma) - E[x_0 | x_t] ||^2 over the posterior variance E || x_0 - E[x_0 | x_t] ||^2."""
    generator = torch.Generator().manual_seed(9)
    x0 = mixture.draw(count, generator)
    x = x0 + sigma * torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    level = torch.full((count,), sigma, dtype=x0.dtype)
    exact = mixture.posterior_mean(x, level)
    with torch.no_grad():
        estimate = denoiser(x.float(), level.float())
    return float(((estimate - exact) ** 2).mean() / ((x0 - exact) ** 2).mean())


def gaussian(std: float = 0.5) -> Mixture:
    return Mixture(torch.zeros(1, 2, dtype=torch.float64), std)


def standard_errors(values: torch.Tensor) -> float:
    """How many standard errors the mean of independent values [N] is from 0."""
    return float(values.mean().abs() / (values.std() / len(values) ** 0.5))


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two samples [N,...] (Szekely and Rizzo), unbiased: 0 for equal distributions."""

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        apart = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        return apart.sum() / (len(a) * (len(b) - (a is b)))

    x, y = x.double().flatten(1), y.double().flatten(1)
    return float(2 * distance(x, y) - distance(x, x) - distance(y, y))
