"""The worst cases of an attack as one picture: the best restored training images, above the best restored held-out ones."""

import io

import torch
from PIL import Image

from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.evaluation.attack.extraction import Result

TILE = 48  # pixels that an image has at least; smaller ones are enlarged by a whole factor


def worst_cases(result: Result) -> bytes:
    """A PNG file: rows of originals, damaged and restored training images, a gap, and the same of held-out images."""
    from torchvision.utils import make_grid

    images = torch.cat([*result.train, torch.ones_like(result.train[0]), *result.heldout]).clamp(-1, 1)
    factor = max(1, -(-TILE // max(images.shape[-2:])))
    large = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(large, nrow=len(result.train[0]), padding=4, pad_value=1)
    buffer = io.BytesIO()
    pixels = to_uint8(grid).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
