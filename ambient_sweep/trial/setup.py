"""What a trial needs before it starts: device, threads, images, and the reference that all trials of a sweep share."""

import functools
from collections.abc import Iterable
from pathlib import Path

import torch

from ambient_sweep.config import Config, EvaluationConfig
from ambient_sweep.data.dataset import ImageData, load_clean, load_data
from ambient_sweep.data.observed import levels
from ambient_sweep.data.pixels import pixel_lines
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import Encoders
from ambient_sweep.evaluation.encoders.torchscript import check_trusted
from ambient_sweep.evaluation.reference import (
    RealImages,
    Reference,
    compared,
    load_reference,
    reference_key,
    save_reference,
)
from ambient_sweep.latent.prepare import check_latents
from ambient_sweep.models import base_of, parameters
from ambient_sweep.object_store import fetch_folder
from ambient_sweep.stages.keys import TRAINED_ON, trained_on
from ambient_sweep.trial.records import write_json

REFERENCE, SPLIT = "reference", "split.json"

cached_data = functools.lru_cache(maxsize=2)(load_data)  # the images trained on, and those compared with


def use_device(config: Config) -> str:
    """The torch device of a worker, after giving torch as many threads as the worker has cores.

    Sums depend on the threads, so a config gives the same bits everywhere. Raises UserError where GPUs are asked for and
    torch sees none.
    """
    torch.set_num_threads(max(1, int(config.resources.cpus)))
    if config.resources.gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise UserError(f"resources.gpus: {config.resources.gpus} asked for, but torch finds no GPU; use 0")
    return "cuda"


def image_lines(config: Config) -> list[str]:
    """What the images that train are like, for people. Raises UserError where the model cannot use them."""
    data = cached_data(config.data)
    _check_model(config, data)
    return [*data.notes, *pixel_lines(data.train, config.model.sigma_data, noisy=data.observed is not None)]


def check_trials(configs: Iterable[Config]) -> ImageData:
    """The clean images of a sweep's configs. Raises UserError for bad ones, and for settings that do not go with them."""
    first, *_ = configs = list(configs)
    data, clean = cached_data(first.data), load_clean(first, cached_data)
    for config in {
        (c.observed, c.objective, c.model, c.sampling.sigma_max, c.distillation): c for c in configs
    }.values():
        levels(data, config.observed, keeps_clean(config))
        _check_model(config, data)
    return clean


def keeps_clean(config: Config) -> bool:
    """Whether training reads the clean images themselves."""
    return config.objective.kind == "ambient_high_clean_low"


def check_evaluation(clean: ImageData, config: EvaluationConfig) -> None:
    """Raises UserError where `prepare` would, without its costly part: too few images, or no weights of an encoder."""
    compared(RealImages.of_data(clean), config)
    encoders = Encoders(config)
    for distance in {*config.distances, config.similarity or config.fidelity} - {"fd_classifier"}:
        encoders.get(distance, "cpu")


def preparing(config: Config) -> str:
    """What `prepare` does, for those who wait for it."""
    encoders = ", ".join(dict.fromkeys(filter(None, (*config.evaluation.distances, config.evaluation.similarity))))
    return f"preparing what all trials are compared with: held-out images, encoded by {encoders}"


def _check_model(config: Config, data: ImageData) -> None:
    if config.model.kind == "lora" and data.store is not None:
        base = base_of(config.model)
        check_latents(data.store.info, base)
        parameters(config.model, data.shape)  # which builds it: its targets and blocks are known
        for key, sigma in (
            ("observed.sigma", config.observed.sigma),
            ("sampling.sigma_max", config.sampling.sigma_max),
        ):
            if sigma > base.sigmas[-1]:
                raise UserError(
                    f"{key}: {sigma:g} is above the noise levels of {base.folder}; use {base.highest:g} at most"
                )
    if config.objective.kind == "ambient_distilled":
        highest, sigma = levels(data, config.observed).max(), config.distillation.sigma
        if highest >= sigma:
            raise UserError(f"distillation.sigma: {sigma:g} must be above the images' noise levels, up to {highest:g}")
    if config.model.conditional and not data.classes:
        reason = data.unlabelled or "the images have no class labels; use model.conditional=false or images with labels"
        raise UserError(f"model.conditional: {reason}")


def prepare(config: Config, root: Path) -> list[str]:
    """Writes what all trials under `root` share, unless it is there: split.json, data.json and reference/.

    Returns what the images that train are like (`image_lines`). Raises UserError for bad images, for an encoder of the
    config's own without --trust, or where `root` began with other data or other evaluation settings.
    """
    check_trusted(config.evaluation)
    device, clean = use_device(config), load_clean(config, cached_data)
    fetch_folder(root / REFERENCE)
    if not (root / REFERENCE).exists():
        reference = Reference.build(clean, config.evaluation, device=device)
        write_json(root / TRAINED_ON, cached_data(config.data).trained_on())
        save_reference(reference, root / REFERENCE)
    shared_reference(config, root)
    write_json(root / SPLIT, clean.split())
    return image_lines(config)


def shared_reference(config: Config, root: Path) -> Reference:
    """The reference that `prepare` wrote.

    Raises UserError where `root` began with other data, training data among them, or other evaluation settings.
    """
    clean, source = load_clean(config, cached_data), config.data.path or config.data.source
    key = reference_key(clean, config.evaluation)
    reference = _loaded(str(root), key)
    if reference.settings.data_fingerprint != clean.fingerprint:
        raise UserError(f"{root}: began with other images than {source} holds now; use a new name")
    before = trained_on(root)
    trained = cached_data(config.data).trained_on()
    changed = [name for name, fingerprint in trained.items() if before.get(name) != fingerprint]
    if changed:
        raise UserError(
            f"{root}: began with other training data than {source} holds now ({', '.join(changed)} changed); restore "
            "them, or use a new name"
        )
    if reference.settings.key != key:
        raise UserError(f"{root}: began with other evaluation settings; use a new name")
    return reference


@functools.lru_cache(maxsize=1)
def _loaded(root: str, key: str) -> Reference:
    return load_reference(Path(root) / REFERENCE)
