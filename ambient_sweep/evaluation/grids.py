"""Pictures of many images."""

import io

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch.nn.functional import pad

from ambient_sweep import rng
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.diffusion.loss import DenoiserFn

TILE = 48  # pixels that an image is wide at least; smaller ones are enlarged by a whole factor
GAP = 4  # pixels between images
LABEL = 12  # pixels of a line of text
PAIRS = "Each sample above the training image nearest to it"
LEAST, FACTORS = 0.1, (1, 2, 4, 8)  # noise levels of `denoising_grid`


def image_grid(images: torch.Tensor, columns: int) -> bytes:
    """A PNG file with images [N, C, H, W] in [-1, 1] (C = 1 or 3), clipped, row by row on white."""
    return _png(_grid(images, columns))


def pair_grid(
    samples: torch.Tensor, nearest: torch.Tensor, distances: torch.Tensor, heldout: torch.Tensor, quantile: float,
    columns: int,
) -> bytes:  # fmt: skip
    """A PNG file with samples above the training images nearest to them, each [N, C, H, W], and the distances [N].

    Those below the `quantile` of held-out images' distances [M] are red; the text `Description` says so, with its value.
    """
    near, median = np.quantile(heldout.cpu().numpy(), (quantile, 0.5), method="weibull")
    picture = _grid(torch.cat([samples, nearest], dim=2), columns, below=LABEL)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(LABEL)
    across = (picture.width - GAP) // min(columns, len(samples))
    down = (picture.height - GAP) // -(-len(samples) // columns)
    for i, distance in enumerate(distances.tolist()):
        place = (i % columns * across + (GAP + across) / 2, (i // columns + 1) * down)
        draw.text(place, f"{distance:.2f}", "red" if distance < near else "black", font, anchor="ms")
    null = f"Of held-out images, {100 * quantile:.3g} % are nearer than {near:.2f} (red here), half nearer than {median:.2f}."
    return _png(picture, f"{PAIRS}, and its distance (L2 of thumbnails, 16x16 at most). {null}")


def _grid(images: torch.Tensor, columns: int, below: int = 0) -> Image.Image:
    """below: white pixels under each image."""
    from torchvision.utils import make_grid

    factor = max(1, -(-TILE // images.shape[3]))
    large = to_uint8(images.double()).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(pad(large, (0, 0, 0, below), value=255), columns, padding=GAP, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def _png(picture: Image.Image, description: str = "") -> bytes:
    buffer, info = io.BytesIO(), PngInfo()
    if description:
        info.add_text("Description", description)
    picture.save(buffer, format="PNG", pnginfo=info)
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
