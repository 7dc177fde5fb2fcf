"""A diffusion transformer (DiT, arXiv 2212.09748) on pixels, of timm's attention and MLP with adaLN-Zero modulation."""

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from torch import nn

from ambient_sweep.models.network import Network, NoiseEmbedding, unit_, zero_


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class Block(nn.Module):
    """tokens [N,T,width], embedding [N,width] -> [N,T,width]; the identity at first (DiT, section 3.2, adaLN-Zero)."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.attention = Attention(width, num_heads=width // head_width, qkv_bias=True)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, tokens: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=2)
        tokens = tokens + gate1 * self.attention(self.norm1(tokens) * (1 + scale1) + shift1)
        output: torch.Tensor = tokens + gate2 * self.mlp(self.norm2(tokens) * (1 + scale2) + shift2)
        return output


class DiT(Network):
    """A Network for images of `shape` cut into squares of `patch` pixels; fixed sine-cosine positions; no dropout."""

    positions: torch.Tensor

    def __init__(
        self, shape: tuple[int, int, int], width: int, blocks: int, patch: int, head_width: int = 64, classes: int = 0
    ) -> None:
        super().__init__()
        channels, height, width_in_pixels = shape
        self.patch = patch
        self.grid = (height // patch, width_in_pixels // patch)
        self.register_buffer("positions", build_sincos2d_pos_embed(list(self.grid), width), persistent=False)
        self.embedding = NoiseEmbedding(width, classes)
        self.inlet = nn.Linear(channels * patch**2, width)
        self.blocks = nn.ModuleList(Block(width, head_width) for _ in range(blocks))
        self.norm = _norm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.outlet = nn.Linear(width, channels * patch**2)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in (self.inlet, *self.embedding.mlp):
            if isinstance(module, nn.Linear):
                unit_(module)
        for module in self.modules():
            if isinstance(module, Block | DiT):
                zero_(module.modulation)
        zero_(self.outlet)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        embedding = self.embedding(c_noise, labels)
        tokens = self.inlet(patches(x, self.patch)) + self.positions
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=2)
        return picture(self.outlet(self.norm(tokens) * (1 + scale) + shift), self.grid, self.patch)


def patches(x: torch.Tensor, patch: int) -> torch.Tensor:
    """[N,C,H,W] to [N,T,C patch^2], the T patches row by row."""
    return nn.functional.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2).contiguous()


def picture(tokens: torch.Tensor, grid: tuple[int, int], patch: int) -> torch.Tensor:
    """The inverse of `patches`, for a `grid` of rows and columns of patches."""
    return nn.functional.pixel_shuffle(tokens.transpose(1, 2).reshape(len(tokens), -1, *grid), patch)
