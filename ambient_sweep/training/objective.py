"""The endless, shuffled stream of training images, its noise levels and random draws, and the losses on them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.config import Config
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.diffusion.denoiser import given
from ambient_sweep.diffusion.loss import ambient_loss, consistency_loss
from ambient_sweep.diffusion.noise import karras, table_levels, truncated_lognormal
from ambient_sweep.models import base_of, scaling_of


@dataclass(frozen=True)
class Batch:
    """The images at positions start .. start + len of the training stream."""

    start: int
    y: torch.Tensor  # [N,C,H,W]
    sigma_n: torch.Tensor  # [N]
    clean: torch.Tensor | None
    labels: torch.Tensor | None = None  # int64 [N]
    classes: int = 0

    def __len__(self) -> int:
        return len(self.y)


class Stream:
    """Maps each position to an image by keyed permutations, one per epoch, independent of batches and workers."""

    def __init__(self, observed: ObservedImages, seed: int, flip: bool) -> None:
        self.observed, self.seed, self.flip = observed, seed, flip
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, start: int, count: int) -> Batch:
        o = self.observed
        y, sigma_n, clean, labels = o.read(np.array([self._at(p) for p in range(start, start + count)]))
        if self.flip:
            mirrored = torch.from_numpy(rng.uniform("train.flip", self.seed, start, count)[:, 0] < 0.5)
            y = torch.where(mirrored[:, None, None, None], y.flip(3), y)
            clean = None if clean is None else torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
        return Batch(start, y, sigma_n, clean, labels, o.classes)

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.observed))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = rng.permutation("train.epoch", self.seed, epoch, len(self.observed))
        return int(self._order[offset])


@dataclass(frozen=True)
class OnDevice:
    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class ConsistencyDraws(OnDevice):
    """The inputs of `consistency_term` for the M images that take part."""

    x: torch.Tensor  # [M,C,H,W], at levels[:, 0]
    levels: torch.Tensor  # [M,K+1]
    noise: torch.Tensor  # [M, draws K, C,H,W]
    weight: torch.Tensor  # [M]
    labels: torch.Tensor | None  # [M]


@dataclass(frozen=True)
class Draws(OnDevice):
    """The inputs of the losses at some positions of the training stream, besides the denoiser."""

    y: torch.Tensor  # [N,C,H,W], observed or, where known is 0, taken for clean
    known: torch.Tensor  # noise level in y, [N]
    sigma: torch.Tensor  # noise level trained at, [N]
    below: torch.Tensor  # whether that is below the image's observed level, bool [N]
    noise: torch.Tensor  # [N,C,H,W]
    weight: torch.Tensor  # [N]
    labels: torch.Tensor | None  # [N]
    consistency: ConsistencyDraws | None


def draw(config: Config, batch: Batch, consistency: bool, purpose: str = "train") -> Draws:
    """The random draws for `batch`, functions of the config and the positions alone; with `consistency` its draws too.

    purpose: begins the keys of level, noise and hidden labels.

    denoising takes y for x_0; ambient draws sigma above sigma_n; ambient_high_clean_low draws it anywhere and takes the
    clean image below. All are `ambient_loss`, whose sigma_n is 0 where an image is taken for clean.
    """
    count, kind = len(batch), config.objective.kind
    u = rng.uniform(f"{purpose}.sigma", config.seed, batch.start, count)[:, 0]
    sigma_n = batch.sigma_n.double().numpy()
    above = sigma_n if kind in ("ambient", "ambient_consistency", "ambient_distilled") else 0.0
    if config.noise.law == "timesteps":
        drawn = table_levels(u, base_of(config.model).sigmas, above=above)
    else:
        drawn = truncated_lognormal(u, config.noise.mean, config.noise.std, above=above)
        if config.model.kind == "lora":  # which knows no level beyond its base's
            drawn = np.minimum(drawn, base_of(config.model).sigmas[-1])
    sigma = torch.from_numpy(drawn).float()
    y, known = batch.y, batch.sigma_n
    if kind == "denoising":
        known = torch.zeros_like(known)
    elif kind == "ambient_high_clean_low":
        assert batch.clean is not None  # `observe` keeps them for this objective
        below = sigma <= known
        y = torch.where(below[:, None, None, None], batch.clean, y)
        known = torch.where(below, torch.zeros_like(known), known)
    sigma = torch.maximum(sigma, known)
    noise = rng.normal(f"{purpose}.noise", config.seed, range(batch.start, batch.start + count), y.shape[1:])
    weight = scaling_of(config.model).weight(sigma)
    labels = shown_labels(config, batch, purpose)
    chains = _consistency_draws(config, batch, labels) if consistency else None
    return Draws(y, known, sigma, sigma < batch.sigma_n, noise, weight, labels, chains)


def shown_labels(config: Config, batch: Batch, purpose: str) -> torch.Tensor | None:
    """The labels that the network is given, some of them hidden, int64 [N]; None where it is given none."""
    if batch.labels is None or not config.model.conditional:
        return None
    hidden = rng.uniform(f"{purpose}.label", config.seed, batch.start, len(batch))[:, 0] < config.model.label_dropout
    return batch.labels.masked_fill(torch.from_numpy(hidden), batch.classes)  # which stands for "no label"


def main_loss(denoiser: Callable[..., torch.Tensor], draws: Draws) -> torch.Tensor:
    """The loss above (or regardless of) the observed level, [N]."""
    return ambient_loss(given(denoiser, draws.labels), draws.y, draws.known, draws.sigma, draws.noise, draws.weight)


# -- consistency ----------------------------------------------------------------------------------------------------


def takes_part(start: int, count: int, share: float) -> NDArray[np.bool_]:
    """Which positions get the consistency loss: a `share` of them, evenly spread, whatever the batch or worker."""
    position = np.arange(start, start + count + 1)
    return np.asarray(np.diff(np.floor(position * share + 1e-9)).astype(bool))


def _consistency_draws(config: Config, batch: Batch, labels: torch.Tensor | None) -> ConsistencyDraws | None:
    """Chains of the images that take part and are noisy; None where there are none.

    They begin at the observation itself, which is a draw at level sigma_n.
    """
    c = config.consistency
    chosen = torch.from_numpy(takes_part(batch.start, len(batch), c.batch_share)) & (batch.sigma_n > 0)
    if not chosen.any():
        return None
    positions = (batch.start + torch.nonzero(chosen)[:, 0]).tolist()
    u = rng.uniform("train.consistency.level", config.seed, batch.start, len(batch))[chosen.numpy(), 0]
    x, first = batch.y[chosen], batch.sigma_n[chosen].double()
    last = first * torch.from_numpy(c.lowest**u)
    noise = rng.normal("train.consistency.noise", config.seed, positions, (c.draws * c.chain_steps, *x.shape[1:]))
    weight = scaling_of(config.model).weight(first).float()
    levels = karras(first, last, c.chain_steps).float()
    return ConsistencyDraws(x, levels, noise, weight, None if labels is None else labels[chosen])


def consistency_term(config: Config, denoiser: Callable[..., torch.Tensor], draws: ConsistencyDraws) -> torch.Tensor:
    bound, count = given(denoiser, draws.labels), config.consistency.draws
    return consistency_loss(bound, draws.x, draws.levels, draws.noise, draws.weight, draws=count)
