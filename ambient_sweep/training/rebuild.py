"""Snapshots of the two tracked averages, and an average of any length made from them after training (EDM2, section 3.2).

A snapshot is a folder `<trial folder>/snapshots/images-000012800/` of safetensors (float32, both averages) and JSON with
their sha256, lengths, position and config. Rebuilding reads one snapshot at a time, adds up in float64 and gives float32.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ambient_sweep.config import Config, build_config
from ambient_sweep.config.positions import snapshot_images
from ambient_sweep.diffusion.denoiser import Denoiser
from ambient_sweep.diffusion.power_ema import LONGEST, SHORTEST, coefficients
from ambient_sweep.errors import UserError
from ambient_sweep.models import build_model
from ambient_sweep.storage import remove
from ambient_sweep.training.averages import HALFLIFE, average_name, part
from ambient_sweep.training.files import FORMAT, read_tensors, write_tensors
from ambient_sweep.training.state import save_model, trained_config

SNAPSHOTS, SNAPSHOT = "snapshots", "snapshot"
NEEDS = ("images", "lengths", "config", "notes")
FEWEST = 2  # snapshots without which a length between the tracked ones is but a guess
POOR = 0.1  # residual above which a length is poorly represented: docs/averages.md

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Rebuilt:
    """Where an average comes from, and how well it was rebuilt."""

    length: float
    images: int
    residual: float  # relative L2 error of its profile
    snapshots: int  # those at hand
    config: Config  # of its training, with ema.length the one rebuilt
    notes: dict[str, Any]  # what `save_snapshot` was given

    @property
    def poor(self) -> bool:
        return self.residual > POOR


def snapshot_due(config: Config, images_before: int, images: int) -> bool:
    """Whether the step from `images_before` to `images` ends with a snapshot."""
    return any(images_before < at <= images for at in snapshot_images(config))


def snapshot_folder(trial_folder: Path, images: int) -> Path:
    return trial_folder / SNAPSHOTS / f"images-{images:09d}"


def save_snapshot(
    trial_folder: Path, config: Config, tensors: Mapping[str, torch.Tensor], images: int, notes: Mapping[str, Any]
) -> None:
    """Writes the tracked averages (`Averages.tensors()`, whole) at `images`, all or nothing.

    `notes` holds what a checkpoint needs beside its config: `shape` (C, H, W), `data_fingerprint`, and `classes` if any.
    """
    meta = {
        "format": FORMAT, "images": images, "lengths": list(config.ema.tracked),
        "config": config.model_dump(mode="json"), "notes": {**notes, "shape": list(notes["shape"])},
    }  # fmt: skip
    write_tensors(snapshot_folder(trial_folder, images), SNAPSHOT, dict(tensors), meta)


def snapshots_at(trial_folder: Path) -> list[int]:
    """The image counts of the snapshots in a trial's folder, rising. Raises UserError for a name that is none."""
    found = []
    for folder in (trial_folder / SNAPSHOTS).glob("images-*"):
        digits = folder.name.removeprefix("images-")
        if not digits.isdigit() or int(digits) == 0:
            raise UserError(f"{folder}: is no snapshot; remove it or name it images- and its images")
        found.append(int(digits))
    return sorted(found)


def remove_snapshots(trial_folder: Path, images: int) -> None:
    """Removes the snapshots made after `images`: training went back there and will not pass through the same weights."""
    for position in snapshots_at(trial_folder):
        if position > images:
            remove(snapshot_folder(trial_folder, position))


def rebuild(trial_folder: Path, length: float, images: int | None = None) -> tuple[Tensors, Rebuilt]:
    """The weights averaged with `length` over the first `images` of training (by default all), by parameter, on the CPU.

    Memory: the result in float64 and one snapshot. Raises UserError for a length out of range, images without a snapshot,
    too few snapshots, and a snapshot that is damaged or of other training.
    """
    if not SHORTEST <= length <= LONGEST:
        raise UserError(f"length {length}: is out of range; use {SHORTEST} to {LONGEST}")
    place, stored = trial_folder / SNAPSHOTS, snapshots_at(trial_folder)
    if not stored:
        raise UserError(f"{place}: holds no snapshot; training writes them with ema.kind=power")
    at = stored[-1] if images is None else images
    if at not in stored:  # a profile ends with a jump at its last image, which no snapshot elsewhere has: 20 % error
        near = " and ".join(str(s) for s in sorted(sorted(stored, key=lambda s: abs(s - at))[:2]))
        raise UserError(
            f"{place}: holds no snapshot at {at} images; the nearest are at {near}, the last at {stored[-1]}"
        )
    meta = _meta(snapshot_folder(trial_folder, at))
    tracked = tuple(float(value) for value in meta["lengths"])
    positions = [position for position in stored if position <= at]
    if length not in tracked and len(positions) < FEWEST:
        raise UserError(
            f"{place}: too few snapshots up to {at} images for length {length}: {len(positions)} of at least {FEWEST}; "
            f"use {' or '.join(map(str, tracked))}, or train with more ema.snapshots"
        )
    config = build_config(meta["config"], {"ema.length": length}, where=str(snapshot_folder(trial_folder, at)))
    tensors, residual = _combine(
        length, at, tracked, positions, lambda position: _read(trial_folder, position, meta["config"])
    )
    return tensors, Rebuilt(length, at, residual, len(positions), config, meta["notes"])


