"""What changes over training, as functions of progress in [0, 1]."""

import math

from ambient_sweep.config import ConsistencyConfig, OptimizerConfig


def learning_rate(config: OptimizerConfig, progress: float) -> float:
    """Linear warm-up from 0, then constant or half a cosine down to 0 at the horizon."""
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    if config.schedule == "constant":
        return config.lr
    rest = (progress - config.warmup) / max(1 - config.warmup, 1e-12)
    return config.lr * (1 + math.cos(math.pi * min(rest, 1.0))) / 2


def consistency_weight(config: ConsistencyConfig, progress: float) -> float:
    """0 before `start`; then `weight`, at once (step) or rising over `ramp_fraction` (linear, cosine).

    Before `start` a run does not depend on the consistency settings at all: the loss is not evaluated.
    """
    if progress < config.start:
        return 0.0
    if config.ramp == "step" or config.ramp_fraction == 0:
        return config.weight
    rise = min((progress - config.start) / config.ramp_fraction, 1.0)
    return config.weight * (rise if config.ramp == "linear" else (1 - math.cos(math.pi * rise)) / 2)
