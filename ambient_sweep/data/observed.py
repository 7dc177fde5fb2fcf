"""The noisy observations: one fixed noise draw per image, for all epochs, workers and resumes."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.config import ObservedConfig
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.pixels import Pixels
from ambient_sweep.errors import UserError

KEPT = 2**28  # bytes of float32 observations up to which they are made once and kept

# y float32 [n,C,H,W], sigma_n [n], x_0 if it is kept, and labels int64 [n] if there are any
Observation = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]


@dataclass(frozen=True)
class FixedNoise:
    """The noise of every image, the same whenever it is drawn; safe in threads."""

    seed: int
    index: NDArray[np.int64]  # [N], place in the source
    base: NDArray[np.float32]  # [N], level of y_b, to be added to the pixels
    added: NDArray[np.float32]  # [N], sqrt(sigma_n^2 - sigma_b^2)

    def add(self, images: torch.Tensor, rows: NDArray[np.int64]) -> None:
        """Adds the noise of `rows` to their images [n,C,H,W], in place."""
        pixels, index = images.numpy(), self.index[rows]
        for purpose, levels in (("observed.base", self.base[rows]), ("observed.added", self.added[rows])):
            noisy = np.flatnonzero(levels > 0)
            if len(noisy):
                part = pixels[noisy]
                rng.add_normal(part, levels[noisy], purpose, self.seed, index[noisy].tolist())
                pixels[noisy] = part


@dataclass(frozen=True)
class ObservedImages:
    """What training sees: y = x_0 + sigma_n eps, each image at its own sigma_n, with the same eps at every reading."""

    images: torch.Tensor | Pixels  # float32 [N,C,H,W], y; what `noise` is added to at every reading, where it is given
    sigma: torch.Tensor  # [N]
    clean: torch.Tensor | Pixels | None = None  # x_0, for the one objective that asks for it
    labels: torch.Tensor | None = None  # int64 [N]
    classes: int = 0
    noise: FixedNoise | None = None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: NDArray[np.int64]) -> Observation:
        """The observations at `rows`."""
        index = torch.from_numpy(rows)
        y, clean = self.images[index], None if self.clean is None else self.clean[index]
        if self.noise is not None:
            self.noise.add(y, rows)
        return y, self.sigma[index], clean, None if self.labels is None else self.labels[index]


def observe(data: ImageData, config: ObservedConfig, keep_clean: bool = False) -> ObservedImages:
    """Noisy copies of the training images, each at its own level: see `levels`.

    y_b = x_0 + sigma_b eps and y = y_b + sqrt(sigma_n^2 - sigma_b^2) eps', with eps and eps' keyed by (config.seed, place
    in the source): all levels of a sweep are made from one y_b and say no more about x_0 than it does. A store of
    observations holds y_b itself. Images that are observed clean get no noise at all. Raises UserError for settings that
    do not go with the data.
    """
    sigma: NDArray[np.float64] = levels(data, config, keep_clean)
    base = data.train_sigma if data.arrived_noisy and data.train_sigma is not None else config.base_sigma
    noisy, above = sigma > 0, sigma.astype(np.float32) > np.float32(base)
    noise = FixedNoise(
        seed=config.seed,
        index=data.train_index.numpy(),
        base=np.where(noisy & (data.observed is None), base, 0).astype(np.float32),
        added=np.sqrt(np.where(noisy & above, sigma**2 - base**2, 0)).astype(np.float32),
    )
    level, clean = torch.from_numpy(sigma.astype(np.float32)), data.train if keep_clean else None
    observed = ObservedImages(data.train, level, clean, data.train_labels, data.classes, noise)
    if 4 * len(observed) * int(np.prod(data.shape)) > KEPT:
        return observed
    return ObservedImages(*observed.read(np.arange(len(observed))), data.classes)


def levels(data: ImageData, config: ObservedConfig, keep_clean: bool = False) -> NDArray[np.float64]:
    """sigma_n of the training images, [N].

    0 for the first round(clean_fraction N) in training order, which are those that data.train_size would keep; else the
    image's own level, where the data has one; else config.sigma. An image that arrived with its own noise gets more, up to
    config.sigma. Raises UserError as `observe` does, and names the image for a level below the base.
    """
    _check_observed(data, config, keep_clean)
    sigma = np.full(len(data.train), config.sigma, dtype=np.float64)
    if data.train_sigma is not None:
        own = data.train_sigma.astype(np.float64)
        if data.arrived_noisy:
            return np.where(own > 0, np.maximum(own, sigma), 0)
        sigma = np.where(np.isnan(own), sigma, own)
    clean = round(config.clean_fraction * len(sigma))
    sigma[:clean] = 0
    low = clean + np.flatnonzero(~(sigma[clean:].astype(np.float32) >= np.float32(config.base_sigma)))
    if len(low):
        raise UserError(
            f"{data.name(int(data.train_index[low[0]]))}: its own noise level {sigma[low[0]]:g} is below "
            f"observed.base_sigma={config.base_sigma}; lower the base, or raise the levels of {len(low)} images"
        )
    return sigma


def _check_observed(data: ImageData, config: ObservedConfig, keep_clean: bool) -> None:
    """Raises UserError where a store of noisy observations is asked for another base, or for clean images."""
    made, where = data.observed, None if data.store is None else data.store.path
    if made is None:
        return
    if config.base_sigma != made.sigma:
        raise UserError(f"observed.base_sigma: {where} was made with another; set observed.base_sigma={made.sigma}")
    if config.clean_fraction > 0:
        raise UserError(f"observed.clean_fraction: {where} holds no clean image; set it to 0")
    if keep_clean:
        raise UserError(f"objective.kind: ambient_high_clean_low reads clean images, but {where} holds none")
