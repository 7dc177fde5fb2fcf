"""A small U-Net of the DDPM++/ADM family: residual blocks modulated by the noise level, attention at the bottom."""

import torch
from torch import nn
from torch.nn import functional as F

from ambient_sweep.models.embedding import NoiseEmbedding


def _groups(channels: int) -> int:
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels // g >= 4)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(channels), channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * out_channels)
        self.norm2 = nn.GroupNorm(_groups(out_channels), out_channels, affine=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        output: torch.Tensor = self.skip(x) + h
        return output


class _Attention(nn.Module):
    """Self-attention over the pixels of the lowest resolution, one head per 64 channels at most."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(
            h for h in range(1, channels // 8 + 1) if channels % h == 0 and channels // h >= min(64, channels)
        )
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, c, h, w)
        output: torch.Tensor = x + self.out(y)
        return output


class UNet(nn.Module):
    """x [N,C,H,W], c_noise [N] -> [N,C,H,W]; H and W multiples of 2^(levels-1); width times 1, 2, 4, 4, ... per level."""

    def __init__(self, channels: int, width: int, blocks: int, levels: int) -> None:
        super().__init__()
        widths = [width * min(2**level, 4) for level in range(levels)]
        embedding = 2 * width
        self.embedding = NoiseEmbedding(embedding)
        self.inlet = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList()
        skips, current = [width], width
        for w in widths:
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(_ResidualBlock(current, w, embedding))
                current = w
                skips.append(w)
            self.down.append(stage)
        self.middle1 = _ResidualBlock(current, current, embedding)
        self.attention = _Attention(current)
        self.middle2 = _ResidualBlock(current, current, embedding)
        self.up = nn.ModuleList()
        for level in reversed(range(levels)):
            stage = nn.ModuleList()
            for _ in range(blocks + (level == 0)):  # one skip for each down block, and the inlet's
                stage.append(_ResidualBlock(current + skips.pop(), widths[level], embedding))
                current = widths[level]
            self.up.append(stage)
        self.norm = nn.GroupNorm(_groups(current), current)
        self.outlet = nn.Conv2d(current, channels, 3, padding=1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        embedding = self.embedding(c_noise)
        h = self.inlet(x)
        skips = [h]
        for level, stage in enumerate(self.down):
            if level > 0:
                h = F.avg_pool2d(h, 2)
            for block in stage:  # type: ignore[attr-defined]
                h = block(h, embedding)
                skips.append(h)
        h = self.middle2(self.attention(self.middle1(h, embedding)), embedding)
        for level, stage in enumerate(self.up):
            if level > 0:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
            for block in stage:  # type: ignore[attr-defined]
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        output: torch.Tensor = self.outlet(F.silu(self.norm(h)))
        return output
