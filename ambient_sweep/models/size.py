"""The size and cost of a network: its weights, and floating-point operations per image."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ambient_sweep.config import ModelConfig
from ambient_sweep.models.build import Shape, build_model


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def count_flops(network: nn.Module, shape: Shape) -> int:
    """Floating-point operations of one forward pass of one image, a multiply-add taken for two; `network` on meta.

    Counts matrix products and convolutions, with attention, but not sums, norms and activations. A training step costs
    about three times as much: the backward pass has twice as many products.
    """
    x, c_noise = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, c_noise)
    return int(counter.get_total_flops())


def on_meta(config: ModelConfig, shape: Shape, classes: int = 0) -> nn.Module:
    """A network of shapes alone, without weights."""
    with torch.device("meta"):
        return build_model(config, shape, 0, classes).network


def describe(config: ModelConfig, shape: Shape, classes: int = 0) -> str:
    """One line for the user, as "unet 55.7 M parameters, 21.3 GFLOPs per image forward"."""
    network = on_meta(config, shape, classes)
    parameters, flops = _short(count_parameters(network)), _short(count_flops(network, shape))
    return f"{config.kind} {parameters} parameters, {flops}FLOPs per image forward"


def _short(count: int) -> str:
    """Three digits and a unit, as 55.7 M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:
            value = count / size
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    return f"{count} "
