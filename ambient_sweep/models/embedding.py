"""The noise level as features."""

import torch
from torch import nn


class NoiseEmbedding(nn.Module):
    """c_noise [N] to [N, width]: sines and cosines of geometric frequencies, then a small MLP."""

    frequencies: torch.Tensor

    def __init__(self, width: int, frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-2, 4, frequencies), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:
        angles = c_noise[:, None] * self.frequencies
        output: torch.Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))
        return output
