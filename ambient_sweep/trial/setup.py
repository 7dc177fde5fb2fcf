"""What a trial needs before it starts: device, threads, images, and the reference that all trials of a sweep share."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from ambient_sweep.config import Config
from ambient_sweep.data.dataset import ImageData, load_clean, load_data
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation import Reference
from ambient_sweep.evaluation.reference import reference_key
from ambient_sweep.evaluation.reference_files import load_reference, save_reference
from ambient_sweep.trial.records import write_json

REFERENCE, SPLIT, TRAINED_ON = "reference", "split.json", "data.json"
SPOKEN = {
    "images": "images", "observed": "noisy observations", "levels": "own noise levels", "labels": "labels",
    "classes": "classes",
}  # fmt: skip

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
    """Writes what all trials under `root` share, where it is not there yet: split.json, data.json and reference/.

    Raises UserError for bad images, or where `root` began with other data, another split or other evaluation settings.
    """
    device = device_of(config)
    use_threads(config)
    clean = load_clean(config, cached_data)
    new = not (root / REFERENCE).exists()
    if new:
        reference = Reference.build(clean, config.evaluation, device=device)
        write_json(root / SPLIT, clean.split())
        _note_data(config, root)
        save_reference(reference, root / REFERENCE)
    reference = shared_reference(config, root)
    if not new:  # found to be the same; the notes may be of an older version, or damaged
        _check_split(clean, root)
        _note_data(config, root)
    return reference


def _check_split(clean: ImageData, root: Path) -> None:
    """Writes split.json anew where it is damaged. Raises UserError where it holds another split."""
    file, split = root / SPLIT, clean.split()
    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        theirs = None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); restore it, or use a new name") from None
    if isinstance(theirs, dict) and theirs.get("fingerprint", clean.fingerprint) != clean.fingerprint:
        raise UserError(f"{file}: holds another split than that of this run; remove it, and it is written anew")
    if theirs != split:
        write_json(file, split)


def _note_data(config: Config, root: Path) -> None:
    """Writes data.json, by which the training data are known again."""
    if not (root / TRAINED_ON).exists():
        write_json(root / TRAINED_ON, cached_data(config.data).trained_on())


def shared_reference(config: Config, root: Path) -> Reference:
    """The reference that `prepare` wrote.

    Raises UserError where `root` began with other data, training data among them, or other evaluation settings.
    """
    clean = load_clean(config, cached_data)
    key = reference_key(clean, config.evaluation)
    reference = _loaded(str(root), key)
    if reference.settings.data_fingerprint != clean.fingerprint:
        raise UserError(f"{root}: began with other images than {_source(config)} holds now; use a new name")
    _check_data(config, root, cached_data(config.data))
    if reference.key != key:
        raise UserError(f"{root}: began with other evaluation settings; use a new name")
    return reference


def _check_data(config: Config, root: Path, data: ImageData) -> None:
    """Raises UserError where `root` began with other training data, or this cannot be told: see `_unknown`."""
    file = root / TRAINED_ON
    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        for what in _unknown(config, data):
            raise UserError(
                f"{root}: began with an older version, which took no note of {SPOKEN[what]}, so that those in "
                f"{_source(config)} cannot be told from others; use a new name"
            ) from None
        return
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({error}); restore it, or use a new name") from None
    for what, mine in data.trained_on().items():
        if not isinstance(theirs, dict) or theirs.get(what) != mine:
            raise UserError(
                f"{root}: began with other {SPOKEN[what]} than {_source(config)} holds now; put the former back, or "
                "use a new name"
            )


def _unknown(config: Config, data: ImageData) -> Iterator[str]:
    """What the fingerprint of the images, which every version kept, does not settle.

    Observations drawn by a known seed follow from the images, and the labels of published files come with them.
    """
    if data.observed is not None and data.observed.seed is None:
        yield "observed"
    if data.train_sigma is not None:
        yield "levels"
    if config.model.conditional and config.data.source not in ("digits", "cifar10"):
        yield "labels"


def _source(config: Config) -> str:
    return config.data.path or config.data.source


@functools.lru_cache(maxsize=1)
def _loaded(root: str, key: str) -> Reference:
    return load_reference(Path(root) / REFERENCE)
