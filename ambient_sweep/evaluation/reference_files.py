"""A sweep's reference in a folder, which its trials share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ambient_sweep.config import EvaluationConfig
from ambient_sweep.errors import UserError
from ambient_sweep.evaluation.encoders import Classifier, empty_classifier
from ambient_sweep.evaluation.features import Encoders, Features, Mapped
from ambient_sweep.evaluation.fidelity import Statistics
from ambient_sweep.evaluation.memorization import Nearness
from ambient_sweep.evaluation.neighbours import Targets
from ambient_sweep.evaluation.reference import FORMAT, Reference, Settings
from ambient_sweep.storage import new_folder, sha256

SETTINGS_FILE = "reference.json"
TENSORS_FILE = "reference.safetensors"
TRAIN_FILE, SIMILAR_FILE = "train.npy", "similarity.npy"


def save_reference(reference: Reference, folder: Path) -> None:
    """Writes `folder`, whole or not at all; an existing one is replaced. Raises UserError where it cannot be written."""
    try:
        with new_folder(folder) as new:
            save_file(_tensors(reference), new / TENSORS_FILE)
            np.save(new / TRAIN_FILE, _rows(reference.train))
            if reference.similar is not None:
                np.save(new / SIMILAR_FILE, _rows(reference.similar))
            hashes = {path.name: sha256(path) for path in sorted(new.iterdir())}
            settings = vars(reference.settings) | {"evaluation": reference.config.model_dump(mode="json")}
            document = {"format": FORMAT, "sha256": hashes} | settings
            (new / SETTINGS_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None


def load_reference(folder: Path) -> Reference:
    """What `save_reference` wrote; the training images' thumbnails and features are read when they are used.

    Raises UserError, naming the file, where it is missing, damaged or of another version.
    """
    settings = _read_settings(folder)
    tensors = load_file(folder / TENSORS_FILE)
    config = settings.evaluation
    nearness = (tensors.get(f"heldout/{name}") for name in ("distances", "indices", "flips", "similarities"))
    return Reference(
        settings,
        Encoders(config, _classifier(settings, tensors)),
        {
            name: Statistics(tensors[f"{name}/mean"], tensors[f"{name}/root"], settings.heldout)
            for name in config.distances
        },
        tensors["features"],
        _mapped(folder / TRAIN_FILE),
        Nearness(*nearness),  # type: ignore[arg-type]
        None if config.similarity is None else _mapped(folder / SIMILAR_FILE),
    )


def _tensors(reference: Reference) -> dict[str, Tensor]:
    tensors = {"features": reference.features}
    tensors |= {f"heldout/{name}": each for name, each in vars(reference.heldout).items() if each is not None}
    for distance, statistics in reference.statistics.items():
        tensors[f"{distance}/mean"], tensors[f"{distance}/root"] = statistics.mean, statistics.root
    if reference.encoders.classifier is not None:
        weights = reference.encoders.classifier.state_dict()
        tensors |= {f"classifier/{name}": value for name, value in weights.items()}
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _classifier(settings: Settings, tensors: dict[str, Tensor]) -> Classifier | None:
    if settings.classes is None:
        return None
    classifier = empty_classifier(settings.shape[0], settings.classes)
    prefix = "classifier/"
    classifier.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    return classifier.eval().requires_grad_(False)


def _rows(targets: Targets) -> Features:
    return targets[0 : len(targets)].cpu().numpy()


def _mapped(path: Path) -> Mapped:
    return Mapped(np.load(path, mmap_mode="r", allow_pickle=False))


def _read_settings(folder: Path) -> Settings:
    """The checked settings in `folder`, whose files are those that were written with them."""
    path = folder / SETTINGS_FILE
    advice = "remove the folder and it will be made again"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, hashes = document.pop("format"), document.pop("sha256")
        found = {name: sha256(folder / name) for name in (TENSORS_FILE, *sorted({*hashes} - {TENSORS_FILE}))}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}; {advice}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged; {advice}") from None
    if version != FORMAT:
        raise UserError(f"{path}: has format {version}, this version reads {FORMAT}; {advice}")
    for name, actual in found.items():
        if actual != hashes[name]:
            raise UserError(f"{folder / name}: damaged (its sha256 is not the one in {SETTINGS_FILE}); {advice}")
    try:
        document["shape"] = tuple(document["shape"])
        document["evaluation"] = EvaluationConfig.model_validate(document["evaluation"])
        return Settings(**document)
    except (KeyError, TypeError, ValidationError):
        raise UserError(f"{path}: damaged; {advice}") from None
