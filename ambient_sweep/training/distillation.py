"""Distillation of a frozen teacher into a one-step generator: its networks, its draws and its losses.

Sources: Zhou et al., *Score identity Distillation*, arXiv 2404.04057; Chen et al., *Denoising Score Distillation*,
arXiv 2503.07578. A generator is a denoiser used at one level: x = G(sigma_0 z, sigma_0). Beside it a fake denoiser is
trained on the generator's images as ambient training is on the observations. docs/math.md derives the losses.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ambient_sweep import rng
from ambient_sweep.config import Config
from ambient_sweep.diffusion.denoiser import Denoiser, given
from ambient_sweep.diffusion.loss import DenoiserFn, distillation_loss
from ambient_sweep.diffusion.noise import expand, sampling_level
from ambient_sweep.diffusion.sampling import one_step
from ambient_sweep.training import objective
from ambient_sweep.training.compute import prepare_network
from ambient_sweep.training.objective import Batch, Draws, OnDevice

HIGHEST = 0.8  # of EDM's sampling grid: the highest level of the generator's loss
Network = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Distillation:
    """What a distilled run has besides its generator, all begun as the averaged weights of the teacher's training."""

    teacher: Denoiser  # without gradient
    fake: Denoiser
    optimizer: torch.optim.AdamW  # of the fake denoiser

    @classmethod
    def create(cls, config: Config, teacher: Denoiser, fake: Denoiser) -> "Distillation":
        """From two denoisers of the same weights."""
        for denoiser in (teacher, fake):
            prepare_network(denoiser, config.compute)
        return cls(teacher, fake, adam(config, fake.requires_grad_(True)))


def adam(config: Config, denoiser: Denoiser) -> torch.optim.AdamW:
    """The optimizer of a generator or fake denoiser: no momentum, since each moves the other's target."""
    o = config.optimizer
    return torch.optim.AdamW(
        denoiser.parameters(), config.distillation.lr, betas=(0.0, o.beta2), weight_decay=o.weight_decay, fused=True
    )


# -- draws, functions of the config and the positions alone --------------------------------------------------------------


@dataclass(frozen=True)
class FakeDraws(OnDevice):
    """The inputs of `fake_loss`, besides the networks."""

    z: torch.Tensor  # [N,C,H,W], what the generator makes images of
    main: Draws  # whose y is the noise of the observations, without an image


@dataclass(frozen=True)
class GeneratorDraws(OnDevice):
    """The inputs of `generator_loss`, besides the networks."""

    z: torch.Tensor  # [N,C,H,W]
    sigma: torch.Tensor  # noise level at which both denoisers are compared, [N]
    noise: torch.Tensor  # [N,C,H,W]
    labels: torch.Tensor | None  # [N]


@dataclass(frozen=True)
class DistillationDraws:
    """Of a step: for each of distillation.ratio steps of the fake denoiser, and the generator's."""

    fake: tuple[FakeDraws, ...]
    generator: GeneratorDraws

    def to(self, device: torch.device) -> "DistillationDraws":
        """The same on another device."""
        return DistillationDraws(tuple(each.to(device) for each in self.fake), self.generator.to(device))


def draw(config: Config, batch: Batch) -> DistillationDraws:
    """The draws for a batch, of which generated images get the noise levels and labels, so that both follow the data."""
    positions = range(batch.start, batch.start + len(batch))

    def normal(purpose: str) -> torch.Tensor:
        return rng.normal(purpose, config.seed, positions, batch.y.shape[1:])

    fake = []
    for number in range(config.distillation.ratio):
        purpose = f"train.fake.{number}"
        noisy = dataclasses.replace(batch, y=expand(batch.sigma_n) * normal(f"{purpose}.observed"))
        fake.append(FakeDraws(normal(f"{purpose}.z"), objective.draw(config, noisy, False, purpose)))
    s, purpose = config.sampling, "train.generator"
    u = rng.uniform(f"{purpose}.sigma", config.seed, batch.start, len(batch))[:, 0]
    lowest = np.maximum(batch.sigma_n.double().numpy(), s.sigma_min)  # below, neither denoiser is trained
    highest = np.maximum(sampling_level(HIGHEST, s.sigma_min, s.sigma_max, s.rho), lowest)
    sigma = torch.from_numpy(sampling_level(u, lowest, highest, s.rho)).float()
    labels = objective.shown_labels(config, batch, purpose)
    return DistillationDraws(
        tuple(fake), GeneratorDraws(normal(f"{purpose}.z"), sigma, normal(f"{purpose}.noise"), labels)
    )


# -- losses, [N] ----------------------------------------------------------------------------------------------------------


def fake_loss(config: Config, generator: Network, fake: Network, draws: FakeDraws) -> torch.Tensor:
    """The ambient loss of the fake denoiser on noisy observations of generated images."""
    with torch.no_grad():
        x = one_step(given(generator, draws.main.labels), draws.z, config.distillation.sigma)
    return objective.main_loss(fake, dataclasses.replace(draws.main, y=x + draws.main.y))


def generator_loss(
    config: Config, generator: Network, teacher: Network, fake: Network, draws: GeneratorDraws
) -> torch.Tensor:
    """The loss of the generator; the weights of teacher and fake denoiser get no gradient."""
    bound: list[DenoiserFn] = [given(network, draws.labels) for network in (generator, teacher, fake)]
    x = one_step(bound[0], draws.z, config.distillation.sigma)
    return distillation_loss(bound[1], bound[2], x, draws.sigma, draws.noise, config.distillation.alpha)
