"""Samples as image files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ambient_sweep.data.pixels import to_uint8


def write_images(images: Any, folder: Path) -> None:
    """images [N,C,H,W] in [-1, 1] (C = 1 or 3), clipped and rounded to 8 bits, as PNG files sample-000000.png ..."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = to_uint8(torch.from_numpy(np.asarray(images, dtype=np.float64))).numpy()
    for number, image in enumerate(pixels.transpose(0, 2, 3, 1)):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / f"sample-{number:06d}.png")
