"""The full evaluation of the averaged weights: samples, checkpoint, measures, pictures, records."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ambient_sweep import rng
from ambient_sweep.config import Config
from ambient_sweep.config.positions import evaluated_lengths
from ambient_sweep.data.dataset import ImageData
from ambient_sweep.data.observed import ObservedImages
from ambient_sweep.data.pixels import to_uint8
from ambient_sweep.diffusion.denoiser import Denoiser, given
from ambient_sweep.evaluation.decoding import coding
from ambient_sweep.evaluation.evaluator import evaluated
from ambient_sweep.evaluation.grids import denoising_grid, pair_grid
from ambient_sweep.evaluation.reference import Reference
from ambient_sweep.models import Shape
from ambient_sweep.training.group import SINGLE, Group
from ambient_sweep.training.posthoc_ema import POOR, reconstruct
from ambient_sweep.training.state import TrainState, save_model
from ambient_sweep.trial.recorder import TrialRecorder
from ambient_sweep.trial.records import (
    UNUSABLE,
    EvaluationRecord,
    checkpoint_folder,
    evaluation_path,
    read_evaluation,
    write_evaluation,
)
from ambient_sweep.trial.samples import as_sampled, generate
from ambient_sweep.trial.setup import use_device

GRID_SAMPLES = 32
DENOISED = 8  # observations in the picture of denoising
MOST_MISFIT, OBSERVED = 0.5, 2000  # of samples of a usable generator, by so many observations
LEAST_RECALL = 0.05


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a trial's state where it stands; every worker calls it and makes a part of the samples."""

    recorder: TrialRecorder
    reference: Reference
    clean: ImageData
    observed: ObservedImages
    counts: tuple[int, ...]  # of training images, per class, for a conditional model

    def __call__(self, state: TrainState, before_batch: Callable[[], None]) -> tuple[list[EvaluationRecord], bool]:
        """One evaluation per endpoint, on rank 0, and whether they are new; those of an earlier attempt are read.

        A checkpoint that is missing beside them, as after the end of a sweep, is written again. `before_batch` is called
        before each batch of samples, and may raise.
        """
        config, group, recorder, images = state.config, state.group, self.recorder, state.images
        root, trial_id = recorder.root, recorder.trial_id
        checkpoint = checkpoint_folder(root, trial_id, images)
        paths = [evaluation_path(root, trial_id, images, endpoint) for endpoint in config.endpoints(images)]
        done, saved = group.broadcast((all(path.exists() for path in paths), checkpoint.exists()))
        save = partial(save_model, checkpoint, config=config, images=images, shape=state.shape, extra=self.notes)
        if done:
            if not saved and group.rank == 0:
                save(self._averaged(state).state_dict())
            return [read_evaluation(path, trial_id) for path in paths], False
        denoiser = self._averaged(state)
        records: list[EvaluationRecord] = []
        for samples, record in measured(
            config, trial_id, images, denoiser, state.shape, self.reference, self.counts,
            seed=config.evaluation.seed, group=group, before_batch=before_batch,
        ):  # fmt: skip
            if not records:
                save(denoiser.state_dict())
                if not config.is_distilled(images):
                    self._show_denoising(denoiser, images, state.device)
            if config.is_distilled(images):
                record = replace(record, problem=problem_of(samples, record, self.observed, config))
            shown = coding(config, str(state.device))[1](samples[:GRID_SAMPLES])
            distances, nearest = self.reference.nearest_train(to_uint8(shown), str(state.device))
            pairs = torch.cat([shown, self.clean.train[nearest[:, 0].cpu().numpy().astype(np.int64)]], dim=2)
            png = pair_grid(pairs, distances, self.reference.heldout.distances[:, 0], config.evaluation.quantile)
            recorder.picture(images, record.endpoint, png)
            write_evaluation(root, record)
            records.append(record)
        return records, True

    def _show_denoising(self, denoiser: Denoiser, images: int, device: torch.device) -> None:
        y, sigma_n, _, labels = self.observed.read(np.arange(min(DENOISED, len(self.observed))))
        computed = as_sampled(denoiser, self.recorder.config)
        bound = given(computed, labels.to(device) if self.counts and labels is not None else None)
        decode = coding(self.recorder.config, str(device))[1]
        self.recorder.denoised(images, denoising_grid(bound, y.to(device), sigma_n.to(device), decode))

    def own(self, record: EvaluationRecord) -> EvaluationRecord:
        """The evaluation that another trial made of the same weights and samples, as this trial would record it."""
        return replace(record, **_place(self.recorder.config, self.recorder.trial_id, record.images, record.endpoint))

    @property
    def notes(self) -> dict[str, object]:
        """What a checkpoint or snapshot needs beside config and weights."""
        return {
            "shape": [*self.observed.images.shape[-3:]],
            "data_fingerprint": self.reference.settings.data_fingerprint,
            "classes": len(self.counts),
            "class_counts": list(self.counts),
        }

    def _averaged(self, state: TrainState) -> Denoiser:
        """The averaged weights of ema.length, on every worker; reconstructed from the snapshots where it is not tracked."""
        ema = state.config.ema
        if ema.kind == "halflife" or ema.length in ema.tracked:
            return state.average
        weights, found = reconstruct(self.recorder.folder, ema.length, state.images)
        if found.residual > POOR:
            self.recorder.note(
                f"ema.length={ema.length} at {state.images:,} images: poorly represented by the snapshots so far "
                f"(relative error {found.residual:.0%} of its profile)"
            )
        return state.with_weights(weights)


