"""A trained model measured in full: its samples, how it denoises, and what an attack extracts from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ambient_sweep import rng
from ambient_sweep.config import Config
from ambient_sweep.data.dataset import ImageData, load_clean
from ambient_sweep.data.evaluation_set import ImageSet
from ambient_sweep.data.pixels import Pixels
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.attack.denoising import denoising_gap
from ambient_sweep.evaluation.attack.extraction import LEAST, Attack, attack, worst_cases
from ambient_sweep.evaluation.attack.subjects import Subjects
from ambient_sweep.evaluation.decoding import Decode, coding
from ambient_sweep.evaluation.evaluator import FullEvaluation, Report, Row, eight_bits
from ambient_sweep.evaluation.reference import RealImages
from ambient_sweep.evaluation.required_images import all_measures, with_similarity
from ambient_sweep.models import base_of
from ambient_sweep.training.state import state_name
from ambient_sweep.trial.retention import is_of_trial
from ambient_sweep.trial.samples import as_sampled, class_counts, generate
from ambient_sweep.trial.setup import cached_data, use_device
from ambient_sweep.trial.tensorboard import Board

RESTORED = (100, 250, 500, 800)  # timesteps of a base, of 1000, from whose levels latents are restored
GAP_IMAGES = 1000  # at most, of each of the two sets on which the denoising gap is measured


@dataclass(frozen=True)
class CheckpointReport:
    """Its samples at each endpoint, rows of the model itself, and lines on the attack."""

    samples: Mapping[str, Report]
    model: tuple[Row, ...]
    attack: tuple[str, ...]
    warnings: tuple[str, ...]  # of all


def evaluate_checkpoint(
    denoiser: Denoiser,
    config: Config,
    images: int,
    data_fingerprint: str,
    *,
    without: Sequence[str] = (),
    attack_folder: Path | None = None,
    attack_images: int = 200,
) -> CheckpointReport:
    """Everything about a model trained for so many images, against those of `config`.

    A one-step generator denoises nothing: it has no denoising gap, and cannot be attacked. `without` names measures to leave
    out. With an `attack_folder`, `attack_images` training images are attacked, and pictures of it go there. Raises UserError
    where the images are too few or not those of its training (`data_fingerprint`) or an attack has no meaning, and
    AmbientSweepError where samples are not finite.
    """
    device, data, clean = use_device(config), cached_data(config.data), load_clean(config, cached_data)
    encode, decode = coding(config, device)
    distilled = config.is_distilled(images)
    if distilled and attack_folder is not None:
        teacher = state_name(config.images_at(config.distillation.start))
        raise UserError(f"--attack: a one-step generator restores no image; attack its teacher, checkpoint {teacher}")
    if clean.fingerprint != data_fingerprint:
        source = config.evaluation.path or config.data.path or config.data.source
        raise UserError(f"{source}: not the images this model was trained with")
    denoiser, evaluation = denoiser.to(device), with_similarity(config.evaluation)
    names, real = all_measures(evaluation, without), RealImages.of_data(clean)
    dropped, warnings = len(clean.heldout) - len(real.heldout), []
    if dropped:
        warnings.append(f"{dropped} held-out images are training images too and were left out")
    if attack_folder is not None and len(real.kept) < LEAST:
        raise UserError(f"--attack: needs at least {LEAST} held-out images, there are {len(real.kept)}")
    full = FullEvaluation(real, evaluation, names, device)
    count, seed = config.evaluation.samples, config.evaluation.seed
    endpoints, counts = config.endpoints(images), class_counts(config, data)
    made = generate(config, denoiser, data.shape, count, seed, device=device, endpoints=endpoints, counts=counts)
    reports = {
        endpoint: full.report(ImageSet.of(f"samples ({endpoint})", eight_bits(samples, decode).numpy()))
        for endpoint, samples in made.items()
    }
    computed, model, lines = as_sampled(denoiser, config), list[Row](), list[str]()
    if not distilled:
        subjects = _subjects(config, clean, real.kept, GAP_IMAGES, encode)
        gap = denoising_gap(computed, *subjects, seed=seed, device=device)
        model = [Row(f"denoising_gap_{sigma:g}", "memorization", measure) for sigma, measure in gap.items()]
    if attack_folder is not None:
        subjects = _subjects(config, clean, real.kept, attack_images, encode)
        stop = config.observed.sigma if config.main_endpoint(images) == "observed" else 0.0
        attacked, lines = _attacked(computed, config, stop, subjects, attack_folder, device)
        model += attacked
    warnings += [line for report in reports.values() for line in report.warnings]
    return CheckpointReport(
        samples=reports,
        model=tuple(model),
        attack=tuple(lines),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _subjects(
    config: Config, clean: ImageData, unseen: NDArray[np.int64], most: int, encode: Decode
) -> tuple[Subjects, Subjects]:
    """At most `most` training and unseen held-out images, drawn by a key, with classes for a conditional model.

    Those of latents are captions, which a store of observations has of the training images alone: then neither has any.
    """
    data = cached_data(config.data)
    owner = clean if data.latent is None else data
    conditional = config.model.conditional and (data.latent is None or data.observed is None)

    def chosen(name: str, images: Pixels, labels: torch.Tensor | None, among: NDArray[np.int64]) -> Subjects:
        rows = among[np.sort(rng.permutation(f"examine.{name}", config.evaluation.seed, 0, len(among))[:most])]
        given = labels[torch.from_numpy(rows)] if conditional and labels is not None else None
        return Subjects(encode(images[rows]), given)

    train = chosen("train", clean.train, owner.train_labels, np.arange(len(clean.train)))
    return train, chosen("heldout", clean.heldout, owner.heldout_labels, unseen)


def _attacked(
    denoiser: Callable[..., torch.Tensor],
    config: Config,
    stop: float,
    subjects: tuple[Subjects, Subjects],
    folder: Path,
    device: str,
) -> tuple[list[Row], list[str]]:
    """Rows and lines of the attack, down to the noise level `stop`; its pictures go to `folder`."""
    settings = Attack(config.sampling, stop, config.evaluation.seed)
    if config.model.kind == "lora":
        noise = tuple(float(f"{base_of(config.model).level(t):.3g}") for t in RESTORED)
        settings = replace(settings, noise=noise)
    rows, lines = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for result in attack(denoiser, *subjects, settings, device=device):
        rows += [Row(name, "memorization", *pair).seeded(settings.seed) for name, pair in result.measures.items()]
        (folder / f"{result.name}.png").write_bytes(worst_cases(result, coding(config, device)[1]))
        if result.void:
            lines.append(
                f"{result.name}: void, restoring is no better than chance: too much noise, or too poor a model"
            )
    return rows, [*lines, f"worst cases in {folder}"]


def show_attack(checkpoint: Path, images: int, found: CheckpointReport, folder: Path) -> None:
    """Adds the attack's measures, and its pictures in `folder`, to TensorBoard beside the checkpoint's trial, if any."""
    if not is_of_trial(checkpoint):
        return
    board = Board(checkpoint.parents[1] / "attack")  # a run of its own: the trial may still write to its
    board.scalars(images, {row.name: row.measure.value for row in found.model if row.name.startswith("attack_")})
    for path in sorted(folder.glob("attack_*.png")):
        board.picture(images, path.stem, path.read_bytes())
    board.close()
