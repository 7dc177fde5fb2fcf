"""Between what a model works on and pixels: nothing, or the VAE of a latent model."""

from collections.abc import Callable

from torch import Tensor

from ambient_sweep.config import Config
from ambient_sweep.latent.codec import codec_of
from ambient_sweep.models import base_of

Decode = Callable[[Tensor], Tensor]  # float [N, C, h, w] -> images float [N, C, H, W] in [-1, 1]


def as_pixels(images: Tensor) -> Tensor:
    """Images as they are: of a model of pixels."""
    return images


def coding(config: Config, device: str) -> tuple[Decode, Decode]:
    """What makes of images in [-1, 1] that which the model of `config` works on, and the way back, as `Codec` has them."""
    if config.model.kind != "lora":
        return as_pixels, as_pixels
    codec = codec_of(base_of(config.model), device)
    return codec.encode, codec.decode
