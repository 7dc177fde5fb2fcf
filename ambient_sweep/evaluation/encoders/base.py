"""What the encoders share: the interface, batches, resizing, normalisation. N images of C channels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_sweep.errors import UserError

PIXELS_LIMIT = 3 * 64 * 64


class Encoder(Protocol):
    """Images uint8 [N, C, H, W] -> features float32 [N, D] on its device.

    name: encoder and input size, as it stands beside a value. batch: how many images fit into modest memory at a time; an
    image's features depend on the others by rounding alone.
    """

    name: str
    batch: int

    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass
class NetworkEncoder:
    """Images resized to `size` px (`resized`) and normalised, from 0..255, then put through a network."""

    name: str
    batch: int
    network: Any
    size: int
    mode: Literal["bilinear", "bicubic"]
    normalise: Callable[[Tensor], Tensor]
    device: str
    layout: torch.memory_format = torch.contiguous_format

    def __post_init__(self) -> None:
        self.network.to(self.device, memory_format=self.layout)

    def __call__(self, images: Tensor) -> Tensor:
        x = self.normalise(resized(images, self.size, self.mode))
        features: Tensor = self.network(x.contiguous(memory_format=self.layout))
        return features.float()


class PixelEncoder:
    """The native pixels in [-1, 1], flattened, for small images. Raises UserError for images of more than 12,288 values."""

    name = "pixels"
    batch = 4096

    def __call__(self, images: Tensor) -> Tensor:
        if images[0].numel() > PIXELS_LIMIT:
            raise UserError(
                f"evaluation.distances: fd_pixels takes at most {PIXELS_LIMIT} values per image, these have "
                f"{images[0].numel()}; use fd_lite0@64 or fd_lite0@224"
            )
        return images.flatten(1).float() / 127.5 - 1


def resized(images: Tensor, size: int, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """Images uint8 [N, C, H, W] as float32 [N, 3, size, size] in 0..255; antialiased, not rounded, grey repeated.

    Bicubic is Pillow's filter on floats, clipped, as in clean-fid's resize (Parmar et al. 2022): equal to it within 1e-4.
    """
    if mode == "bilinear":
        x = F.interpolate(images.float(), (size, size), mode=mode, antialias=True)
    else:  # in float64, which takes much memory, hence one by one
        parts = (
            F.interpolate(image.double(), (size, size), mode=mode, antialias=True) for image in torch.split(images, 1)
        )
        x = torch.cat([part.float() for part in parts]).clamp_(0, 255)
    return x.expand(-1, 3, -1, -1)


def imagenet_normalised(x: Tensor) -> Tensor:
    """x [N, 3, H, W] in 0..255 as (x / 255 - mean) / deviation of ImageNet's channels."""
    mean, deviation = (x.new_tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (x / 255 - mean) / deviation
