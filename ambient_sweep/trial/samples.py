"""Samples of a model, in parts on several workers, each the same whoever makes it."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ambient_sweep import rng
from ambient_sweep.config import ComputeConfig, Config, Endpoint
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.diffusion.denoiser import Denoiser, guided
from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.diffusion.sampling import one_step, sample, sampling_levels
from ambient_sweep.models import Shape
from ambient_sweep.terminal import advance
from ambient_sweep.training.compute import WrappedDenoiser, exact_float32
from ambient_sweep.training.group import SINGLE, Group

CHUNK = 32  # images that mode=exact computes together: sums in a network may depend on how many they are


def class_counts(config: Config, data: ImageData) -> tuple[int, ...]:
    """The number of training images of each class, for a conditional model; else nothing."""
    if not config.model.conditional or data.train_labels is None:
        return ()
    return tuple(torch.bincount(data.train_labels, minlength=data.classes).tolist())


def generate(
    config: Config,
    denoiser: Callable[..., torch.Tensor],
    shape: Shape,
    count: int,
    seed: int,
    group: Group = SINGLE,
    device: str = "cpu",
    *,
    endpoints: Sequence[Endpoint],
    counts: Sequence[int] = (),
    before_batch: Callable[[], None] = lambda: None,
) -> dict[str, torch.Tensor]:
    """`count` samples [N,C,H,W] per endpoint, on the CPU and on every worker, each worker having made a part.

    endpoints: some of `config.endpoints` of the images that the model was trained for. Those of a one-step generator,
    "distilled", take one pass of the network each.

    Sample i starts from noise keyed by (seed, i). A conditional model needs the `counts` of its classes: the class of
    sample i is keyed by (seed, i) too, drawn with the frequencies of training, and guided by sampling.guidance.

    sampling.mode=exact computes CHUNK images at a time, sample i at place i mod CHUNK, in float32 and by fixed
    algorithms: the same bits for any `count`, batch size and number of workers, on one type of device. mode=fast computes
    batches of sampling.batch_size: the same samples up to rounding.
    """
    s, stop, exact = config.sampling, config.observed.sigma, config.sampling.mode == "exact"
    levels = sampling_levels(s.sigma_max, s.sigma_min, s.steps, s.rho, stop)
    if "zero" not in endpoints:
        levels = levels[levels >= stop]
    denoiser, distilled = as_sampled(denoiser, config), "distilled" in endpoints

    def batch(start: int, size: int) -> tuple[torch.Tensor, ...]:
        noise = rng.normal("sample", seed, range(start, start + size), shape).to(device)
        bound: DenoiserFn = denoiser
        if counts:
            labels = sampled_labels(counts, seed, start, size).to(device)
            bound = guided(denoiser, labels, s.guidance, none=len(counts))
        if distilled:
            return (one_step(bound, noise, config.distillation.sigma),)
        return sample(bound, noise, levels, stop)

    size = CHUNK if exact else min(s.batch_size, -(-count // group.size))
    batches = -(-count // size)
    pieces: dict[str, list[torch.Tensor]] = {"distilled": []} if distilled else {"zero": [], "observed": []}
    with exact_float32() if exact else contextlib.nullcontext():
        for index in group.share(batches):
            before_batch()
            for endpoint, images in zip(pieces, batch(index * size, size), strict=True):
                pieces[endpoint].append(images)
            advance("sampling", min(count, (index + 1) * size), count)
    found: dict[str, torch.Tensor] = {}
    for endpoint in endpoints:
        own = torch.stack([torch.zeros(size, *shape, device=device), *pieces[endpoint]])[1:]
        found[endpoint] = group.gather(own).flatten(0, 1)[:count]
    return found


def sampled_labels(counts: Sequence[int], seed: int, start: int, size: int) -> torch.Tensor:
    """Classes of samples start .. start + size, int64 [size], with the frequencies of `counts`."""
    u = rng.uniform("sample.label", seed, start, size)[:, 0]
    upper = np.cumsum(counts) / np.sum(counts)
    return torch.from_numpy(np.searchsorted(upper, u, side="right").astype(np.int64))


def as_sampled(denoiser: Callable[..., torch.Tensor], config: Config) -> Callable[..., torch.Tensor]:
    """The denoiser as sampling.precision and sampling.compile ask for it."""
    s = config.sampling
    if (s.precision == "float32" and not s.compile) or not isinstance(denoiser, Denoiser):
        return denoiser
    return WrappedDenoiser(denoiser, ComputeConfig(precision=s.precision, compile=s.compile)).denoiser


def write_images(images: torch.Tensor, folder: Path) -> None:
    """images [N, C, H, W] in [-1, 1] (C = 1 or 3), clipped and rounded to 8 bits, as PNG files sample-000000.png ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(to_uint8(images.double()).permute(0, 2, 3, 1).cpu().numpy()):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / f"sample-{number:06d}.png")
