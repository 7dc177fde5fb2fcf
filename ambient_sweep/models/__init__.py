"""Networks, and the denoiser that a config asks for."""

import torch
from torch import nn

from ambient_sweep.config import ModelConfig
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.models.mlp import ResidualMLP
from ambient_sweep.models.unet import UNet

Shape = tuple[int, int, int]


def build_model(config: ModelConfig, shape: Shape, seed: int) -> Denoiser:
    """The denoiser for images of `shape` (channels, height, width), initial weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator; leave it as it was
        torch.manual_seed(seed)
        network: nn.Module
        if config.kind == "mlp":
            network = ResidualMLP(shape, config.width, config.blocks)
        else:
            network = UNet(shape[0], config.width, config.blocks, config.levels)
    return Denoiser(network, config.sigma_data)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
