"""Small networks of each kind, for the tests of this folder."""

import torch
from torch import nn

from ambient_sweep.config import ModelConfig

SMALL = {
    "mlp": ModelConfig(kind="mlp", width=32, blocks=3),
    "unet": ModelConfig(kind="unet", width=16, blocks=1, levels=2, attention=(8,), head_width=8),
    "dit": ModelConfig(kind="dit", width=32, blocks=3, patch=2, head_width=16),
}
CONDITIONAL = {kind: config.model_copy(update={"conditional": True}) for kind, config in SMALL.items()}
SHAPE = (2, 8, 8)
CLASSES = 3


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awake(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with noise on every weight, so that no branch is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return module
