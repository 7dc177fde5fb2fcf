"""Exponential moving average of the weights, its length counted in images."""

from collections.abc import Iterable

import torch


def ema_decay(images: int, batch_size: int, halflife: int, rampup: float) -> float:
    """Decay of one step: 0.5 ** (batch_size / halflife), with the half-life held below rampup * images (EDM)."""
    length = min(float(halflife), images * rampup)
    return 0.0 if length <= 0 else 0.5 ** (batch_size / length)


@torch.no_grad()
def ema_update(average: Iterable[torch.Tensor], weights: Iterable[torch.Tensor], decay: float) -> None:
    """average <- decay average + (1 - decay) weights, in place."""
    torch._foreach_lerp_(list(average), list(weights), 1 - decay)
