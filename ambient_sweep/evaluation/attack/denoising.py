"""The denoising gap: a model that has memorized denoises its training images better than others of their kind."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ambient_sweep.evaluation.attack.subjects import Subjects, sigmas_of
from ambient_sweep.evaluation.measure import Z95, Measure

SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@torch.no_grad()
def denoising_gap(
    denoiser: Callable[..., Tensor], train: Subjects, heldout: Subjects, *,
    sigmas: Sequence[float] = SIGMAS, seed: int = 0, device: str = "cpu",
) -> dict[float, Measure]:  # fmt: skip
    """Per noise level, 1 less training error over held-out error: 0 where nothing is memorized, 1 where everything is.

    The error is |D(x_0 + sigma n, sigma) - x_0|^2, with noise keyed by (level, place) and the same for both sets. The
    interval is of the ratio of two means (delta method), n the number of training images. Needs no samples.
    """
    found = {}
    for sigma in sigmas:
        own, others = (_errors(denoiser, each, sigma, seed, device) for each in (train, heldout))
        scale = float(others.mean())
        ratio = float(own.mean()) / scale
        variance = float(own.var()) / len(own) + ratio**2 * float(others.var()) / len(others)
        half = Z95 * math.sqrt(variance) / scale
        found[sigma] = Measure(1 - ratio, 1 - ratio - half, 1 - ratio + half, len(own), seed=seed)
    return found


def _errors(denoiser: Callable[..., Tensor], subjects: Subjects, sigma: float, seed: int, device: str) -> Tensor:
    """Mean square error per image, float64 [N]."""
    parts = []
    for images, noise, bound in subjects.batches(denoiser, device, f"denoising_gap/{sigma:g}", seed):
        restored = bound(images + sigma * noise, sigmas_of(images, sigma))
        parts.append((restored - images).double().square().flatten(1).mean(1).cpu())
    return torch.cat(parts)