def as_denoiser(tensors: Mapping[str, torch.Tensor], rebuilt: Rebuilt) -> Denoiser:
    """The rebuilt weights as a denoiser in eval mode, on the CPU. Raises UserError where they do not fit the config."""
    channels, height, width = rebuilt.notes["shape"]
    classes = int(rebuilt.notes.get("classes", 0))
    denoiser = build_model(rebuilt.config.model, (channels, height, width), rebuilt.config.seed, classes)
    try:
        denoiser.load_state_dict(dict(tensors))
    except RuntimeError:
        raise UserError(f"the snapshots up to {rebuilt.images} images do not fit the config they name") from None
    return denoiser.requires_grad_(False).eval()


def save_rebuilt(folder: Path, tensors: Mapping[str, torch.Tensor], rebuilt: Rebuilt) -> None:
    """Writes the rebuilt weights as a checkpoint, whose notes tell the length and the residual."""
    extra = {key: value for key, value in rebuilt.notes.items() if key != "shape"}
    extra |= {"ema_length": rebuilt.length, "ema_residual": rebuilt.residual}
    channels, height, width = rebuilt.notes["shape"]
    save_model(folder, as_denoiser(tensors, rebuilt), rebuilt.config, rebuilt.images, (channels, height, width), extra)


def evaluated(
    config: Config, tensors: Mapping[str, torch.Tensor], trial_folder: Path, images: int
) -> tuple[Tensors, float]:
    """The weights that a run evaluates after `images`, by parameter, and the residual of their profile.

    `tensors` are the averages now (`Averages.tensors()`, whole). For ema.kind=halflife and for a tracked ema.length they
    hold the answer; else it is rebuilt on the CPU from them and the snapshots before them in the trial's folder, to the
    same bits as `rebuild` gives later from the snapshot at `images`.
    """
    if config.ema.kind == "halflife":
        return part(tensors, HALFLIFE), 0.0
    length, tracked = config.ema.length, config.ema.tracked
    if length in tracked:
        return part(tensors, average_name(length)), 0.0
    positions = [*(position for position in snapshots_at(trial_folder) if position < images), images]

    def read(position: int) -> Mapping[str, torch.Tensor]:
        return tensors if position == images else _read(trial_folder, position, config.model_dump(mode="json"))

    return _combine(length, images, tracked, positions, read)


def _combine(
    length: float,
    images: int,
    tracked: Sequence[float],
    positions: Sequence[int],
    read: Callable[[int], Mapping[str, torch.Tensor]],
) -> tuple[Tensors, float]:
    """The average of `length` at `images` from all tracked ones at all `positions`, and its residual."""
    mix = coefficients(length, images, np.tile(tracked, len(positions)), np.repeat(positions, len(tracked)))
    total: Tensors = {}
    for position, weights in zip(positions, mix.weights.reshape(-1, len(tracked)), strict=True):
        if weights.any():
            _add(total, read(position), dict(zip(tracked, weights.tolist(), strict=True)), position)
    return {name: value.float() for name, value in total.items()}, mix.residual


def _add(
    total: Tensors, tensors: Mapping[str, torch.Tensor], weights: Mapping[float, float], position: int
) -> None:  # fmt: skip
    """Adds the averages of one snapshot to `total` (float64), which it makes where it is empty."""
    for length, weight in weights.items():
        values = part(tensors, average_name(length))
        if not total:
            total |= {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in values.items()}
        if {name: value.shape for name, value in values.items()} != {name: t.shape for name, t in total.items()}:
            raise UserError(f"the snapshot at {position} images holds other weights than those before it; remove it")
        for name, value in values.items():
            total[name].add_(value.detach().cpu(), alpha=weight)


def _read(trial_folder: Path, images: int, config: dict[str, Any]) -> Tensors:
    """The tensors of one snapshot. Raises UserError where it is damaged, or of training by another config."""
    folder = snapshot_folder(trial_folder, images)
    tensors, meta = read_tensors(folder, SNAPSHOT, "cpu", needs=NEEDS)
    if meta["images"] != images or trained_config(meta["config"]) != trained_config(config):
        raise UserError(f"{folder}: is of other training than this trial's; remove it")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(f"{folder}: holds weights that are not finite; use the images of a snapshot before it")
    return tensors


def _meta(folder: Path) -> dict[str, Any]:
    """The JSON of a snapshot; its tensors stay on disk."""
    file = folder / f"{SNAPSHOT}.json"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove its folder to do without this snapshot") from None
    if not isinstance(meta, dict) or any(key not in meta for key in NEEDS):
        raise UserError(f"{file}: damaged; remove its folder to do without this snapshot")
    return meta
