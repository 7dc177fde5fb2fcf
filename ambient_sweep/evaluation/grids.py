"""Pictures of many images."""

import io

import torch
from PIL import Image

from ambient_sweep.data.pixels import to_uint8

TILE = 48  # pixels that an image is wide at least; smaller ones are enlarged by a whole factor
GAP = 4  # pixels between images


def image_grid(images: torch.Tensor, columns: int) -> bytes:
    """A PNG file with images [N, C, H, W] in [-1, 1] (C = 1 or 3), clipped, row by row on white."""
    from torchvision.utils import make_grid

    factor = max(1, -(-TILE // images.shape[3]))
    large = to_uint8(images.double()).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(large, columns, padding=GAP, pad_value=255)
    buffer = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
