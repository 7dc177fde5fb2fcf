"""Pictures of many images."""

import io

import torch
from PIL import Image

from ambient_sweep import rng
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.diffusion.loss import DenoiserFn

TILE = 48  # pixels that an image is wide at least; smaller ones are enlarged by a whole factor
GAP = 4  # pixels between images
LEAST, FACTORS = 0.1, (1, 2, 4, 8)  # noise levels of `denoising_grid`


def image_grid(images: torch.Tensor, columns: int) -> bytes:
    """A PNG file with images [N, C, H, W] in [-1, 1] (C = 1 or 3), clipped, row by row on white."""
    from torchvision.utils import make_grid

    factor = max(1, -(-TILE // images.shape[3]))
    large = to_uint8(images.double()).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(large, columns, padding=GAP, pad_value=255)
    buffer = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


@torch.no_grad()
def denoising_grid(denoiser: DenoiserFn, y: torch.Tensor, sigma_n: torch.Tensor) -> bytes:
    """A PNG file: per factor a row of observations at so many times their level, and a row of them denoised.

    y [N, C, H, W] has noise levels sigma_n [N], raised to LEAST where they are below; the noise is the same in every call.
    """
    noise = rng.normal("denoising_grid", 0, range(len(y)), y.shape[1:]).to(y)
    rows = []
    for factor in FACTORS:
        sigma = factor * sigma_n.clamp(min=LEAST)
        x = y + (sigma.square() - sigma_n.square()).clamp(min=0).sqrt()[:, None, None, None] * noise
        rows += [x, denoiser(x, sigma)]
    return image_grid(torch.cat(rows).cpu(), len(y))
