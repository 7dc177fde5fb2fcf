"""Samples of a model, in parts on several workers, each the same whoever makes it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch

from ambient_sweep import rng
from ambient_sweep.config import ComputeConfig, Config
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.diffusion.denoiser import Denoiser, guided
from ambient_sweep.diffusion.loss import DenoiserFn
from ambient_sweep.diffusion.sampling import sample, sampling_levels
from ambient_sweep.models import Shape
from ambient_sweep.training.compute import WrappedDenoiser, is_sharded
from ambient_sweep.training.group import SINGLE, Group

CHUNK = 32  # images that mode=exact computes together: sums in a network may depend on how many they are
CPU_BATCH = 64  # of mode=fast; more fall out of the caches
LARGEST_BATCH, PROBE = 8192, 16
Endpoints = tuple[torch.Tensor, torch.Tensor]  # samples down to 0, and stopped at the observed level


def class_counts(config: Config, data: ImageData) -> tuple[int, ...]:
    """How many training images each class has, for a conditional model; else nothing."""
    if not config.model.conditional or data.train_labels is None:
        return ()
    return tuple(torch.bincount(data.train_labels, minlength=data.classes).tolist())


def samples_at(config: Config, images: int) -> int:
    """How many samples are measured after `images`: fewer before the end, with evaluation.early_samples."""
    early = config.evaluation.early_samples
    last = config.images_at(config.training.stop)
    return config.evaluation.samples if early is None or images >= last else early


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

    sampling.mode=exact computes CHUNK images at a time, sample i at place i mod CHUNK, in float32 and by fixed
    algorithms: the same bits for any `count`, batch size and number of workers, on one type of device. mode=fast takes as
    many at once as fit into every worker's memory, and half as many whenever they do not: the same samples but for
    rounding.
    """
    if config.model.conditional and not counts:
        raise ValueError("a conditional model needs the counts of its classes")
    s, stop = config.sampling, config.observed.sigma
    levels = sampling_levels(s.sigma_max, s.sigma_min, s.steps, s.rho, stop)
    if "zero" not in config.endpoints():
        levels = levels[levels >= stop]
    denoiser = _computed(denoiser, config)

    def batch(start: int, size: int) -> Endpoints:
        noise = rng.normal("sample", seed, start, size, shape).to(device)
        bound: DenoiserFn = denoiser
        if counts:
            labels = sampled_labels(counts, seed, start, size).to(device)
            bound = guided(denoiser, labels, s.guidance, none=len(counts))
        return sample(bound, noise, levels, stop)

    if s.mode == "exact":
        size = CHUNK
    else:
        fitting = torch.tensor(s.batch_size or _fitting(batch, device), device=device)
        size = min(-int(group.max(-fitting)), -(-count // group.size))  # the same on all, whose parts are gathered
        if not is_sharded(config.compute, group):  # there the others would wait for a batch that one takes in parts
            batch = Fitted(batch, size)
    batches = -(-count // size)
    part = group.share(batches)
    pieces: dict[str, list[torch.Tensor]] = {"zero": [], "observed": []}
    with _exact_arithmetic(device) if s.mode == "exact" else contextlib.nullcontext():
        for turn in range(-(-batches // group.size)):  # as often on each: with sharded weights they need each other
            before_batch()
            index = part.start + turn
            made = batch(min(index, batches - 1) * size, size)
            for endpoint, images in zip(pieces, made, strict=True):
                if index < part.stop and endpoint in config.endpoints():
                    pieces[endpoint].append(images)
    found: dict[str, torch.Tensor] = {}
    for endpoint in config.endpoints():
        own = torch.stack([torch.zeros(size, *shape, device=device), *pieces[endpoint]])[1:]
        found[endpoint] = group.gather(own, batches).flatten(0, 1)[:count].cpu()
    return found


def sampled_labels(counts: Sequence[int], seed: int, start: int, size: int) -> torch.Tensor:
    """Classes of samples start .. start + size, int64 [size], with the frequencies of `counts`."""
    u = rng.uniform("sample.label", seed, start, size)[:, 0]
    upper = np.cumsum(counts) / np.sum(counts)
    return torch.from_numpy(np.searchsorted(upper, u, side="right").astype(np.int64))


def _computed(denoiser: Callable[..., torch.Tensor], config: Config) -> Callable[..., torch.Tensor]:
    """The denoiser as sampling.precision and sampling.compile ask for it."""
    s = config.sampling
    if s.precision == "float32" and not s.compile:
        return denoiser
    if not isinstance(denoiser, Denoiser):
        raise TypeError("sampling.precision and sampling.compile need a Denoiser")
    return WrappedDenoiser(denoiser, ComputeConfig(precision=s.precision, compile=s.compile)).denoiser


class Fitted:
    """Batches made in parts of half the size, from then on, whenever one does not fit into memory."""

    def __init__(self, batch: Callable[[int, int], Endpoints], size: int) -> None:
        self.batch, self.size = batch, size

    def __call__(self, start: int, size: int) -> Endpoints:
        """Samples start .. start + size. Raises torch.OutOfMemoryError where not even one fits."""
        while True:
            starts = range(start, start + size, self.size)
            try:
                parts = [self.batch(first, min(self.size, start + size - first)) for first in starts]
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                self.size = -(-self.size // 2)
            else:
                zero, observed = (torch.cat(part) for part in zip(*parts, strict=True))
                return zero, observed


def _fitting(batch: Callable[[int, int], object], device: str) -> int:
    """How many images sampled at once fit into the device's memory, from what a few of them take."""
    if torch.device(device).type != "cuda":
        return CPU_BATCH
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    batch(0, PROBE)
    each = max(1, (torch.cuda.max_memory_allocated(device) - before) // PROBE)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(LARGEST_BATCH, int(0.7 * free) // each))


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _exact_arithmetic(device: str) -> Iterator[None]:
    """float32 in full, and algorithms that do not depend on timing."""
    cudnn: AbstractContextManager[object] = contextlib.nullcontext()
    if torch.device(device).type == "cuda":
        cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with _float32(), cudnn:
        yield
