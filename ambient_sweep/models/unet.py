"""A U-Net of the family that EDM trains: DDPM++ (arXiv 2011.13456) and ADM (2105.05233), as EDM (2206.00364) joins them.

Residual blocks whose second group norm is modulated by the noise level and class (ADM's adaptive group norm), resampling
inside the blocks by box filters, self-attention at chosen resolutions and in the middle, the last layer of every branch 0
at first. Nothing draws random numbers: no dropout.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from ambient_sweep.models.network import Network, NoiseEmbedding, unit_, zero_

Resample = Literal["none", "down", "up"]


def groups(channels: int) -> int:
    """Groups of a group norm: 32 at most, each of 4 channels or more."""
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels // g >= 4)


def heads(channels: int, head_width: int) -> int:
    """Most attention heads of equal width that are at least `head_width` wide, or one."""
    return max(h for h in range(1, channels + 1) if channels % h == 0 and channels // h >= min(head_width, channels))


class Attention(nn.Module):
    """Self-attention among the pixels of x [N,C,H,W], added to x; blind to where the pixels lie."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads(channels, head_width)
        self.norm = nn.GroupNorm(groups(channels), channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [N,HW,C], without a copy if channels come last in memory
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        output: torch.Tensor = x + self.out(y).transpose(1, 2).unflatten(2, x.shape[2:])
        return output


class Block(nn.Module):
    """Residual block, channels -> out_channels, to half or twice the side where it resamples; then attention if asked."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        resample: Resample = "none",
        head_width: int | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups(channels), channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * out_channels)
        self.norm2 = nn.GroupNorm(groups(out_channels), out_channels, affine=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        self.attention = nn.Identity() if head_width is None else Attention(out_channels, head_width)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv1(_resampled(F.silu(self.norm1(x)), self.resample))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        x = self.skip(_resampled(x, self.resample)) + h
        output: torch.Tensor = self.attention(x)
        return output


class UNet(Network):
    """A Network for images of `shape`; height and width multiples of 2^(levels - 1), levels = len(multipliers).

    Per resolution `blocks` residual blocks on the way down and blocks + 1 on the way up, of width times its multiplier.
    Where the height is in `attention`, it follows every block on the way down and the last one on the way up (DDPM++).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        blocks: int,
        multipliers: Sequence[int],
        attention: Sequence[int] = (),
        head_width: int = 64,
        classes: int = 0,
    ) -> None:
        super().__init__()
        widths = [width * m for m in multipliers]
        attending = [head_width if shape[1] // 2**level in attention else None for level in range(len(widths))]
        features = max(widths)
        self.embedding = NoiseEmbedding(features, classes)
        self.inlet = nn.Conv2d(shape[0], width, 3, padding=1)
        self.down = nn.ModuleList()
        current, skips = width, [width]
        for level, (w, head) in enumerate(zip(widths, attending, strict=True)):
            if level > 0:
                self.down.append(Block(current, current, features, "down"))
                skips.append(current)
            for _ in range(blocks):
                self.down.append(Block(current, w, features, head_width=head))
                current = w
                skips.append(current)
        self.middle = nn.ModuleList(
            [Block(current, current, features, head_width=head_width), Block(current, current, features)]
        )
        self.up = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for i in range(blocks + 1):
                head = attending[level] if i == blocks else None
                self.up.append(Block(current + skips.pop(), widths[level], features, head_width=head))
                current = widths[level]
            if level > 0:
                self.up.append(Block(current, current, features, "up"))
        self.norm = nn.GroupNorm(groups(current), current)
        self.outlet = nn.Conv2d(current, shape[0], 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                unit_(module)
        for module in self.modules():
            if isinstance(module, Block):
                zero_(module.conv2)
            elif isinstance(module, Attention):
                zero_(module.out)
        zero_(self.outlet)

    def blocks_to_wrap(self) -> list[nn.Module]:
        return [*self.down, *self.middle, *self.up]

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        embedding = self.embedding(c_noise, labels)
        h = self.inlet(x)
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        for block in self.middle:
            h = block(h, embedding)
        for block in self.up:
            h = block(h if block.resample == "up" else torch.cat([h, skips.pop()], dim=1), embedding)
        output: torch.Tensor = self.outlet(F.silu(self.norm(h)))
        return output


def _resampled(x: torch.Tensor, how: Resample) -> torch.Tensor:
    """x [N,C,H,W] at half the side (mean of 2x2), at twice the side (each pixel repeated), or as it is."""
    if how == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest") if how == "up" else x
