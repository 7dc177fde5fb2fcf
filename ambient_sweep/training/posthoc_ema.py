"""Post-hoc EMA: an average of any length, reconstructed from snapshots after training (EDM2, section 3.2).

A snapshot is a folder `<trial folder>/snapshots/images-000012800/` of safetensors (float32, both tracked averages) and JSON
with their sha256, position and config. Reconstruction reads one snapshot at a time, sums in float64 and returns float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ambient_sweep.config import Config, build_config
from ambient_sweep.diffusion.ema import coefficients
from ambient_sweep.errors import UserError
from ambient_sweep.training.averages import average_name, part
from ambient_sweep.training.files import read_notes, read_tensors, write_tensors
from ambient_sweep.training.state import Tensors, positions_in, save_model, state_name, trained_config

SNAPSHOTS, SNAPSHOT = "snapshots", "snapshot"
POOR = 0.1  # residual above which a length is poorly represented: docs/averages.md


@dataclass(frozen=True)
class Reconstruction:
    """Where an average comes from, and how well it was reconstructed."""

    images: int
    residual: float  # relative L2 error of its profile
    snapshots: int  # those available
    config: Config  # of its training, with ema.length the reconstructed one
    notes: dict[str, Any]  # what `save_snapshot` was given


def snapshot_folder(trial_folder: Path, images: int) -> Path:
    return trial_folder / SNAPSHOTS / state_name(images)


def save_snapshot(
    trial_folder: Path, config: Config, tensors: Mapping[str, torch.Tensor], images: int, notes: Mapping[str, Any]
) -> None:
    """Writes the tracked averages (`Averages.tensors()`) at `images`, all or nothing.

    `notes` holds what a checkpoint needs beside its config: `shape` (C, H, W), `data_fingerprint`, and `classes` if any.
    """
    meta = {"images": images, "config": config.model_dump(mode="json"), "notes": notes}
    write_tensors(snapshot_folder(trial_folder, images), SNAPSHOT, dict(tensors), meta)


def reconstruct(trial_folder: Path, length: float, images: int | None = None) -> tuple[Tensors, Reconstruction]:
    """The weights averaged with `length` over the first `images` of training (by default all), by parameter, on the CPU.

    Memory: the result in float64 and one snapshot. Raises UserError for a length out of range, images without a snapshot,
    and a snapshot that is damaged or belongs to another training run.
    """
    place = trial_folder / SNAPSHOTS
    stored = positions_in(place)
    if not stored:
        raise UserError(f"{place}: no snapshots; training writes them with ema.kind=power")
    at = stored[-1] if images is None else images
    folder = snapshot_folder(trial_folder, at)
    if not folder.exists():  # a profile ends with a jump at its last image, which no snapshot elsewhere has: 20 % error
        near = " and ".join(str(s) for s in sorted(sorted(stored, key=lambda s: abs(s - at))[:2]))
        raise UserError(f"{place}: no snapshot at {at} images; the nearest are at {near}, the last at {stored[-1]}")
    meta = read_notes(folder, SNAPSHOT)
    config = build_config(meta["config"], {"ema.length": length}, where=str(folder))
    tracked, positions = config.ema.tracked, [*(position for position in stored if position < at), at]
    mix, residual = coefficients(length, at, np.tile(tracked, len(positions)), np.repeat(positions, len(tracked)))
    total: Tensors = {}
    for position, weights in zip(positions, mix.reshape(-1, len(tracked)), strict=True):
        if weights.any():
            snapshot = snapshot_folder(trial_folder, position)
            tensors, own = read_tensors(snapshot, SNAPSHOT, "cpu")
            if own["images"] != position or trained_config(own["config"]) != trained_config(meta["config"]):
                raise UserError(f"{snapshot}: belongs to another training run; remove it")
            for name, weight in zip(map(average_name, tracked), weights.tolist(), strict=True):
                for key, value in part(tensors, name).items():
                    total.setdefault(key, torch.zeros_like(value, dtype=torch.float64)).add_(value, alpha=weight)
    found = Reconstruction(at, residual, len(positions), config, meta["notes"])
    return {name: value.float() for name, value in total.items()}, found


def save_reconstruction(folder: Path, tensors: Tensors, source: Reconstruction) -> None:
    """Writes the reconstructed weights as a checkpoint whose notes hold the length and the residual."""
    extra = source.notes | {"ema_length": source.config.ema.length, "ema_residual": source.residual}
    save_model(folder, tensors, source.config, source.images, source.notes["shape"], extra)
