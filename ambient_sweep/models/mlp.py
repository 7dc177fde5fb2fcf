"""A residual MLP on flattened images: cheap, for images of a few hundred values."""

import math

import torch
from torch import nn

from ambient_sweep.models.network import Network, NoiseEmbedding, zero_


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        zero_(self.down)

    def forward(self, h: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        inner = self.norm(h) * (1 + scale) + shift
        output: torch.Tensor = h + self.down(nn.functional.silu(self.up(inner)))
        return output


class ResidualMLP(Network):
    """A Network of `blocks` residual blocks of `width`, modulated by the noise level and class."""

    def __init__(self, shape: tuple[int, int, int], width: int, blocks: int, classes: int = 0) -> None:
        super().__init__()
        size = math.prod(shape)
        self.embedding = NoiseEmbedding(width, classes)
        self.inlet = nn.Linear(size, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.outlet = nn.Linear(width, size)
        zero_(self.outlet)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        embedding = self.embedding(c_noise, labels)
        h = self.inlet(x.flatten(1))
        for block in self.blocks:
            h = block(h, embedding)
        output: torch.Tensor = self.outlet(h).view(x.shape)
        return output
