"""From what a network predicts to D(x, sigma) = c_skip x + c_out F(x / scale, c_noise), and the weight that goes with it.

Latent models diffuse x_t = alpha x_0 + s n. x_t / alpha is variance exploding at sigma = s / alpha, so that only these
scalings tell one process from another (EDM, arXiv 2206.00364, table 1).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch


class Coefficients(NamedTuple):
    """Each [N], in the precision of sigma."""

    c_skip: torch.Tensor
    c_out: torch.Tensor
    scale: torch.Tensor
    c_noise: torch.Tensor


class Scaling(Protocol):
    def coefficients(self, sigma: torch.Tensor) -> Coefficients:
        """For sigma [N]; at sigma = 0, c_skip is 1 and c_out 0, exactly."""

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """lambda(sigma), [N], under which the error of D is the one that the network is published with."""


@dataclass(frozen=True)
class Edm:
    """F of unit variance at all levels (EDM, table 1); c_noise = log(sigma) / 4."""

    sigma_data: float

    def coefficients(self, sigma: torch.Tensor) -> Coefficients:
        total = (sigma**2 + self.sigma_data**2).sqrt()
        c_skip = 1 / (1 + (sigma / self.sigma_data) ** 2)  # exactly 1 at sigma = 0: sigma_data^2 / total^2 may miss it
        return Coefficients(c_skip, sigma * self.sigma_data / total, total, sigma.clamp_min(1e-20).log() / 4)

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclass(frozen=True)
class Noise:
    """F is the noise (DDPM, arXiv 2006.11239), c_noise the timestep, between the levels `sigmas` of timesteps 0, 1, ...

    With this scaling the ambient loss is || z - (1 - r)^(1/2) F ||^2, as arXiv 2404.10177 trains SDXL.
    """

    sigmas: tuple[float, ...]  # rising

    def coefficients(self, sigma: torch.Tensor) -> Coefficients:
        return Coefficients(torch.ones_like(sigma), -sigma, (1 + sigma**2).sqrt(), timestep(sigma, self.sigmas))

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        return 1 / sigma**2


@dataclass(frozen=True)
class Velocity:
    """F is v = alpha n - s x_0 (arXiv 2202.00512) of a variance preserving process: EDM with sigma_data 1 and F = -v."""

    sigmas: tuple[float, ...]  # rising

    def coefficients(self, sigma: torch.Tensor) -> Coefficients:
        total = (1 + sigma**2).sqrt()
        return Coefficients(1 / (1 + sigma**2), -sigma / total, total, timestep(sigma, self.sigmas))

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        return (1 + sigma**2) / sigma**2


@dataclass(frozen=True)
class Flow:
    """F is n - x_0, the velocity of a rectified flow (arXiv 2403.03206): t = sigma / (1 + sigma), c_noise = `steps` t."""

    steps: int = 1000

    def coefficients(self, sigma: torch.Tensor) -> Coefficients:
        t = sigma / (1 + sigma)
        return Coefficients(1 / (1 + sigma), -t, 1 + sigma, self.steps * t)

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        return ((1 + sigma) / sigma) ** 2


def timestep(sigma: torch.Tensor, sigmas: tuple[float, ...]) -> torch.Tensor:
    """The timestep of sigma [N] in a table, linear in log sigma between its levels, as in diffusers; held within it."""
    table = torch.tensor(sigmas, dtype=torch.float64).log().to(sigma)
    level = sigma.clamp_min(1e-20).log()
    low = (torch.searchsorted(table, level, right=True) - 1).clamp(0, len(sigmas) - 2)
    return low + ((level - table[low]) / (table[low + 1] - table[low])).clamp(0, 1)
