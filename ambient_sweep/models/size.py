"""The size of a network."""

import torch
from torch import nn

from ambient_sweep.config import ModelConfig
from ambient_sweep.models.build import Shape, build_model


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def describe(config: ModelConfig, shape: Shape, classes: int = 0) -> str:
    """One line for the user, as "unet 55.7 M parameters", from shapes alone."""
    with torch.device("meta"):
        count = count_parameters(build_model(config, shape, 0, classes))
    size = f"{count / 1e6:.3g} M" if count >= 999_500 else f"{count / 1e3:.3g} k"
    return f"{config.kind} {size} parameters"
