"""The images an attack is made on, in batches, with the denoiser bound to their classes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ambient_sweep.diffusion.denoiser import given
from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.terminal import advance

BATCH = 64


@dataclass(frozen=True)
class Subjects:
    """Clean images float [N, C, H, W] in [-1, 1], and their classes int64 [N] for a conditional model."""

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, denoiser: Callable[..., Tensor], device: str) -> Iterator[tuple[int, Tensor, DenoiserFn]]:
        """(place of the first, images, denoiser of these images), on `device`."""
        for start in range(0, len(self), BATCH):
            rows = slice(start, start + BATCH)
            labels = None if self.labels is None else self.labels[rows].to(device)
            yield start, self.images[rows].to(device), given(denoiser, labels)
            advance("denoising images", min(start + BATCH, len(self)), len(self))


def sigmas_of(images: Tensor, sigma: float) -> Tensor:
    """`sigma` for each image, [N]."""
    return images.new_full((len(images),), sigma)
