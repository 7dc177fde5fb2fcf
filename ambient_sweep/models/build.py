"""The denoiser that a config asks for, and its size."""

import functools
from pathlib import Path

import torch
from torch import nn

from ambient_sweep.config import ModelConfig
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.diffusion.scalings import Edm, Flow, Noise, Scaling, Velocity
from ambient_sweep.errors import errors_of
from ambient_sweep.latent import require_extra
from ambient_sweep.latent.base import Base, open_base
from ambient_sweep.models.mlp import ResidualMLP
from ambient_sweep.models.network import Network
from ambient_sweep.models.unet import UNet

Shape = tuple[int, int, int]


def base_of(config: ModelConfig) -> Base:
    """The base of a config with model.kind=lora, opened once per process. Raises UserError as `open_base` does."""
    with errors_of("model.base"):
        return _opened(Path(str(config.base)))


_opened = functools.lru_cache(maxsize=2)(open_base)  # whose keys take long to compute


@functools.lru_cache(maxsize=64)
def scaling_of(config: ModelConfig) -> Scaling:
    """The scalings that go with what the config's network predicts. Raises UserError for a bad base."""
    if config.kind != "lora":
        return Edm(config.sigma_data)
    base = base_of(config)
    if base.scaling == "flow":
        return Flow(base.steps)
    return Noise(base.sigmas) if base.scaling == "noise" else Velocity(base.sigmas)


def build_model(config: ModelConfig, shape: Shape, seed: int, classes: int = 0, data: str | None = None) -> Denoiser:
    """The denoiser for images of `shape` (channels, height, width), initial weights drawn from `seed`.

    With model.conditional it knows the labels of `classes` classes. data: the store of latents whose captions a model with
    model.kind=lora is given. Raises UserError for a bad base, or targets that it lacks.
    """
    if config.kind == "lora":
        require_extra()
        from ambient_sweep.models.lora import LoRA  # diffusers takes seconds to import

        network = LoRA(base_of(config), config.rank, config.targets, seed, None if data is None else Path(data))
        return Denoiser(network, scaling_of(config))
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator; leave it as it was
        torch.default_generator.manual_seed(seed)
        trained = _network(config, shape, classes if config.conditional else 0)
    return Denoiser(trained, scaling_of(config))


def _network(config: ModelConfig, shape: Shape, classes: int) -> Network:
    if config.kind == "mlp":
        return ResidualMLP(shape, config.width, config.blocks, classes)
    if config.kind == "dit":
        from ambient_sweep.models.dit import DiT  # timm takes a second to import

        return DiT(shape, config.width, config.blocks, config.patch, config.head_width, classes)
    multipliers = config.multipliers or tuple(min(2**level, 4) for level in range(config.levels))
    return UNet(shape, config.width, config.blocks, multipliers, config.attention, config.head_width, classes)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@functools.cache
def parameters(config: ModelConfig, shape: Shape, classes: int = 0) -> int:
    """The number of weights, from shapes alone."""
    with torch.device("meta"):
        return count_parameters(build_model(config, shape, 0, classes))


def describe(config: ModelConfig, shape: Shape, classes: int = 0) -> str:
    """One line for the user, as "unet 55.7 M parameters"."""
    count = parameters(config, shape, classes)
    size = f"{count / 1e6:.3g} M" if count >= 999_500 else f"{count / 1e3:.3g} k"
    return f"{config.kind} {size} parameters"
