"""What a config trains on: which images, noise levels and losses, and the random draws of each position."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.config import Config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.diffusion.denoiser import edm_weight
from ambient_sweep.diffusion.loss import DenoiserFn, ambient_loss, consistency_loss
from ambient_sweep.diffusion.noise import karras, truncated_lognormal

LOWEST_SHARE = 0.02  # consistency reaches down to this share of sigma_n


@dataclass(frozen=True)
class Batch:
    """The images at positions start .. start + len of the training stream."""

    start: int
    y: torch.Tensor  # [N,C,H,W]
    sigma_n: torch.Tensor  # [N]
    clean: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.y)


class Stream:
    """The endless, shuffled stream of training images: an epoch is a keyed permutation, a position an image."""

    def __init__(self, observed: ObservedImages, seed: int, flip: bool) -> None:
        self.observed, self.seed, self.flip = observed, seed, flip
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, start: int, count: int) -> Batch:
        index = torch.from_numpy(np.array([self._at(p) for p in range(start, start + count)]))
        o = self.observed
        y, clean = o.images[index], None if o.clean is None else o.clean[index]
        if self.flip:
            mirrored = torch.from_numpy(rng.uniform("train.flip", self.seed, start, count)[:, 0] < 0.5)
            y = torch.where(mirrored[:, None, None, None], y.flip(3), y)
            clean = None if clean is None else torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
        return Batch(start, y, o.sigma[index], clean)

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.observed.images))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = rng.permutation("train.epoch", self.seed, epoch, len(self.observed.images))
        return int(self._order[offset])


def main_loss(config: Config, denoiser: DenoiserFn, batch: Batch, device: str) -> torch.Tensor:
    """The loss above (or regardless of) the observed level, [N].

    denoising takes y for x_0; ambient draws sigma above sigma_n; ambient_high_clean_low draws it anywhere and takes the
    clean image below. All are `ambient_loss`, whose sigma_n is 0 where an image is taken for clean.
    """
    count, kind = len(batch), config.objective.kind
    u = rng.uniform("train.sigma", config.seed, batch.start, count)[:, 0]
    sigma_n = batch.sigma_n.double().numpy()
    above = sigma_n if kind in ("ambient", "ambient_consistency") else 0.0
    sigma = torch.from_numpy(truncated_lognormal(u, config.noise.mean, config.noise.std, above=above)).float()
    y, known = batch.y, batch.sigma_n
    if kind == "denoising":
        known = torch.zeros_like(known)
    elif kind == "ambient_high_clean_low":
        if batch.clean is None:
            raise ValueError("ambient_high_clean_low needs the clean images")
        below = sigma <= known
        y = torch.where(below[:, None, None, None], batch.clean, y)
        known = torch.where(below, torch.zeros_like(known), known)
    sigma = torch.maximum(sigma, known)
    noise = rng.normal("train.noise", config.seed, batch.start, count, y.shape[1:])
    weight = edm_weight(sigma, config.model.sigma_data)
    y, known, sigma, noise, weight = (t.to(device) for t in (y, known, sigma, noise, weight))
    return ambient_loss(denoiser, y, known, sigma, noise, weight)


def takes_part(start: int, count: int, share: float) -> NDArray[np.bool_]:
    """Which positions get the consistency loss: a `share` of them, evenly spread, whatever the batch or worker."""
    position = np.arange(start, start + count + 1)
    return np.asarray(np.diff(np.floor(position * share + 1e-9)).astype(bool))


def consistency_term(config: Config, denoiser: DenoiserFn, batch: Batch, device: str) -> torch.Tensor:
    """The consistency loss of the images that take part and are noisy, [M].

    The chain starts at the observation itself, which is a draw at level sigma_n, and descends to a level uniform below
    it. The weight is lambda(sigma_n) at every level: the size of what the denoiser has still to resolve at sigma_n.
    """
    c = config.consistency
    chosen = torch.from_numpy(takes_part(batch.start, len(batch), c.batch_share)) & (batch.sigma_n > 0)
    y, sigma_n = batch.y[chosen], batch.sigma_n[chosen].double()
    if len(y) == 0:
        return torch.zeros(0, device=device)
    u = rng.uniform("train.consistency.level", config.seed, batch.start, len(batch))[chosen.numpy(), 0]
    last = sigma_n * torch.from_numpy(LOWEST_SHARE + (1 - LOWEST_SHARE) * u)
    levels = karras(sigma_n, last, c.chain_steps)
    branch = 0 if c.branch == "boundary" else c.chain_steps - 1
    draws = branch + 2 * (c.chain_steps - branch)
    noise = rng.normal("train.consistency.noise", config.seed, batch.start, len(batch), (draws, *y.shape[1:]))[chosen]
    weight = edm_weight(sigma_n, config.model.sigma_data)
    y, levels, noise, weight = (t.float().to(device) for t in (y, levels, noise, weight))
    return consistency_loss(denoiser, y, levels, noise, weight, branch=branch, rollout_gradient=c.rollout_gradient)
