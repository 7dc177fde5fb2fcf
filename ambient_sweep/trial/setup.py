"""What a trial needs before it starts: device, threads, images, and the reference that all trials of a sweep share."""

import functools
from pathlib import Path

import torch

from ambient_sweep.config import Config
from ambient_sweep.data.images import load_clean, load_data
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation import Reference
from ambient_sweep.evaluation.reference import reference_key
from ambient_sweep.results.records import write_json

REFERENCE = "reference"

cached_data = functools.lru_cache(maxsize=2)(load_data)  # what is trained on, and what it is compared with


def evaluated_lengths(config: Config) -> dict[int, float]:
    """Images -> fraction of the run, at which the trial is evaluated: the config's lengths up to its stop, and the stop."""
    stop = config.training.stop
    return {config.images_at(f): f for f in (*(f for f in config.evaluation.lengths if f < stop), stop)}


def device_of(config: Config) -> str:
    """The torch device of a worker. Raises UserError where GPUs are asked for and torch sees none."""
    if config.resources.gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError(f"resources.gpus: {config.resources.gpus} asked for, but torch finds no GPU here; use 0")
    return "cuda"


def use_threads(config: Config) -> None:
    """As many torch threads as a worker has cores: sums depend on it, so a config gives the same bits everywhere."""
    torch.set_num_threads(max(1, int(config.resources.cpus)))


def prepare(config: Config, root: Path) -> Reference:
    """Writes what all trials under `root` share, where it is not there yet: split.json and reference/.

    Raises UserError for bad images, or where `root` holds those of other data or other evaluation settings.
    """
    device = device_of(config)
    use_threads(config)
    clean = load_clean(config, cached_data)
    if not (root / REFERENCE).exists():
        reference = Reference.build(clean, config.evaluation, device=device)
        write_json(root / "split.json", clean.split())
        reference.save(root / REFERENCE)
    return shared_reference(config, root)


def shared_reference(config: Config, root: Path) -> Reference:
    """The reference that `prepare` wrote. Raises UserError where it is of other data or other evaluation settings."""
    clean = load_clean(config, cached_data)
    key = reference_key(clean, config.evaluation)
    reference = _loaded(str(root), key)
    if reference.settings.data_fingerprint != clean.fingerprint:
        source = config.data.path or config.data.source
        raise UserError(f"{root}: began with other images than {source} holds now; use a new name")
    if reference.key != key:
        raise UserError(f"{root}: began with other evaluation settings; use a new name")
    return reference


@functools.lru_cache(maxsize=1)
def _loaded(root: str, key: str) -> Reference:
    return Reference.load(Path(root) / REFERENCE)
