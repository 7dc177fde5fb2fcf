"""Samples of a model, in parts on several workers, each the same whoever makes it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ambient_sweep import rng
from ambient_sweep.config import Config
from ambient_sweep.data.images import ImageData
from ambient_sweep.diffusion.denoiser import guided
from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.diffusion.sampling import sample, sampling_levels
from ambient_sweep.models import Shape
from ambient_sweep.training.group import SINGLE, Group


def class_counts(config: Config, data: ImageData) -> tuple[int, ...]:
    """How many training images each class has, for a conditional model; else nothing."""
    if not config.model.conditional or data.train_labels is None:
        return ()
    return tuple(torch.bincount(data.train_labels, minlength=data.classes).tolist())


def nothing() -> None:
    """The caller that has nothing to do between batches."""


def generate(
    config: Config,
    denoiser: Callable[..., torch.Tensor],
    shape: Shape,
    count: int,
    seed: int,
    group: Group = SINGLE,
    device: str = "cpu",
    *,
    counts: Sequence[int] = (),
    before_batch: Callable[[], None] = nothing,
) -> dict[str, torch.Tensor]:
    """`count` samples [N,C,H,W] per endpoint, on the CPU and on every worker, each worker having made a part.

    Sample i starts from noise keyed by (seed, i). A conditional model needs the `counts` of the classes: sample i is of a
    class keyed by (seed, i) too, drawn as often as it occurs, with sampling.guidance.
    """
    if config.model.conditional and not counts:
        raise ValueError("a conditional model needs the counts of its classes")
    s, stop = config.sampling, config.observed.sigma
    levels = sampling_levels(s.sigma_max, s.sigma_min, s.steps, s.rho, stop)
    part = group.share(count)
    pieces: dict[str, list[torch.Tensor]] = {"zero": [], "observed": []}
    for start in range(part.start, part.stop, config.evaluation.batch_size):
        before_batch()
        size = min(config.evaluation.batch_size, part.stop - start)
        noise = rng.normal("sample", seed, start, size, shape).to(device)
        bound: DenoiserFn = denoiser
        if counts:
            labels = sampled_labels(counts, seed, start, size).to(device)
            bound = guided(denoiser, labels, s.guidance, none=len(counts))
        for endpoint, images in zip(pieces, sample(bound, noise, levels, stop), strict=True):
            pieces[endpoint].append(images)
    empty = torch.zeros(0, *shape, device=device)
    return {
        endpoint: group.gather(torch.cat([empty, *pieces[endpoint]]), count).cpu() for endpoint in config.endpoints()
    }


def sampled_labels(counts: Sequence[int], seed: int, start: int, size: int) -> torch.Tensor:
    """Classes of samples start .. start + size, int64 [size], with the frequencies of `counts`."""
    u = rng.uniform("sample.label", seed, start, size)[:, 0]
    upper = np.cumsum(counts) / np.sum(counts)
    return torch.from_numpy(np.searchsorted(upper, u, side="right").astype(np.int64))
