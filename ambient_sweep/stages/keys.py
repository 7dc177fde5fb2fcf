"""The names of what is stored: the states of a run, and the evaluations made of them."""

import json
from pathlib import Path
from typing import Any

from ambient_sweep.config import Config
from ambient_sweep.config.positions import evaluated_lengths, snapshot_images
from ambient_sweep.errors import UserError
from ambient_sweep.stages.prefix import phase_starts, prefix_of
from ambient_sweep.storage import digest

FOLDER = "stages"  # in the folder of a sweep
TRAINED_ON = "data.json"  # fingerprints of the training data, in the folder of a sweep


def trained_on(root: Path) -> dict[str, str]:
    """Fingerprints of what the sweep in `root` trains on. Raises UserError where its data.json cannot be read."""
    file = root / TRAINED_ON
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error}); restore it, or use a new name") from None


def data_key(root: Path) -> str:
    """The fingerprint of all that the sweep in `root` trains on. Raises as `trained_on` does."""
    return digest(trained_on(root))[:24]


def images_of(key: str) -> int:
    """The position of a stored state, in images; 0 for any other name."""
    digits = key.partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def fork_points(config: Config, every_length: bool = False) -> tuple[int, ...]:
    """The positions, rising, at which a trial stores its state.

    The evaluated lengths up to where its own last phase begins, the start of each phase, and where it stops.
    `every_length`: all evaluated lengths, for trials that share their training to the end and are measured differently.
    """
    starts, last = phase_starts(config), config.length
    before = last if every_length else max(starts, default=last)
    return tuple(sorted({n for n in evaluated_lengths(config) if n <= before} | {*starts, last}))


def stage_keys(config: Config, data: str, every_length: bool = False) -> dict[int, str]:
    """The keys of the states that a trial stores, by position, rising; `data` as `data_key` gives it."""
    return {images: prefix_of(config).key(images, data) for images in fork_points(config, every_length)}


def evaluation_part(config: Config, images: int, reference_key: str) -> str:
    """The name of an evaluation of a state: a hash of all that it depends on beside the state."""
    settings: list[Any] = [
        reference_key,
        list(config.endpoints()),
        config.evaluation.model_dump(mode="json", exclude={"lengths", "endpoints"}),
        config.sampling.model_dump(mode="json"),
    ]
    if config.ema.kind == "power":
        settings.append(config.ema.length)
        if config.ema.length not in config.ema.tracked:  # rebuilt from the snapshots up to here
            settings.append([n for n in snapshot_images(config) if n < images])
    return f"evaluation-{digest(settings)[:24]}"
