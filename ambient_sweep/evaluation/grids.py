"""Pictures of many images."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch.nn.functional import adaptive_avg_pool2d, pad

from ambient_sweep import rng
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.evaluation.decoding import Decode, as_pixels

Labels = Sequence[tuple[str, str]]
TILE, MOST = 48, 256  # pixels that an image is wide at least, enlarged by a whole factor, and at most
GAP = 4  # pixels between images
LABEL = 12  # pixels of a line of text
PAIRED = 16  # pairs in a row
PAIRS = "Each sample above the training image nearest to it"
LEAST, FACTORS = 0.1, (1, 2, 4, 8)  # noise levels of `denoising_grid`


def image_grid(images: torch.Tensor, columns: int, labels: Labels = (), description: str = "") -> bytes:
    """A PNG file with images [N, C, H, W] in [-1, 1] (C = 1 or 3), clipped, row by row on white; shrunk to MOST pixels.

    labels: below each, a text and its colour; description: a text in the file.
    """
    from torchvision.utils import make_grid

    if images.shape[3] > MOST:
        images = adaptive_avg_pool2d(images, (images.shape[2] * MOST // images.shape[3], MOST))
    factor = max(1, -(-TILE // images.shape[3]))
    large = to_uint8(images.double()).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    large = pad(large, (0, 0, 0, LABEL if labels else 0), value=255)
    grid = Image.fromarray(make_grid(large, columns, padding=GAP, pad_value=255).permute(1, 2, 0).numpy())
    down, across = (side + GAP for side in large.shape[2:])
    for i, (text, colour) in enumerate(labels):
        place = ((i % columns + 0.5) * across + GAP / 2, (i // columns + 1) * down)
        ImageDraw.Draw(grid).text(place, text, colour, ImageFont.load_default(LABEL), anchor="ms")
    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("Description", description)
    grid.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def pair_grid(pairs: torch.Tensor, distances: torch.Tensor, heldout: torch.Tensor, quantile: float) -> bytes:
    """A PNG file with samples above the training images nearest to them, [N, C, 2 H, W], and their distances [N, 1].

    Those below the `quantile` of held-out images' distances [M] are red; the file's description says so.
    """
    near, median = np.quantile(heldout.cpu().numpy(), (quantile, 0.5), method="weibull")
    labels = [(f"{distance:.2f}", "red" if distance < near else "black") for distance in distances[:, 0].tolist()]
    null = (
        f"Of held-out images, {100 * quantile:.3g} % are nearer than {near:.2f} (red), half nearer than {median:.2f}."
    )
    return image_grid(pairs, PAIRED, labels, f"{PAIRS}, and its distance (L2 of thumbnails, 16x16 at most). {null}")


@torch.no_grad()
def denoising_grid(denoiser: DenoiserFn, y: torch.Tensor, sigma_n: torch.Tensor, decode: Decode = as_pixels) -> bytes:
    """A PNG file: per factor a row of observations at so many times their level, and a row of them denoised.

    y [N, C, H, W] has noise levels sigma_n [N], raised to LEAST where they are below; the noise is the same in every call.
    """
    noise = rng.normal("denoising_grid", 0, range(len(y)), y.shape[1:]).to(y)
    rows = []
    for factor in FACTORS:
        sigma = factor * sigma_n.clamp(min=LEAST)
        x = y + (sigma.square() - sigma_n.square()).clamp(min=0).sqrt()[:, None, None, None] * noise
        rows += [x, denoiser(x, sigma)]
    return image_grid(decode(torch.cat(rows).cpu()), len(y))
