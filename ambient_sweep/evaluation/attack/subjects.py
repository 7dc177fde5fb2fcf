"""The images an attack is made on, in batches, each with its noise and the denoiser bound to its classes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ambient_sweep import rng
from ambient_sweep.diffusion.denoiser import given
from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.terminal import advance

BATCH = 64


@dataclass(frozen=True)
class Subjects:
    """Clean images float [N, C, H, W] in [-1, 1], or their latents, and their classes int64 [N] for a conditional model."""

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, denoiser: Callable[..., Tensor], device: str, purpose: str, seed: int
    ) -> Iterator[tuple[Tensor, Tensor, DenoiserFn]]:
        """(images, normal noise keyed by purpose, seed and place, denoiser of these images), on `device`."""
        for start in range(0, len(self), BATCH):
            rows = range(start, min(start + BATCH, len(self)))
            images = self.images[rows.start : rows.stop].to(device)
            noise = rng.normal(purpose, seed, rows, images.shape[1:]).to(images)
            labels = None if self.labels is None else self.labels[rows.start : rows.stop].to(device)
            yield images, noise, given(denoiser, labels)
            advance("denoising images", rows.stop, len(self))


def sigmas_of(images: Tensor, sigma: float) -> Tensor:
    """`sigma` for each image, [N]."""
    return images.new_full((len(images),), sigma)
