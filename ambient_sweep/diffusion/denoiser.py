"""EDM preconditioning (arXiv 2206.00364, section 5, table 1) around any network."""

import torch
from torch import nn

from ambient_sweep.diffusion.noise import expand


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), an estimate of E[x_0 | x_t = x].

    `network(x [N,C,H,W], c_noise [N]) -> [N,C,H,W]`. At sigma = 0, D(x, 0) = x exactly.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x [N,C,H,W] and sigma [N] to the denoised image [N,C,H,W]."""
        s = expand(sigma)
        total = (s**2 + self.sigma_data**2).sqrt()
        c_skip = self.sigma_data**2 / total**2
        c_out = s * self.sigma_data / total
        c_noise = sigma.clamp_min(1e-20).log() / 4
        output: torch.Tensor = c_skip * x + c_out * self.network(x / total, c_noise)
        return output


def edm_weight(sigma: torch.Tensor, sigma_data: float) -> torch.Tensor:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (EDM, table 1), [N]."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