def problem_of(samples: torch.Tensor, record: EvaluationRecord, observed: ObservedImages, config: Config) -> str | None:
    """What tells that a generator has collapsed, diverged or not yet learnt."""
    rows = rng.permutation("evaluation.misfit", config.seed, 0, len(observed))[:OBSERVED]  # of all groups
    y, sigma_n, _, _ = observed.read(rows)
    off, recall = misfit(samples, y, sigma_n, config.data.flip), record.measures.get("recall")
    if off > MOST_MISFIT:
        text = f"mean and variance of its samples differ by {off:.2g} variances from what the observations imply"
    elif recall is not None and recall.value < LEAST_RECALL:
        text = f"its samples resemble {recall.value:.1%} of the held-out images (recall)"
    else:
        return None
    cure = "train on if that improves, else lower distillation.lr or observed.sigma, or use more training images"
    return f"{UNUSABLE} after {record.images:,} images: {text}; {cure}"


def misfit(samples: torch.Tensor, y: torch.Tensor, sigma_n: torch.Tensor, flip: bool = False) -> float:
    """How far samples [N,C,H,W] are from the mean and variance that observations y [M,C,H,W] of noise sigma_n [M] imply.

    Of clean images these are E y and Var y - sigma_n^2, summed over pixels; with `flip`, of the images and their mirror
    images. The squared distance of the means and the difference of the variances, each less what chance adds to it, over
    that variance, or over six of its standard errors where noise hides it; then only the lower half of mixed noise levels
    counts.
    """
    mean, variance, error, spread = _clean_moments(y, sigma_n, flip)
    if variance < 6 * error and len(y) > 2:
        lower = sigma_n <= sigma_n.median()
        y, sigma_n = y[lower], sigma_n[lower]
        mean, variance, error, spread = _clean_moments(y, sigma_n, flip)
    made = samples.double()
    found = made.var(0).sum()
    chance = y.double().var(0).sum() / len(y) + found / len(made)
    means = ((made.mean(0) - mean) ** 2).sum() - chance
    variances = (found - variance).abs() - 3 * spread / len(made) ** 0.5
    return float((means.clamp_min(0) + variances.clamp_min(0)) / torch.maximum(variance, 6 * error))


def _clean_moments(y: torch.Tensor, sigma_n: torch.Tensor, flip: bool) -> tuple[torch.Tensor, ...]:
    """E y; Var y - sigma_n^2, summed over pixels; the standard error that the noise gives it; the standard deviation of
    the squared distances from E y."""
    power = sigma_n.double() ** 2  # of a pixel's noise
    mean = y.double().mean(0)
    mean = (mean + mean.flip(-1)) / 2 if flip else mean  # an image and its mirror image are as far from it
    distances = ((y - mean) ** 2).sum((1, 2, 3))
    variance = distances.sum() / (len(y) - 1) - mean.numel() * power.mean()
    error = (2 * mean.numel() * (power**2).mean() + 4 * variance.clamp_min(0) * power.mean()) / len(y)
    return mean, variance, error.sqrt(), distances.std()


def measured(
    config: Config,
    trial_id: str,
    images: int,
    denoiser: Denoiser,
    shape: Shape,
    reference: Reference,
    counts: tuple[int, ...],
    *,
    seed: int,
    group: Group = SINGLE,
    before_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[torch.Tensor, EvaluationRecord]]:
    """Samples of a trial's model after `images` at each endpoint, and their record, on rank 0; every worker calls it."""
    device, count, begun = use_device(config), config.evaluation.samples, time.perf_counter()
    made = generate(
        config, denoiser, shape, count, seed, group, device,
        endpoints=config.endpoints(images), counts=counts, before_batch=before_batch,
    )  # fmt: skip
    sampling = (time.perf_counter() - begun) / len(made)
    for endpoint, samples in made.items():
        if group.rank != 0:
            continue
        begun = time.perf_counter()
        measures, similarities = evaluated(samples, reference, device=device, decode=coding(config, device)[1])
        yield (
            samples,
            EvaluationRecord(
                **_place(config, trial_id, images, endpoint),
                images=images,
                endpoint=endpoint,
                samples=count,
                seed=seed,
                seconds=sampling + time.perf_counter() - begun,
                measures=measures,
                fidelity=config.evaluation.fidelity,
                memorization=config.evaluation.memorization,
                similarities=similarities,
            ),
        )


def _place(config: Config, trial_id: str, images: int, endpoint: str) -> dict[str, Any]:
    return {
        "trial_id": trial_id,
        "fraction": evaluated_lengths(config).get(images, images / config.images_at(1.0)),
        "main_endpoint": endpoint == config.main_endpoint(images),
        "checkpoint": checkpoint_folder(Path(), trial_id, images).as_posix(),
    }
