"""The denoiser that a config asks for, and its size."""

import functools

import torch
from torch import nn

from ambient_sweep.config import ModelConfig
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.models.mlp import ResidualMLP
from ambient_sweep.models.network import Network
from ambient_sweep.models.unet import UNet

Shape = tuple[int, int, int]


def build_model(config: ModelConfig, shape: Shape, seed: int, classes: int = 0) -> Denoiser:
    """The denoiser for images of `shape` (channels, height, width), initial weights drawn from `seed`.

    With model.conditional it knows the labels of `classes` classes.
    """
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator; leave it as it was
        torch.default_generator.manual_seed(seed)
        network = _network(config, shape, classes if config.conditional else 0)
    return Denoiser(network, config.sigma_data)


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
