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
class ObservedImages:
    """Observations in memory: float32 [N,C,H,W] (never rounded or clipped), and sigma_n [N]."""

    images: torch.Tensor
    sigma: torch.Tensor
    clean: torch.Tensor | None = None  # x_0, for the one objective that asks for it
    labels: torch.Tensor | None = None  # int64 [N]
    classes: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: NDArray[np.int64]) -> Observation:
        index = torch.from_numpy(rows)
        clean = None if self.clean is None else self.clean[index]
        labels = None if self.labels is None else self.labels[index]
        return self.images[index], self.sigma[index], clean, labels


@dataclass(frozen=True)
class LazyObservations:
    """Observations made anew at every reading, of pixels that stay where they are; safe to read in threads."""

    pixels: Pixels
    index: NDArray[np.int64]  # [N], place in the source
    base: NDArray[np.float32]  # [N], level of y_b, to be added to the pixels
    added: NDArray[np.float32]  # [N], sqrt(sigma_n^2 - sigma_b^2)
    sigma: torch.Tensor  # [N]
    seed: int
    labels: torch.Tensor | None
    classes: int
    keep_clean: bool

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: NDArray[np.int64]) -> Observation:
        x = self.pixels.read(rows)
        y = x.clone() if self.keep_clean else x
        index, chosen = self.index[rows], torch.from_numpy(rows)
        add_noise(y.numpy(), self.base[rows], "observed.base", self.seed, index)
        add_noise(y.numpy(), self.added[rows], "observed.added", self.seed, index)
        labels = None if self.labels is None else self.labels[chosen]
        return y, self.sigma[chosen], x if self.keep_clean else None, labels

    def kept(self) -> ObservedImages:
        """The same observations, all in memory."""
        return ObservedImages(*self.read(np.arange(len(self))), self.classes)


# What training sees: y = x_0 + sigma_n eps, each image at its own sigma_n, with the same eps at every reading
Observed = ObservedImages | LazyObservations


def observe(data: ImageData, config: ObservedConfig, keep_clean: bool = False) -> Observed:
    """Noisy copies of the training images, each at its own level: see `levels`.

    y_b = x_0 + sigma_b eps and y = y_b + sqrt(sigma_n^2 - sigma_b^2) eps', with eps and eps' keyed by (config.seed, place
    in the source): all levels of a sweep are made from one y_b and say no more about x_0 than it does. A store of
    observations holds y_b itself. Images that are observed clean get no noise at all. Raises UserError for settings that
    do not go with the data.
    """
    check_observed(data, config, keep_clean)
    sigma, base = levels(data, config), config.base_sigma
    noisy, above = sigma > 0, sigma.astype(np.float32) > np.float32(base)
    lazy = LazyObservations(
        pixels=data.train,
        index=data.train_index.numpy(),
        base=np.where(noisy & (data.observed is None), base, 0).astype(np.float32),
        added=np.sqrt(np.where(noisy & above, sigma**2 - base**2, 0)).astype(np.float32),
        sigma=torch.from_numpy(sigma.astype(np.float32)),
        seed=config.seed,
        labels=data.train_labels,
        classes=data.classes,
        keep_clean=keep_clean,
    )
    needed = 4 * len(lazy) * int(np.prod(data.shape))
    return lazy.kept() if needed <= KEPT else lazy


def levels(data: ImageData, config: ObservedConfig) -> NDArray[np.float64]:
    """sigma_n of the training images, [N].

    0 for the first round(clean_fraction N) in training order, which are those that data.train_size would keep; else the
    image's own level, where the data has one; else config.sigma. Raises UserError, naming the image, for a level below
    the base.
    """
    sigma = np.full(len(data.train), config.sigma, dtype=np.float64)
    if data.train_sigma is not None:
        own = data.train_sigma.astype(np.float64)
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


def check_observed(data: ImageData, config: ObservedConfig, keep_clean: bool = False) -> None:
    """Raises UserError where a store of noisy observations is asked for another base or seed, or for clean images."""
    if data.observed is None:
        return
    where = "the store of noisy observations" if data.store is None else str(data.store.path)
    made = data.observed
    seed = config.seed if made.seed is None else made.seed  # of a secret draw there is none to agree with
    if (config.base_sigma, config.seed) != (made.sigma, seed):
        raise UserError(
            f"observed.base_sigma={config.base_sigma}, observed.seed={config.seed}: {where} was made with others; set "
            f"observed.base_sigma={made.sigma} observed.seed={seed}"
        )
    if config.clean_fraction > 0:
        raise UserError(f"observed.clean_fraction: {where} holds no clean image; set it to 0")
    if keep_clean:
        raise UserError(f"objective.kind: ambient_high_clean_low reads clean images, but {where} holds none")


def add_noise(
    images: NDArray[np.float32], level: NDArray[np.float32], purpose: str, seed: int, index: NDArray[np.int64]
) -> None:
    """Adds level [n] times the noise of the images at `index` [n] to images [n,C,H,W], in place; none where it is 0."""
    noisy = np.flatnonzero(level > 0)
    if not len(noisy):
        return
    if len(noisy) == len(images):
        rng.add_normal(images, level, purpose, seed, index.tolist())
    else:
        part = images[noisy]
        rng.add_normal(part, level[noisy], purpose, seed, index[noisy].tolist())
        images[noisy] = part
