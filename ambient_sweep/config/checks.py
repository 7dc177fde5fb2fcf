"""Contradictory settings, each as one line that names the keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ambient_sweep.config.sections import Config


def contradictions(c: Config) -> Iterator[str]:
    """One line for each contradiction, the most telling first."""
    for check in (_of_data, _of_split, _of_noise, _of_model, _of_training, _of_evaluation, _of_encoders):
        yield from check(c)


def _of_data(c: Config) -> Iterator[str]:
    if c.data.source == "digits" and (c.data.image_size, c.data.channels) != (8, 1):
        yield "data.image_size, data.channels: the digits are 8x8 and grey; use 8 and 1, or data.source=folder"
    if c.data.source != "digits" and c.data.path is None:
        yield f"data.path: missing; data.source={c.data.source} needs the place of the images"
    if c.data.source == "digits" and c.data.path is not None:
        yield "data.path: data.source=digits reads no path; remove it or change data.source"
    if c.data.range is not None and c.data.range[0] >= c.data.range[1]:
        yield f"data.range: must rise, as in [0, 4095], not {list(c.data.range)}"
    if c.data.range is not None and c.data.source == "digits":
        yield "data.range: the digits have a range of their own; remove it or change data.source"
    if c.data.channels > 3 and c.data.source != "store":
        yield f"data.channels: {c.data.channels} are latents, which only a store holds; use 1 or 3, or data.source=store"
    elif c.data.channels > 3 and c.model.kind != "lora":
        yield f"model.kind: {c.model.kind} cannot decode latents (data.channels={c.data.channels}); use model.kind=lora"
    if c.data.channels > 3 and c.data.flip:
        yield "data.flip: a mirrored latent is not that of the mirrored image; mirror the images before `prepare --latents`"
    if c.evaluation.path is not None and c.data.source != "store":
        yield "evaluation.path: only data.source=store reads it; remove it, or use a store"


def _of_noise(c: Config) -> Iterator[str]:
    kind, base = c.objective.kind, c.observed.base_sigma
    if c.observed.sigma < base:
        yield f"observed.sigma: {c.observed.sigma} is below observed.base_sigma={base}; noise cannot be removed"
    if kind != "denoising" and c.observed.sigma == 0:
        yield f"observed.sigma: 0, but objective.kind={kind} needs noise; use objective.kind=denoising for clean images"
    if kind == "ambient_high_clean_low" and base > 0:
        yield "observed.base_sigma: objective.kind=ambient_high_clean_low reads clean images; it needs base_sigma=0"
    if kind != "denoising" and c.observed.clean_fraction == 1:
        yield f"observed.clean_fraction: 1 leaves no noisy image for objective.kind={kind}; use objective.kind=denoising"


def _of_split(c: Config) -> Iterator[str]:
    d = c.data
    if (d.split.train is None) != (d.split.heldout is None):
        missing = "train" if d.split.train is None else "heldout"
        yield f"data.split.{missing}: missing; data.split needs both, as in data.split={{train: FOLDER, heldout: FOLDER}}"
    if sum(key is not None for key in (d.split.train, d.group_column, d.group_pattern)) > 1:
        yield "data.split, data.group_column, data.group_pattern: each says how to split; keep one of them"
    try:
        if d.group_pattern is not None and re.compile(d.group_pattern).groups == 0:
            yield f"data.group_pattern: {d.group_pattern} has no group; set one in brackets, as in '^([^_]+)_'"
    except re.error as error:
        yield f"data.group_pattern: {d.group_pattern} is not a regular expression ({error})"


def _of_model(c: Config) -> Iterator[str]:
    m = c.model
    divisor = 2 ** (m.levels - 1)
    if m.kind == "unet" and c.data.image_size % divisor:
        yield f"model.levels: {m.levels} need data.image_size to be a multiple of {divisor}, not {c.data.image_size}"
    if m.kind == "unet" and m.multipliers and len(m.multipliers) != m.levels:
        yield f"model.multipliers: has {len(m.multipliers)} values for model.levels={m.levels}; give one per resolution"
    if m.kind == "unet":
        sides = [c.data.image_size // 2**level for level in range(m.levels)]
        unknown = [side for side in m.attention if side not in sides]
        if unknown:
            given = f"data.image_size={c.data.image_size} and model.levels={m.levels}"
            yield f"model.attention: {unknown[0]} is not a resolution of {given}; {', '.join(map(str, sides))} are"
    if m.kind == "dit" and c.data.image_size % m.patch:
        yield f"model.patch: {m.patch} does not divide data.image_size={c.data.image_size}"
    if m.kind == "dit" and m.width % m.head_width:
        yield f"model.head_width: {m.head_width} does not divide model.width={m.width}"
    if m.kind == "lora" and m.base is None:
        yield "model.base: missing; model.kind=lora needs the diffusers folder of a base"
    if m.kind != "lora" and m.base is not None:
        yield f"model.base: model.kind={m.kind} reads none; remove it or use model.kind=lora"
    if m.kind == "lora" and c.data.source != "store":
        yield f"data.source: {c.data.source} holds no latents; model.kind=lora needs a store from `prepare --latents`"
    if c.noise.law == "timesteps" and m.kind != "lora":
        yield f"noise.law: timesteps are those of a base; model.kind={m.kind} has none; use lognormal"
    if c.sampling.guidance > 1 and not (m.conditional and m.label_dropout > 0):
        yield "sampling.guidance: above 1 it needs model.conditional=true and model.label_dropout above 0"


def _of_training(c: Config) -> Iterator[str]:
    batch, rest = divmod(c.training.batch_size, c.resources.workers)
    if rest:
        yield f"training.batch_size: {c.training.batch_size} is not a multiple of resources.workers={c.resources.workers}"
    elif batch % c.compute.accumulate:
        yield f"compute.accumulate: {c.compute.accumulate} parts do not divide training.batch_size per worker, {batch}"
    if c.compute.channels_last and c.model.kind != "unet":
        yield f"compute.channels_last: model.kind={c.model.kind} has no convolutions to train; use false"
    if c.objective.kind == "ambient_distilled":
        if c.images_at(c.distillation.start) >= c.steps * c.training.batch_size:
            yield f"distillation.start: {c.distillation.start} leaves none of {c.steps} steps; lower it, or train longer"
        if c.ema.kind == "power":
            yield "ema.kind: power averages are over a whole run, and a generator begins at distillation.start; use halflife"
        if not c.observed.sigma < c.distillation.sigma <= c.sampling.sigma_max:
            levels = f"observed.sigma={c.observed.sigma} and at most sampling.sigma_max={c.sampling.sigma_max}"
            yield f"distillation.sigma: {c.distillation.sigma} must be above {levels}"
        if c.model.kind == "lora":
            yield "objective.kind: ambient_distilled would hold the base of model.kind=lora three times; use ambient"
        if c.sampling.guidance > 1:
            yield "sampling.guidance: a generator (objective.kind=ambient_distilled) has one pass, without guidance; use 1"
    if c.ema.kind == "power" and c.ema.tracked[0] >= c.ema.tracked[1]:
        yield "ema.tracked: the two lengths must rise, as in [0.05, 0.1]"


def _of_evaluation(c: Config) -> Iterator[str]:
    if c.observed.sigma >= c.sampling.sigma_max:
        yield f"sampling.sigma_max: {c.sampling.sigma_max} is not above observed.sigma={c.observed.sigma}"
    if c.sampling.sigma_min >= c.sampling.sigma_max:
        yield f"sampling.sigma_min: {c.sampling.sigma_min} is not below sampling.sigma_max={c.sampling.sigma_max}"
    if c.evaluation.fidelity not in c.evaluation.distances:
        yield f"evaluation.fidelity: {c.evaluation.fidelity} is not among evaluation.distances"
    for name in ("lengths", "distances", "endpoints", "extras"):
        values = getattr(c.evaluation, name)
        if len(set(values)) != len(values):
            yield f"evaluation.{name}: has a value twice"
    if list(c.evaluation.lengths) != sorted(c.evaluation.lengths) or c.evaluation.lengths[-1] != 1:
        yield "evaluation.lengths: must rise and end with 1.0, the full length"
    if len({c.images_at(f) for f in c.evaluation.lengths}) != len(c.evaluation.lengths):
        yield f"evaluation.lengths: two are the same step of {c.steps}; raise training.images or lower training.batch_size"
    for key in ("batch_size", "precision", "compile"):
        default = type(c.sampling).model_fields[key].default
        if c.sampling.mode == "exact" and getattr(c.sampling, key) != default:
            yield f"sampling.{key}: sampling.mode=exact fixes it; use sampling.mode=fast or leave it out"


def _of_encoders(c: Config) -> Iterator[str]:
    e = c.evaluation
    encoders = {*e.distances, e.similarity}
    if e.memorization == "sim_excess" and e.similarity is None:
        yield "evaluation.similarity: missing; evaluation.memorization=sim_excess needs an encoder, for example fd_sscd"
    if "fd_file" in encoders and e.encoder_file is None:
        yield "evaluation.encoder_file: missing; fd_file needs the file of the encoder"
    if "fd_file" not in encoders and e.encoder_file is not None:
        yield "evaluation.encoder_file: only the distance fd_file reads it; add fd_file to evaluation.distances"
    if e.encoder_file is not None and e.encoder_sha256 is None:
        yield "evaluation.encoder_sha256: missing; your own encoder needs its hash (sha256sum FILE)"
