"""The noisy observations: one fixed noise draw per image, for all epochs, workers and resumes."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.config import ObservedConfig
from ambient_sweep.data.images import ImageData

Observation = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]


@dataclass(frozen=True)
class ObservedImages:
    """What training sees: y = x_0 + sigma_n eps, float32 [N,C,H,W] (never rounded or clipped), and sigma_n [N]."""

    images: torch.Tensor
    sigma: torch.Tensor
    clean: torch.Tensor | None = None  # x_0, for the one objective that asks for it
    labels: torch.Tensor | None = None  # int64 [N]
    classes: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: NDArray[np.int64]) -> Observation:
        """y, sigma_n, x_0 if it is kept, and labels if there are any, of the images at `rows`."""
        index = torch.from_numpy(rows)
        clean = None if self.clean is None else self.clean[index]
        labels = None if self.labels is None else self.labels[index]
        return self.images[index], self.sigma[index], clean, labels


def observe(data: ImageData, config: ObservedConfig, keep_clean: bool = False) -> ObservedImages:
    """Noisy copies of the training images at level `config.sigma`.

    y_b = x_0 + sigma_b eps and y = y_b + sqrt(sigma^2 - sigma_b^2) eps', with eps and eps' keyed by
    (config.seed, index in the source): all levels of a sweep are made from one y_b and say no more about x_0 than it does.
    """
    index, shape = data.train_index.tolist(), data.shape
    images = data.train
    if config.base_sigma > 0:
        images = images + config.base_sigma * rng.normal_at("observed.base", config.seed, index, shape)
    added = max(config.sigma**2 - config.base_sigma**2, 0.0) ** 0.5
    if added > 0:
        images = images + added * rng.normal_at("observed.added", config.seed, index, shape)
    sigma = torch.full((len(index),), config.sigma)
    return ObservedImages(images, sigma, data.train if keep_clean else None)
