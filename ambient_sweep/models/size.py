"""The size of a network."""

import functools

import torch
from torch import nn

from ambient_sweep.config import ModelConfig
from ambient_sweep.models.build import Shape, build_model


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
