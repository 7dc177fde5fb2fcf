"""The VAE of a base: images to latents and back, in float32 and in parts, which half precision would overflow."""

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ambient_sweep.errors import UserError
from ambient_sweep.latent.base import Base
from ambient_sweep.latent.components import load

PART = 2**20  # pixels of images that the VAE takes at once, or one image


class Codec:
    """x_0 = `scale` (E[z | image] - `shift`), E[z | image] the mean of the VAE's posterior, and the way back."""

    def __init__(self, base: Base, device: str = "cpu") -> None:
        from diffusers import AutoencoderKL

        self.base, self.device = base, device
        self.vae = load(AutoencoderKL, base.vae).to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, images: Tensor, names: Sequence[str] = ()) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1] to latents [N, C, H / factor, W / factor], float32 on the CPU.

        Raises UserError, which names the image, for a latent that is not finite.
        """
        means = [self.vae.encode(part).latent_dist.mean.cpu() for part in self._parts(images, 1)]
        latents = ((torch.cat(means) - self.base.shift) * self.base.scale).contiguous()
        broken = (~latents.isfinite()).flatten(1).any(1).nonzero()
        if len(broken):
            name = names[int(broken[0])] if names else f"image {int(broken[0])}"
            cure = "its weights are broken, or an fp16 VAE that overflows; save the base with a VAE in float32"
            raise UserError(f"{name}: {self.base.vae} makes a latent of it that is not finite: {cure}")
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [N, C, h, w] to images [N, 3, H, W], float32 on the CPU; those in [-1, 1] are colours."""
        parts = self._parts(latents / self.base.scale + self.base.shift, self.base.factor)
        return torch.cat([self.vae.decode(part).sample.cpu() for part in parts])

    def _parts(self, images: Tensor, factor: int) -> Iterator[Tensor]:
        size = max(1, PART // (factor**2 * images.shape[2] * images.shape[3]))
        return (part.to(self.device) for part in torch.split(images.float(), size))


@functools.lru_cache(maxsize=1)
def codec_of(base: Base, device: str = "cpu") -> Codec:
    """The codec of a base, read once per process."""
    return Codec(base, device)
