"""Post-hoc EMA: an average of any length, reconstructed from snapshots after training (EDM2, section 3.2).

A snapshot is a folder `<trial folder>/snapshots/images-000012800/` of safetensors (float32, both tracked averages) and JSON
with their sha256, lengths, position and config. Reconstruction reads one snapshot at a time, sums in float64 and returns
float32.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ambient_sweep.config import Config, build_config
from ambient_sweep.diffusion.power_ema import LONGEST, SHORTEST, coefficients
from ambient_sweep.errors import UserError
from ambient_sweep.training.averages import average_name, part
from ambient_sweep.training.files import read_notes, read_tensors, write_tensors
from ambient_sweep.training.state import Tensors, save_model, trained_config

SNAPSHOTS, SNAPSHOT = "snapshots", "snapshot"
FEWEST = 2  # snapshots needed for a length that is not tracked
POOR = 0.1  # residual above which a length is poorly represented: docs/averages.md


@dataclass(frozen=True)
class Reconstruction:
    """Where an average comes from, and how well it was reconstructed."""

    length: float
    images: int
    residual: float  # relative L2 error of its profile
    snapshots: int  # those available
    config: Config  # of its training, with ema.length the reconstructed one
    notes: dict[str, Any]  # what `save_snapshot` was given


def snapshot_folder(trial_folder: Path, images: int) -> Path:
    return trial_folder / SNAPSHOTS / f"images-{images:09d}"


def save_snapshot(
    trial_folder: Path, config: Config, tensors: Mapping[str, torch.Tensor], images: int, notes: Mapping[str, Any]
) -> None:
    """Writes the tracked averages (`Averages.tensors()`) at `images`, all or nothing.

    `notes` holds what a checkpoint needs beside its config: `shape` (C, H, W), `data_fingerprint`, and `classes` if any.
    """
    meta = {"images": images, "lengths": config.ema.tracked, "config": config.model_dump(mode="json"), "notes": notes}
    write_tensors(snapshot_folder(trial_folder, images), SNAPSHOT, dict(tensors), meta)


def snapshots_at(trial_folder: Path) -> list[int]:
    """The image counts of the snapshots in a trial's folder, rising. Raises UserError for a folder with another name."""
    found = []
    for folder in (trial_folder / SNAPSHOTS).glob("images-*"):
        digits = folder.name.removeprefix("images-")
        if not digits.isdigit() or int(digits) == 0:
            raise UserError(f"{folder}: not a snapshot; remove it, or name it images- and its image count")
        found.append(int(digits))
    return sorted(found)


def reconstruct(trial_folder: Path, length: float, images: int | None = None) -> tuple[Tensors, Reconstruction]:
    """The weights averaged with `length` over the first `images` of training (by default all), by parameter, on the CPU.

    Memory: the result in float64 and one snapshot. Raises UserError for a length out of range, images without a snapshot,
    too few snapshots, and a snapshot that is damaged or belongs to other training.
    """
    if not SHORTEST <= length <= LONGEST:
        raise UserError(f"length {length}: out of range; use {SHORTEST} to {LONGEST}")
    place, stored = trial_folder / SNAPSHOTS, snapshots_at(trial_folder)
    if not stored:
        raise UserError(f"{place}: no snapshots; training writes them with ema.kind=power")
    at = stored[-1] if images is None else images
    if at not in stored:  # a profile ends with a jump at its last image, which no snapshot elsewhere has: 20 % error
        near = " and ".join(str(s) for s in sorted(sorted(stored, key=lambda s: abs(s - at))[:2]))
        raise UserError(f"{place}: no snapshot at {at} images; the nearest are at {near}, the last at {stored[-1]}")
    meta = read_notes(snapshot_folder(trial_folder, at), SNAPSHOT)
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
    return tensors, Reconstruction(length, at, residual, len(positions), config, meta["notes"])


def save_reconstruction(folder: Path, tensors: Tensors, source: Reconstruction) -> None:
    """Writes the reconstructed weights as a checkpoint whose notes hold the length and the residual."""
    extra = source.notes | {"ema_length": source.length, "ema_residual": source.residual}
    save_model(folder, tensors, source.config, source.images, source.notes["shape"], extra)


def evaluated_average(
    config: Config, tensors: Mapping[str, torch.Tensor], trial_folder: Path, images: int
) -> tuple[Tensors, float]:
    """The average of ema.length after `images`, by parameter, on the CPU, and the residual of its profile.

    It is reconstructed from `tensors`, the averages now (`Averages.tensors()`), and the snapshots before them in the
    trial's folder, to the same bits as `reconstruct` does later from the snapshot at `images`.
    """
    length, tracked = config.ema.length, config.ema.tracked
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
            _add(total, read(position), dict(zip(tracked, weights.tolist(), strict=True)))
    return {name: value.float() for name, value in total.items()}, mix.residual


def _add(total: Tensors, tensors: Mapping[str, torch.Tensor], weights: Mapping[float, float]) -> None:
    """Adds the averages of one snapshot to `total` (float64), which may still be empty."""
    for length, weight in weights.items():
        values = part(tensors, average_name(length))
        if not total:
            total |= {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in values.items()}
        for name, value in values.items():
            total[name].add_(value.detach().cpu(), alpha=weight)


def _read(trial_folder: Path, images: int, config: dict[str, Any]) -> Tensors:
    """The tensors of one snapshot. Raises UserError if it is damaged or belongs to another config."""
    folder = snapshot_folder(trial_folder, images)
    tensors, meta = read_tensors(folder, SNAPSHOT, "cpu")
    if meta["images"] != images or trained_config(meta["config"]) != trained_config(config):
        raise UserError(f"{folder}: belongs to another training run; remove it")
    return tensors
