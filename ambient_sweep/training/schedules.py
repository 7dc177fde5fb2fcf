"""Learning rate and consistency weight as functions of training progress in [0, 1]."""

import math

from ambient_sweep.config import ConsistencyConfig, OptimizerConfig


def learning_rate(config: OptimizerConfig, progress: float) -> float:
    """Linear warm-up from 0, then constant, half a cosine down to 0 at the horizon, or wsd.

    wsd (warmup-stable-decay): constant, then down to 0 over the last `decay` of the run as 1 - sqrt(x) (Haegele et al.,
    arXiv 2405.18392, section 3).
    """
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    begin = decay_start(config)
    if config.schedule == "constant" or (config.schedule == "wsd" and progress <= begin):
        return config.lr
    rest = min((progress - begin) / max(1 - begin, 1e-12), 1.0)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * rest)) / 2
    return config.lr * (1 - math.sqrt(rest))


def decay_start(config: OptimizerConfig) -> float:
    """The progress up to which the learning rate is that of warm-up and peak; 1 for schedule=constant."""
    if config.schedule == "constant":
        return 1.0
    return config.warmup if config.schedule == "cosine" else max(config.warmup, 1 - config.decay)


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
